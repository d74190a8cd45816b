-- about: top-k distributions in the teacher's own vocabulary
-- reads: topk/teacher=<name>/part-*.parquet
-- returns: row pos is the distribution of token pos + 1 (target_id); natural logarithms; tail_logprob is the mass outside the list
CREATE EXTERNAL TABLE topk (
    sample_id      BIGINT UNSIGNED,
    pos            INT UNSIGNED,
    target_id      INT UNSIGNED,
    target_logprob FLOAT,
    tail_logprob   FLOAT,
    ids            INT UNSIGNED[],
    logprobs       FLOAT[],
    teacher        VARCHAR
)
STORED AS PARQUET
PARTITIONED BY (teacher)
LOCATION '${RUN}/topk/';
