-- about: source positions that correspond to each pivot position
-- reads: alignment/teacher=<name>/part-*.parquet
-- returns: one row per pivot token; source_pos ends at the same byte; kind is 1-1, 1-n, n-1, n-m or none
CREATE EXTERNAL TABLE alignment (
    sample_id    BIGINT UNSIGNED,
    pos          INT UNSIGNED,
    pivot_id     INT UNSIGNED,
    source_begin INT UNSIGNED,
    source_end   INT UNSIGNED,
    source_ids   INT UNSIGNED[],
    source_pos   INT UNSIGNED,
    kind         VARCHAR,
    teacher      VARCHAR
)
STORED AS PARQUET
PARTITIONED BY (teacher)
LOCATION '${RUN}/alignment/';
