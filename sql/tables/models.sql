-- about: the models of the run
-- reads: models/part-*.parquet
-- returns: role is pivot or source; vocabulary names the partition of vocab
CREATE EXTERNAL TABLE models (
    name         VARCHAR,
    role         VARCHAR,
    vocabulary   VARCHAR,
    location     VARCHAR,
    digest       VARCHAR,
    architecture VARCHAR,
    parameters   BIGINT
)
STORED AS PARQUET
LOCATION '${RUN}/models/';
