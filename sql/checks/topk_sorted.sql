-- about: lists of distributions fall in probability and have as many tokens as log-probabilities
-- reads: topk, projected
-- returns: check, level, artifact, sample_id, detail, value
SELECT
    'topk_sorted' AS "check",
    'error' AS level,
    concat(kind, '/teacher=', teacher) AS artifact,
    CAST(sample_id AS BIGINT) AS sample_id,
    concat('position ', pos, ': the log-probabilities do not fall, or are not as many as the ids') AS detail,
    CAST(COALESCE(array_length(logprobs), 0) AS DOUBLE) AS value
FROM (
    SELECT 'topk' AS kind, teacher, sample_id, pos, ids, logprobs FROM topk
    UNION ALL
    SELECT 'projected' AS kind, teacher, sample_id, pos, ids, logprobs FROM projected
)
WHERE array_sort(logprobs, 'DESC') <> logprobs
    OR COALESCE(array_length(ids), 0) <> COALESCE(array_length(logprobs), 0);
