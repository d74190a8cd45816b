-- about: what the pivot is trained towards
-- reads: targets/fusion=<name>/part-*.parquet
-- returns: probs and tail sum to one; winner names the model whose distribution it is
CREATE EXTERNAL TABLE targets (
    sample_id BIGINT UNSIGNED,
    pos       INT UNSIGNED,
    ids       INT UNSIGNED[],
    probs     FLOAT[],
    tail      FLOAT,
    winner    VARCHAR,
    fusion    VARCHAR
)
STORED AS PARQUET
PARTITIONED BY (fusion)
LOCATION '${RUN}/targets/';
