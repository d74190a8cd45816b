-- about: results of evaluations, item by item
-- reads: eval_items/model=<name>/part-*.parquet
-- returns: metric nll (nats), tokens and bytes for perplexity tasks, else acc, em, f1 ...
CREATE EXTERNAL TABLE eval_items (
    task    VARCHAR,
    item_id BIGINT,
    metric  VARCHAR,
    value   DOUBLE,
    stderr  DOUBLE,
    output  VARCHAR,
    model   VARCHAR
)
STORED AS PARQUET
PARTITIONED BY (model)
LOCATION '${RUN}/eval_items/';
