-- about: source tokens that translate to several pivot tokens, by how many sightings the best one does not cover
-- reads: token_map, models, vocab
-- returns: teacher, source_id, source (display), count (sightings), candidates, pivot_id, pivot (display) and weight of the best, entropy (nats, of the weights)
-- param: teacher = '' — only this source; all if empty
-- param: limit = 30 — rows at most
SELECT
    a.teacher,
    a.source_id,
    s.token AS source,
    a.sightings AS count,
    a.candidates,
    b.pivot_id,
    p.token AS pivot,
    b.weight,
    a.entropy
FROM (
    SELECT
        teacher,
        source_id,
        SUM(count) AS sightings,
        COUNT(*) AS candidates,
        -SUM(CASE WHEN weight > 0 THEN weight * ln(CAST(weight AS DOUBLE)) ELSE 0.0 END) AS entropy
    FROM token_map
    WHERE $teacher = '' OR teacher = $teacher
    GROUP BY teacher, source_id
    HAVING COUNT(*) > 1
) AS a
JOIN token_map AS b ON b.teacher = a.teacher AND b.source_id = a.source_id AND b.rank = 1
LEFT JOIN models AS source_model ON source_model.name = a.teacher
LEFT JOIN vocab AS s ON s.vocab = source_model.vocabulary AND s.id = a.source_id
LEFT JOIN (
    SELECT v.id, v.token
    FROM vocab AS v
    JOIN models AS pivot_model ON pivot_model.vocabulary = v.vocab AND pivot_model.role = 'pivot'
) AS p ON p.id = b.pivot_id
ORDER BY a.sightings * (1 - b.weight) DESC, a.teacher, a.source_id
LIMIT $limit;
