-- about: the coefficients of a tensor sum to one over the merged models
-- reads: merge_stats
-- returns: check, level, artifact, sample_id, detail, value
-- All may be 0: then the tensor is the base's. Methods with free weights (task_arithmetic, ties)
-- need not sum to one: a merge where no tensor does gets one warning, with its first tensor;
-- a tensor that differs from others of its merge that do is an error, and so is what is no number.
SELECT
    'merge_weights_sum_to_one' AS "check",
    CASE WHEN normalised > 0 OR isnan(total) THEN 'error' ELSE 'warning' END AS level,
    concat('merge_stats/merge=', merge) AS artifact,
    CAST(NULL AS BIGINT) AS sample_id,
    concat(tensor, ': the coefficients sum to ', total) AS detail,
    total AS value
FROM (
    SELECT
        merge,
        tensor,
        total,
        wrong,
        SUM(CASE WHEN wrong OR largest = 0.0 THEN 0 ELSE 1 END) OVER (PARTITION BY merge) AS normalised,
        row_number() OVER (PARTITION BY merge ORDER BY CASE WHEN wrong THEN 0 ELSE 1 END, tensor) AS place
    FROM (
        SELECT
            merge,
            tensor,
            total,
            largest,
            isnan(total) OR (largest > 0.0 AND abs(total - 1.0) > 1e-5) AS wrong
        FROM (
            SELECT merge, tensor, SUM(coefficient) AS total, MAX(abs(coefficient)) AS largest
            FROM merge_stats
            GROUP BY merge, tensor
        )
    )
)
WHERE wrong AND (normalised > 0 OR place = 1);
