-- about: training log
-- reads: steps/target=<name>/part-*.parquet
-- returns: one row per optimiser step; losses in nats per token
CREATE EXTERNAL TABLE steps (
    step        BIGINT,
    lr          DOUBLE,
    loss        DOUBLE,
    loss_clm    DOUBLE,
    loss_fusion DOUBLE,
    kl          DOUBLE,
    grad_norm   DOUBLE,
    tokens      BIGINT,
    valid_loss  DOUBLE,
    wall_ms     DOUBLE,
    target      VARCHAR
)
STORED AS PARQUET
PARTITIONED BY (target)
LOCATION '${RUN}/steps/';
