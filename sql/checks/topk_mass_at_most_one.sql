-- about: the probabilities of a list and its tail sum to one
-- reads: topk, projected
-- returns: check, level, artifact, sample_id, detail, value
-- Probabilities are rounded when stored, which moves their sum by 2 % at most.
SELECT
    'topk_mass_at_most_one' AS "check",
    CASE WHEN mass > 1.02 THEN 'error' ELSE 'warning' END AS level,
    concat(kind, '/teacher=', teacher) AS artifact,
    CAST(sample_id AS BIGINT) AS sample_id,
    concat('position ', pos, ': the probabilities and the tail sum to ', mass) AS detail,
    mass AS value
FROM (
    SELECT kind, teacher, sample_id, pos, SUM(exp(CAST(logprob AS DOUBLE))) AS mass
    FROM (
        SELECT 'topk' AS kind, teacher, sample_id, pos, unnest(array_append(logprobs, tail_logprob)) AS logprob
        FROM topk
        UNION ALL
        SELECT 'projected' AS kind, teacher, sample_id, pos, unnest(array_append(logprobs, tail_logprob)) AS logprob
        FROM projected
        WHERE projection NOT IN ('skipped', 'missing')
    )
    GROUP BY kind, teacher, sample_id, pos
)
WHERE NOT (mass BETWEEN 0.98 AND 1.02);
