-- about: log-probabilities are numbers, and not above 0
-- reads: topk, projected
-- returns: check, level, artifact, sample_id, detail, value
-- A tail, and a projected target that lies in it, may be minus infinity: there is nothing there.
-- The largest target_nll stands for it, and a level above 432 for what is no number.
SELECT
    'topk_finite' AS "check",
    'error' AS level,
    concat(kind, '/teacher=', teacher) AS artifact,
    CAST(sample_id AS BIGINT) AS sample_id,
    concat('position ', pos, ': a log-probability is no number, or above 0') AS detail,
    CAST(target_logprob AS DOUBLE) AS value
FROM (
    SELECT 'topk' AS kind, teacher, sample_id, pos, target_logprob, tail_logprob, logprobs FROM topk
    UNION ALL
    SELECT 'projected' AS kind, teacher, sample_id, pos, target_logprob, tail_logprob, logprobs FROM projected
)
WHERE isnan(target_logprob)
    OR isnan(tail_logprob)
    OR target_logprob > 0.001
    OR tail_logprob > 0.001
    OR (kind = 'topk' AND target_logprob < -4e6)
    OR isnan(array_max(logprobs))
    OR array_max(logprobs) > 0.001;
