-- about: the vocabularies
-- reads: vocab/vocab=<name>/part-*.parquet
-- returns: one row per token; role is bos, eos, pad, unk, turn_start, turn_end or null
CREATE EXTERNAL TABLE vocab (
    id      BIGINT,
    token   VARCHAR,
    bytes   BYTEA,
    special BOOLEAN,
    role    VARCHAR,
    vocab   VARCHAR
)
STORED AS PARQUET
PARTITIONED BY (vocab)
LOCATION '${RUN}/vocab/';
