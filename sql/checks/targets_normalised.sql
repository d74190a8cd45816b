-- about: the probabilities of a target and its tail sum to one
-- reads: targets
-- returns: check, level, artifact, sample_id, detail, value
-- Probabilities are rounded when stored, which moves their sum by 2 % at most.
SELECT
    'targets_normalised' AS "check",
    'error' AS level,
    concat('targets/fusion=', fusion) AS artifact,
    CAST(sample_id AS BIGINT) AS sample_id,
    concat('position ', pos, ': the probabilities and the tail sum to ', mass) AS detail,
    mass AS value
FROM (
    SELECT fusion, sample_id, pos, SUM(CAST(prob AS DOUBLE)) AS mass
    FROM (SELECT fusion, sample_id, pos, unnest(array_append(probs, tail)) AS prob FROM targets)
    GROUP BY fusion, sample_id, pos
)
WHERE NOT (mass BETWEEN 0.98 AND 1.02);
