-- about: a list has no token twice, and as many tokens as probabilities
-- reads: topk_stored, projected_stored, targets_stored
-- returns: check, level, artifact, sample_id, detail, value
SELECT
    'topk_sorted' AS "check",
    'error' AS level,
    artifact,
    CAST(sample_id AS BIGINT) AS sample_id,
    concat('position ', pos, ': a token is listed twice, or there are not as many as probabilities') AS detail,
    CAST(COALESCE(array_length(levels), 0) AS DOUBLE) AS value
FROM (
    SELECT concat('topk/teacher=', teacher) AS artifact, sample_id, pos, id_gaps, levels FROM topk_stored
    UNION ALL
    SELECT concat('projected/teacher=', teacher) AS artifact, sample_id, pos, id_gaps, levels FROM projected_stored
    UNION ALL
    SELECT concat('targets/fusion=', fusion) AS artifact, sample_id, pos, id_gaps, levels FROM targets_stored
)
WHERE array_has(array_slice(id_gaps, 2, CAST(array_length(id_gaps) AS BIGINT)), 0)
    OR COALESCE(array_length(id_gaps), 0) <> COALESCE(array_length(levels), 0);
