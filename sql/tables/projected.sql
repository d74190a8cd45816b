-- about: a source's distributions in the pivot's vocabulary
-- reads: projected/teacher=<name>/part-*.parquet
-- returns: topk's columns; target_logprob is tail_logprob (an upper bound) where the list lacks the target; projection says which case it was; source_nll is the source's own
CREATE EXTERNAL TABLE projected (
    sample_id      BIGINT UNSIGNED,
    pos            INT UNSIGNED,
    target_id      INT UNSIGNED,
    target_logprob FLOAT,
    tail_logprob   FLOAT,
    ids            INT UNSIGNED[],
    logprobs       FLOAT[],
    projection     VARCHAR,
    source_nll     FLOAT,
    teacher        VARCHAR
)
STORED AS PARQUET
PARTITIONED BY (teacher)
LOCATION '${RUN}/projected/';
