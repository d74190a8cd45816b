-- about: projected as its files hold it; the view projected shows floats
-- reads: projected/teacher=<name>/part-*.parquet
-- returns: topk_stored's columns; projection says which case it was; source_nll is the source's own, in 1/1024 nat
CREATE EXTERNAL TABLE projected_stored (
    sample_id    BIGINT UNSIGNED,
    pos          INT UNSIGNED,
    target_place SMALLINT UNSIGNED,
    target_other INT UNSIGNED,
    target_nll   INT UNSIGNED,
    tail_level   SMALLINT UNSIGNED,
    id_gaps      INT UNSIGNED[],
    base_level   SMALLINT UNSIGNED,
    levels       SMALLINT UNSIGNED[],
    draws        SMALLINT UNSIGNED,
    projection   VARCHAR,
    source_nll   INT UNSIGNED,
    teacher      VARCHAR
)
STORED AS PARQUET
PARTITIONED BY (teacher)
LOCATION '${RUN}/projected/';
