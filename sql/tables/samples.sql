-- about: samples as read from the corpus
-- reads: samples/part-*.parquet
-- returns: one row per sample, sorted by sample_id
CREATE EXTERNAL TABLE samples (
    sample_id   BIGINT UNSIGNED,
    source_file VARCHAR,
    source_row  BIGINT UNSIGNED,
    piece       INT UNSIGNED,
    split       VARCHAR,
    messages    STRUCT(role VARCHAR, content VARCHAR)[]
)
STORED AS PARQUET
LOCATION '${RUN}/samples/';
