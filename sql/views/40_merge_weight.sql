-- about: what each model contributed to each tensor of a merge, with the layer that the tensor belongs to
-- reads: merge_stats
-- returns: merge, tensor, layer (null outside the layers), model, coefficient, selected_fraction, kept_fraction, delta_norm
CREATE OR REPLACE VIEW merge_weight AS
SELECT
    merge,
    tensor,
    TRY_CAST(split_part(split_part(tensor, 'layers.', 2), '.', 1) AS INT) AS layer,
    model,
    coefficient,
    selected_fraction,
    kept_fraction,
    delta_norm
FROM merge_stats;
