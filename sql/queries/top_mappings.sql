-- about: the translations of the vocabulary map that matter most, by how often they were seen
-- reads: token_map, alignment, models, vocab
-- returns: teacher, source_id, source (display), pivot_id, pivot (display), count (alignments of the pivot token in which the source token occurs; null where the run has no alignment), weight, method
-- param: teacher = '' — only this source; all if empty
-- param: method = '' — only this method (special, exact, counted, prefix, edited); all but special if empty
-- param: limit = 30 — rows at most
-- Only the map `ms` counts while it is made; for the others the alignment is counted here.
WITH wanted AS (
    SELECT teacher, source_id, pivot_id, count, weight, method
    FROM token_map
    WHERE rank = 1
        AND ($teacher = '' OR teacher = $teacher)
        AND (method = $method OR ($method = '' AND method <> 'special'))
),
maps AS (
    SELECT teacher, SUM(count) > 0 AS has_counts
    FROM token_map
    WHERE $teacher = '' OR teacher = $teacher
    GROUP BY teacher
),
aligned AS (
    SELECT DISTINCT teacher
    FROM alignment
    WHERE teacher IN (SELECT teacher FROM maps WHERE NOT has_counts)
),
seen AS (
    SELECT teacher, source_id, pivot_id, COUNT(*) AS count
    FROM (
        SELECT teacher, pivot_id, unnest(array_distinct(source_ids)) AS source_id
        FROM alignment
        WHERE kind <> 'none' AND teacher IN (SELECT teacher FROM maps WHERE NOT has_counts)
    )
    GROUP BY teacher, source_id, pivot_id
),
counted AS (
    SELECT
        w.teacher,
        w.source_id,
        w.pivot_id,
        CASE
            WHEN m.has_counts THEN w.count
            WHEN a.teacher IS NOT NULL THEN COALESCE(n.count, 0)
        END AS count,
        w.weight,
        w.method
    FROM wanted AS w
    JOIN maps AS m ON m.teacher = w.teacher
    LEFT JOIN aligned AS a ON a.teacher = w.teacher
    LEFT JOIN seen AS n
        ON n.teacher = w.teacher AND n.source_id = w.source_id AND n.pivot_id = w.pivot_id
)
SELECT
    c.teacher,
    c.source_id,
    s.token AS source,
    c.pivot_id,
    p.token AS pivot,
    c.count,
    c.weight,
    c.method
FROM counted AS c
LEFT JOIN models AS source_model ON source_model.name = c.teacher
LEFT JOIN vocab AS s ON s.vocab = source_model.vocabulary AND s.id = c.source_id
LEFT JOIN (
    SELECT v.id, v.token
    FROM vocab AS v
    JOIN models AS pivot_model ON pivot_model.vocabulary = v.vocab AND pivot_model.role = 'pivot'
) AS p ON p.id = c.pivot_id
ORDER BY c.count DESC NULLS LAST, c.teacher, c.source_id
LIMIT $limit;
