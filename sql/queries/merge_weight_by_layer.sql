-- about: what each model contributed to each layer of a merge
-- reads: merge_weight
-- returns: merge, layer (null outside the layers), model, tensors, coefficient, selected_fraction, kept_fraction (means over the tensors), delta_norm (of all of them together)
-- param: merge = '' — only this merge; all if empty
SELECT
    merge,
    layer,
    model,
    COUNT(*) AS tensors,
    AVG(coefficient) AS coefficient,
    AVG(selected_fraction) AS selected_fraction,
    AVG(kept_fraction) AS kept_fraction,
    sqrt(SUM(delta_norm * delta_norm)) AS delta_norm
FROM merge_weight
WHERE $merge = '' OR merge = $merge
GROUP BY merge, layer, model
ORDER BY merge, layer NULLS FIRST, model;
