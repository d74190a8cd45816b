-- about: the coefficients of a tensor sum to one over the merged models
-- reads: merge_stats
-- returns: check, level, artifact, sample_id, detail, value
-- All may be 0: then the tensor is the pivot's.
SELECT
    'merge_weights_sum_to_one' AS "check",
    'error' AS level,
    concat('merge_stats/merge=', merge) AS artifact,
    CAST(NULL AS BIGINT) AS sample_id,
    concat(tensor, ': the coefficients sum to ', total) AS detail,
    total AS value
FROM (
    SELECT merge, tensor, SUM(coefficient) AS total, MAX(abs(coefficient)) AS largest
    FROM merge_stats
    GROUP BY merge, tensor
)
WHERE isnan(total) OR (largest > 0.0 AND abs(total - 1.0) > 1e-5);
