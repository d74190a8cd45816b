-- about: how ids of a source vocabulary translate to the pivot's
-- reads: token_map/teacher=<name>/part-*.parquet
-- returns: method is special, exact, counted, prefix or edited; rank 1 is the best
CREATE EXTERNAL TABLE token_map (
    source_id     INT UNSIGNED,
    pivot_id      INT UNSIGNED,
    count         BIGINT UNSIGNED,
    weight        FLOAT,
    edit_distance SMALLINT UNSIGNED,
    method        VARCHAR,
    rank          SMALLINT UNSIGNED,
    teacher       VARCHAR
)
STORED AS PARQUET
PARTITIONED BY (teacher)
LOCATION '${RUN}/token_map/';
