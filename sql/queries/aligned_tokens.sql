-- about: the tokens of one sample side by side: each pivot token with the source tokens that it is aligned with
-- reads: alignment, models, vocab
-- returns: teacher, pos, kind, pivot (display), source (the linked tokens' display, in order; null where one is not known), source_begin, source_end, source_pos (the source position whose distribution is taken there; null where there is none)
-- param: teacher = '' — only this source; all if empty
-- param: sample = 0 — the sample_id, as in worst_aligned_samples
WITH links AS (
    SELECT *
    FROM alignment
    WHERE sample_id = $sample AND (teacher = $teacher OR $teacher = '')
),
linked AS (
    SELECT
        teacher,
        pos,
        unnest(source_ids) AS source_id,
        unnest(range(1, CAST(array_length(source_ids) AS BIGINT) + 1)) AS place
    FROM links
),
sources AS (
    SELECT
        l.teacher,
        l.pos,
        CASE WHEN COUNT(v.token) = COUNT(*)
            THEN array_to_string(array_agg(v.token ORDER BY l.place), ' ')
        END AS source
    FROM linked AS l
    LEFT JOIN models AS m ON m.name = l.teacher
    LEFT JOIN vocab AS v ON v.vocab = m.vocabulary AND v.id = l.source_id
    GROUP BY l.teacher, l.pos
)
SELECT
    l.teacher,
    l.pos,
    l.kind,
    p.token AS pivot,
    s.source,
    l.source_begin,
    l.source_end,
    l.source_pos
FROM links AS l
LEFT JOIN (
    SELECT v.id, v.token
    FROM vocab AS v
    JOIN models AS m ON m.vocabulary = v.vocab AND m.role = 'pivot'
) AS p ON p.id = l.pivot_id
LEFT JOIN sources AS s ON s.teacher = l.teacher AND s.pos = l.pos
ORDER BY l.teacher, l.pos;
