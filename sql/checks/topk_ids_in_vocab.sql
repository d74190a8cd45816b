-- about: ids of distributions belong to the teacher's vocabulary
-- reads: topk, models, vocab
-- returns: check, level, artifact, sample_id, detail, value
SELECT
    'topk_ids_in_vocab' AS "check",
    'error' AS level,
    concat('topk/teacher=', t.teacher) AS artifact,
    CAST(t.sample_id AS BIGINT) AS sample_id,
    concat('position ', t.pos, ': id ', t.id, ' in a vocabulary of ', v.size, ' tokens') AS detail,
    CAST(t.id AS DOUBLE) AS value
FROM (
    SELECT teacher, sample_id, pos, greatest(array_max(ids), target_id) AS id
    FROM topk
) AS t
JOIN models AS m ON m.name = t.teacher
JOIN (SELECT vocab, MAX(id) + 1 AS size FROM vocab GROUP BY vocab) AS v ON v.vocab = m.vocabulary
WHERE t.id >= v.size;
