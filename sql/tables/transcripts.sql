-- about: the canonical text of each sample
-- reads: transcripts/template=<name>/part-*.parquet
-- returns: half-open spans in bytes that cover text; bos: the template writes BOS before it
CREATE EXTERNAL TABLE transcripts (
    sample_id BIGINT,
    text      VARCHAR,
    bos       BOOLEAN,
    spans     STRUCT(role VARCHAR, byte_start BIGINT, byte_end BIGINT, supervised BOOLEAN)[],
    template  VARCHAR
)
STORED AS PARQUET
PARTITIONED BY (template)
LOCATION '${RUN}/transcripts/';
