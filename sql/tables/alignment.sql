-- about: source positions that correspond to each pivot position
-- reads: alignment/teacher=<name>/part-*.parquet
-- returns: one row per pivot token; source_pos ends at the same byte; kind is 1-1, 1-n, n-1, n-m or none
CREATE EXTERNAL TABLE alignment (
    sample_id    BIGINT,
    pos          BIGINT,
    pivot_id     BIGINT,
    source_begin BIGINT,
    source_end   BIGINT,
    source_ids   BIGINT[],
    source_pos   BIGINT,
    kind         VARCHAR,
    teacher      VARCHAR
)
STORED AS PARQUET
PARTITIONED BY (teacher)
LOCATION '${RUN}/alignment/';
