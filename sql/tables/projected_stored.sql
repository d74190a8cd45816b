-- about: projected as its files hold it; the view projected shows floats
-- reads: projected/teacher=<name>/part-*.parquet
-- returns: topk_stored's columns; projection says which case it was; source_nll is the source's own, in 1/1024 nat
CREATE EXTERNAL TABLE projected_stored (
    sample_id    BIGINT,
    pos          BIGINT,
    target_place INT,
    target_other BIGINT,
    target_nll   BIGINT,
    tail_level   INT,
    id_gaps      BIGINT[],
    base_level   INT,
    levels       INT[],
    draws        INT,
    projection   VARCHAR,
    source_nll   BIGINT,
    teacher      VARCHAR
)
STORED AS PARQUET
PARTITIONED BY (teacher)
LOCATION '${RUN}/projected/';
