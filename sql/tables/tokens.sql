-- about: token ids of each sample in each vocabulary
-- reads: tokens/vocab=<name>/template=<name>/part-*.parquet
-- returns: three parallel lists per sample; byte_end in bytes of the transcript
CREATE EXTERNAL TABLE tokens (
    sample_id  BIGINT,
    ids        BIGINT[],
    byte_end   BIGINT[],
    supervised BOOLEAN[],
    vocab      VARCHAR,
    template   VARCHAR
)
STORED AS PARQUET
PARTITIONED BY (vocab, template)
LOCATION '${RUN}/tokens/';
