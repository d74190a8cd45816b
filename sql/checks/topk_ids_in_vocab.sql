-- about: ids of distributions belong to the teacher's vocabulary
-- reads: topk_stored, models, vocab
-- The sum of the gaps is the highest id of a list.
-- returns: check, level, artifact, sample_id, detail, value
SELECT
    'topk_ids_in_vocab' AS "check",
    'error' AS level,
    concat('topk/teacher=', t.teacher) AS artifact,
    CAST(t.sample_id AS BIGINT) AS sample_id,
    concat('position ', t.pos, ': id ', t.id, ' in a vocabulary of ', v.size, ' tokens') AS detail,
    CAST(t.id AS DOUBLE) AS value
FROM (
    SELECT teacher, sample_id, pos, CAST(greatest(COALESCE(array_sum(id_gaps), 0), COALESCE(target_other, 0)) AS BIGINT) AS id
    FROM topk_stored
) AS t
JOIN models AS m ON m.name = t.teacher
JOIN (SELECT vocab, MAX(id) + 1 AS size FROM vocab GROUP BY vocab) AS v ON v.vocab = m.vocabulary
WHERE t.id >= v.size;
