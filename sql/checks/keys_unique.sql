-- about: no sample, token, mapping, step or item is there twice
-- reads: models, samples, transcripts, vocab, tokens, sequence_metrics, token_map, steps, eval_items
-- returns: check, level, artifact, sample_id, detail, value
-- That rows of positions are there once, and in order, is checked file by file.
SELECT
    'keys_unique' AS "check",
    'error' AS level,
    artifact,
    CAST(sample_id AS BIGINT) AS sample_id,
    concat(what, ' is there ', COUNT(*), ' times') AS detail,
    CAST(COUNT(*) AS DOUBLE) AS value
FROM (
    SELECT 'models' AS artifact, NULL AS sample_id, concat('model ', name) AS what FROM models
    UNION ALL
    SELECT 'samples', sample_id, 'the sample' FROM samples
    UNION ALL
    SELECT concat('transcripts/template=', template), sample_id, 'the sample' FROM transcripts
    UNION ALL
    SELECT concat('tokens/vocab=', vocab, '/template=', template), sample_id, 'the sample' FROM tokens
    UNION ALL
    SELECT concat('sequence_metrics/teacher=', teacher), sample_id, 'the sample' FROM sequence_metrics
    UNION ALL
    SELECT concat('vocab/vocab=', vocab), NULL, concat('token ', id) FROM vocab
    UNION ALL
    SELECT concat('token_map/teacher=', teacher), NULL, concat('rank ', rank, ' of source token ', source_id) FROM token_map
    UNION ALL
    SELECT concat('steps/target=', target), NULL, concat('step ', step) FROM steps
    UNION ALL
    SELECT concat('eval_items/model=', model), NULL, concat(metric, ' of item ', item_id, ' of task ', task) FROM eval_items
)
GROUP BY artifact, sample_id, what
HAVING COUNT(*) > 1;
