-- about: topk as its files hold it; the view topk shows floats
-- reads: topk/teacher=<name>/part-*.parquet
-- returns: ids as gaps, in rising order; probability (level / 432)^4 with level = base_level + levels[i], or level / draws where draws > 0; target_place is the true token's place in the list, else target_other is its id; target_nll in 1/1024 nat
CREATE EXTERNAL TABLE topk_stored (
    sample_id    BIGINT,
    pos          BIGINT,
    target_place INT,
    target_other BIGINT,
    target_nll   BIGINT,
    tail_level   INT,
    id_gaps      BIGINT[],
    base_level   INT,
    levels       INT[],
    draws        INT,
    teacher      VARCHAR
)
STORED AS PARQUET
PARTITIONED BY (teacher)
LOCATION '${RUN}/topk/';
