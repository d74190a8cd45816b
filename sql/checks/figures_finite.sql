-- about: figures of samples, mappings, merges and evaluations are numbers, and finite
-- reads: sequence_metrics, token_map, merge_stats, eval_items, steps
-- returns: check, level, artifact, sample_id, detail, value
-- Losses and gradients have a check of their own: loss_finite.
SELECT
    'figures_finite' AS "check",
    'error' AS level,
    artifact,
    CAST(sample_id AS BIGINT) AS sample_id,
    concat(what, ' is ', figure) AS detail,
    figure AS value
FROM (
    SELECT concat('sequence_metrics/teacher=', teacher) AS artifact, sample_id, 'nll' AS what, nll AS figure FROM sequence_metrics
    UNION ALL
    SELECT concat('token_map/teacher=', teacher), NULL, concat('the weight of source token ', source_id), CAST(weight AS DOUBLE) FROM token_map
    UNION ALL
    SELECT concat('merge_stats/merge=', merge), NULL, concat(tensor, ': the coefficient of ', model), coefficient FROM merge_stats
    UNION ALL
    SELECT concat('merge_stats/merge=', merge), NULL, concat(tensor, ': a share or norm of ', model), selected_fraction + kept_fraction + delta_norm FROM merge_stats
    UNION ALL
    SELECT concat('eval_items/model=', model), NULL, concat(task, ' item ', item_id, ': ', metric), value + COALESCE(stderr, 0.0) FROM eval_items
    UNION ALL
    SELECT concat('steps/target=', target), NULL, concat('step ', step, ': the learning rate, or kl'), lr + COALESCE(kl, 0.0) FROM steps
)
WHERE isnan(figure) OR abs(figure) > 1e300;
