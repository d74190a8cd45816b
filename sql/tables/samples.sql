-- about: samples as read from the corpus
-- reads: samples/part-*.parquet
-- returns: one row per sample, sorted by sample_id
CREATE EXTERNAL TABLE samples (
    sample_id       BIGINT,
    source_file     VARCHAR,
    source_row      BIGINT,
    piece           BIGINT,
    split           VARCHAR,
    messages        STRUCT(role VARCHAR, content VARCHAR, learned BOOLEAN, fields VARCHAR)[],
    tools           VARCHAR,
    template_kwargs VARCHAR
)
STORED AS PARQUET
LOCATION '${RUN}/samples/';
