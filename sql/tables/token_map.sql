-- about: how ids of a source vocabulary translate to the pivot's
-- reads: token_map/teacher=<name>/part-*.parquet
-- returns: method is special, exact, counted, prefix or edited; rank 1 is the best
CREATE EXTERNAL TABLE token_map (
    source_id     BIGINT,
    pivot_id      BIGINT,
    count         BIGINT,
    weight        FLOAT,
    edit_distance INT,
    method        VARCHAR,
    rank          INT,
    teacher       VARCHAR
)
STORED AS PARQUET
PARTITIONED BY (teacher)
LOCATION '${RUN}/token_map/';
