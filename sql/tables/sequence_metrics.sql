-- about: negative log-likelihood of each sample under each teacher
-- reads: sequence_metrics/teacher=<name>/part-*.parquet
-- returns: nll in nats over supervised content tokens; bytes of content
CREATE EXTERNAL TABLE sequence_metrics (
    sample_id BIGINT,
    nll       DOUBLE,
    tokens    BIGINT,
    bytes     BIGINT,
    teacher   VARCHAR
)
STORED AS PARQUET
PARTITIONED BY (teacher)
LOCATION '${RUN}/sequence_metrics/';
