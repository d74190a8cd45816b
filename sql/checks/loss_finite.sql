-- about: losses and gradients of a training are finite
-- reads: steps
-- returns: check, level, artifact, sample_id, detail, value
SELECT
    'loss_finite' AS "check",
    'error' AS level,
    concat('steps/target=', target) AS artifact,
    CAST(NULL AS BIGINT) AS sample_id,
    concat('step ', step, ': loss ', loss, ', gradient norm ', grad_norm) AS detail,
    loss AS value
FROM steps
WHERE isnan(loss) OR abs(loss) > 1e300
    OR isnan(loss_clm) OR abs(loss_clm) > 1e300
    OR isnan(COALESCE(loss_fusion, 0.0)) OR abs(COALESCE(loss_fusion, 0.0)) > 1e300
    OR isnan(COALESCE(valid_loss, 0.0)) OR abs(COALESCE(valid_loss, 0.0)) > 1e300
    OR isnan(grad_norm) OR abs(grad_norm) > 1e300;
