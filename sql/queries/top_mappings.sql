-- about: the translations of the vocabulary map that matter most, by how often they were seen
-- reads: token_map, models, vocab
-- returns: teacher, source_id, source (display), pivot_id, pivot (display), count, weight, method
-- param: teacher = '' — only this source; all if empty
-- param: method = '' — only this method (special, exact, counted, prefix, edited); all if empty
-- param: limit = 30 — rows at most
SELECT
    m.teacher,
    m.source_id,
    s.token AS source,
    m.pivot_id,
    p.token AS pivot,
    m.count,
    m.weight,
    m.method
FROM token_map AS m
LEFT JOIN models AS source_model ON source_model.name = m.teacher
LEFT JOIN vocab AS s ON s.vocab = source_model.vocabulary AND s.id = m.source_id
LEFT JOIN (
    SELECT v.id, v.token
    FROM vocab AS v
    JOIN models AS pivot_model ON pivot_model.vocabulary = v.vocab AND pivot_model.role = 'pivot'
) AS p ON p.id = m.pivot_id
WHERE m.rank = 1
    AND ($teacher = '' OR m.teacher = $teacher)
    AND ($method = '' OR m.method = $method)
ORDER BY m.count DESC, m.teacher, m.source_id
LIMIT $limit;
