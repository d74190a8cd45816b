-- about: targets as its files hold it; the view targets shows floats
-- reads: targets/fusion=<name>/part-*.parquet
-- returns: ids as gaps, in rising order; probability (level / 432)^4 with level = base_level + levels[i], or level / draws where draws > 0; winner names the model whose distribution it is
CREATE EXTERNAL TABLE targets_stored (
    sample_id  BIGINT,
    pos        BIGINT,
    id_gaps    BIGINT[],
    base_level INT,
    levels     INT[],
    tail_level INT,
    draws      INT,
    winner     VARCHAR,
    fusion     VARCHAR
)
STORED AS PARQUET
PARTITIONED BY (fusion)
LOCATION '${RUN}/targets/';
