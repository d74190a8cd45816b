-- about: one sample's tokens side by side, the pivot's and a source's
-- reads: alignment, models, vocab
-- returns: teacher, pos (of the pivot's token), pivot (display), source (its tokens, in order), kind, same_end (a source token ends at the same byte)
-- param: sample = 0 — sample_id; worst_aligned_samples lists candidates
-- param: teacher = '' — only this source; all if empty
SELECT
    a.teacher,
    a.pos,
    p.token AS pivot,
    COALESCE(s.tokens, '') AS source,
    a.kind,
    a.source_pos IS NOT NULL AS same_end
FROM alignment AS a
LEFT JOIN (
    SELECT v.id, v.token
    FROM vocab AS v
    JOIN models AS m ON m.vocabulary = v.vocab AND m.role = 'pivot'
) AS p ON p.id = a.pivot_id
LEFT JOIN (
    SELECT u.teacher, u.pos, string_agg(v.token, ' ' ORDER BY u.place) AS tokens
    FROM (
        SELECT
            teacher,
            pos,
            unnest(source_ids) AS id,
            unnest(range(0, CAST(array_length(source_ids) AS BIGINT))) AS place
        FROM alignment
        WHERE sample_id = $sample AND ($teacher = '' OR teacher = $teacher)
    ) AS u
    JOIN models AS m ON m.name = u.teacher
    JOIN vocab AS v ON v.vocab = m.vocabulary AND v.id = u.id
    GROUP BY u.teacher, u.pos
) AS s ON s.teacher = a.teacher AND s.pos = a.pos
WHERE a.sample_id = $sample AND ($teacher = '' OR a.teacher = $teacher)
ORDER BY a.teacher, a.pos;
