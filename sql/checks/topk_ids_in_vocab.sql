-- about: ids of distributions belong to the teacher's vocabulary
-- reads: topk_stored, models, vocab
-- The sum of the gaps is the highest id of a list. A teacher that `models` does not name is taken to
-- have the vocabulary of its own name; where that is not in the run, one warning says so.
-- returns: check, level, artifact, sample_id, detail, value
WITH sizes AS (
    SELECT t.teacher, v.size
    FROM (SELECT DISTINCT teacher FROM topk_stored) AS t
    LEFT JOIN models AS m ON m.name = t.teacher
    LEFT JOIN (SELECT vocab, CAST(MAX(id) AS BIGINT) + 1 AS size FROM vocab GROUP BY vocab) AS v
        ON v.vocab = COALESCE(m.vocabulary, t.teacher)
)
SELECT
    'topk_ids_in_vocab' AS "check",
    'error' AS level,
    concat('topk/teacher=', t.teacher) AS artifact,
    CAST(t.sample_id AS BIGINT) AS sample_id,
    concat('position ', t.pos, ': id ', t.id, ' in a vocabulary of ', s.size, ' tokens') AS detail,
    CAST(t.id AS DOUBLE) AS value
FROM (
    SELECT teacher, sample_id, pos, CAST(greatest(COALESCE(array_sum(id_gaps), 0), COALESCE(target_other, 0)) AS BIGINT) AS id
    FROM topk_stored
) AS t
JOIN sizes AS s ON s.teacher = t.teacher
WHERE t.id >= s.size
UNION ALL
SELECT
    'topk_ids_in_vocab',
    'warning',
    concat('topk/teacher=', teacher),
    CAST(NULL AS BIGINT),
    'its vocabulary is not in the run, or `models` does not name it: ids were not compared',
    CAST(NULL AS DOUBLE)
FROM sizes
WHERE size IS NULL;
