-- about: ids of tokens, distributions, alignments, maps, projections and targets belong to their vocabularies
-- reads: tokens, topk_stored, alignment, token_map, projected_stored, targets_stored, models, vocab
-- returns: check, level, artifact, sample_id, detail, value
-- A teacher that `models` does not name is taken to have the vocabulary of its own name. Where
-- vocabularies are not in the run, one warning counts the artifacts whose ids were not compared.
-- The sum of the gaps is the highest id of a list.
WITH sizes AS (
    SELECT vocab AS name, CAST(MAX(id) AS BIGINT) + 1 AS size FROM vocab GROUP BY vocab
),
pivot AS (
    SELECT MIN(vocabulary) AS name FROM models WHERE role = 'pivot'
),
sources AS (
    SELECT a.teacher, COALESCE(m.vocabulary, a.teacher) AS name
    FROM (
        SELECT DISTINCT teacher FROM alignment
        UNION
        SELECT DISTINCT teacher FROM token_map
        UNION
        SELECT DISTINCT teacher FROM topk_stored
    ) AS a
    LEFT JOIN models AS m ON m.name = a.teacher
),
of_pivot AS (
    SELECT concat('alignment/teacher=', teacher) AS artifact, sample_id, 'position' AS place, CAST(pos AS BIGINT) AS number, CAST(pivot_id AS BIGINT) AS id
    FROM alignment
    UNION ALL
    SELECT concat('token_map/teacher=', teacher), NULL, 'source token', CAST(source_id AS BIGINT), CAST(pivot_id AS BIGINT)
    FROM token_map
    UNION ALL
    SELECT concat('projected/teacher=', teacher), sample_id, 'position', CAST(pos AS BIGINT),
        CAST(greatest(COALESCE(array_sum(id_gaps), 0), COALESCE(target_other, 0)) AS BIGINT)
    FROM projected_stored
    UNION ALL
    SELECT concat('targets/fusion=', fusion), sample_id, 'position', CAST(pos AS BIGINT), CAST(COALESCE(array_sum(id_gaps), 0) AS BIGINT)
    FROM targets_stored
),
ids AS (
    SELECT concat('tokens/vocab=', vocab, '/template=', template) AS artifact, sample_id, 'sample' AS place, CAST(sample_id AS BIGINT) AS number, CAST(array_max(ids) AS BIGINT) AS id, vocab AS name
    FROM tokens
    UNION ALL
    SELECT o.artifact, o.sample_id, o.place, o.number, o.id, p.name
    FROM of_pivot AS o CROSS JOIN pivot AS p
    UNION ALL
    SELECT concat('alignment/teacher=', a.teacher), a.sample_id, 'position', CAST(a.pos AS BIGINT), CAST(array_max(a.source_ids) AS BIGINT), s.name
    FROM alignment AS a JOIN sources AS s ON s.teacher = a.teacher
    UNION ALL
    SELECT concat('token_map/teacher=', t.teacher), NULL, 'source token', CAST(t.source_id AS BIGINT), CAST(t.source_id AS BIGINT), s.name
    FROM token_map AS t JOIN sources AS s ON s.teacher = t.teacher
    UNION ALL
    SELECT concat('topk/teacher=', t.teacher), t.sample_id, 'position', CAST(t.pos AS BIGINT),
        CAST(greatest(COALESCE(array_sum(t.id_gaps), 0), COALESCE(t.target_other, 0)) AS BIGINT), s.name
    FROM topk_stored AS t JOIN sources AS s ON s.teacher = t.teacher
)
SELECT
    'ids_in_vocab' AS "check",
    'error' AS level,
    i.artifact,
    CAST(i.sample_id AS BIGINT) AS sample_id,
    concat(i.place, ' ', i.number, ': id ', i.id, ' in a vocabulary of ', s.size, ' tokens') AS detail,
    CAST(i.id AS DOUBLE) AS value
FROM ids AS i
JOIN sizes AS s ON s.name = i.name
WHERE i.id >= s.size
UNION ALL
SELECT
    'ids_in_vocab',
    'warning',
    MIN(i.artifact),
    CAST(NULL AS BIGINT),
    concat('the vocabularies of ', COUNT(DISTINCT i.artifact), ' artifacts, this is the first, are not in the run, or `models` does not name them: their ids were not compared'),
    CAST(COUNT(DISTINCT i.artifact) AS DOUBLE)
FROM ids AS i
LEFT JOIN sizes AS s ON s.name = i.name
WHERE s.size IS NULL
HAVING COUNT(*) > 0;
