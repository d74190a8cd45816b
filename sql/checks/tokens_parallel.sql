-- about: the lists of a sample's tokens are parallel, and byte ends never decrease
-- reads: tokens
-- returns: check, level, artifact, sample_id, detail, value
SELECT
    'tokens_parallel' AS "check",
    'error' AS level,
    concat('tokens/vocab=', vocab, '/template=', template) AS artifact,
    CAST(sample_id AS BIGINT) AS sample_id,
    'ids, byte_end and supervised differ in length, or byte_end decreases' AS detail,
    CAST(COALESCE(array_length(ids), 0) AS DOUBLE) AS value
FROM tokens
WHERE COALESCE(array_length(ids), 0) <> COALESCE(array_length(byte_end), 0)
    OR COALESCE(array_length(ids), 0) <> COALESCE(array_length(supervised), 0)
    OR array_sort(byte_end) <> byte_end;
