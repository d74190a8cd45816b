-- about: projected as its files hold it; the view projected shows floats
-- reads: projected/teacher=<name>/part-*.parquet
-- returns: topk_stored's columns; projection says which case it was; source_nll and owed are in 1/1024 nat, unknown and short shares in 1/255; named says whether the source's own tokens stand for the true one (null where its readings are not carried)
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
    owed         BIGINT,
    unknown      INT,
    short        INT,
    named        BOOLEAN,
    teacher      VARCHAR
)
STORED AS PARQUET
PARTITIONED BY (teacher)
LOCATION '${RUN}/projected/';
