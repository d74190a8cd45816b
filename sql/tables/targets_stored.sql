-- about: targets as its files hold it; the view targets shows floats
-- reads: targets/fusion=<name>/part-*.parquet
-- returns: ids as gaps, in rising order; probability (level / 432)^4 with level = base_level + levels[i], or level / draws where draws > 0; winner names the model whose distribution it is
CREATE EXTERNAL TABLE targets_stored (
    sample_id  BIGINT UNSIGNED,
    pos        INT UNSIGNED,
    id_gaps    INT UNSIGNED[],
    base_level SMALLINT UNSIGNED,
    levels     SMALLINT UNSIGNED[],
    tail_level SMALLINT UNSIGNED,
    draws      SMALLINT UNSIGNED,
    winner     VARCHAR,
    fusion     VARCHAR
)
STORED AS PARQUET
PARTITIONED BY (fusion)
LOCATION '${RUN}/targets/';
