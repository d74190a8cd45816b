-- about: what each model contributed to a merge
-- reads: merge_stats/merge=<name>/part-*.parquet
-- returns: one row per tensor and model
CREATE EXTERNAL TABLE merge_stats (
    tensor            VARCHAR,
    model             VARCHAR,
    coefficient       DOUBLE,
    selected_fraction DOUBLE,
    kept_fraction     DOUBLE,
    delta_norm        DOUBLE,
    merge             VARCHAR
)
STORED AS PARQUET
PARTITIONED BY (merge)
LOCATION '${RUN}/merge_stats/';
