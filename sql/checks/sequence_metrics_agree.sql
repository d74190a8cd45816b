-- about: the cross-entropy written while scoring is that of the distributions
-- reads: sequence_metrics, sequence_ce
-- returns: check, level, artifact, sample_id, detail, value
-- That nll is a number is the check figures_finite.
SELECT
    'sequence_metrics_agree' AS "check",
    'warning' AS level,
    concat('sequence_metrics/teacher=', m.teacher) AS artifact,
    CAST(m.sample_id AS BIGINT) AS sample_id,
    concat('nll ', m.nll, ' over ', m.tokens, ' tokens; the distributions give ', c.nll, ' over ', c.tokens) AS detail,
    m.nll - c.nll AS value
FROM sequence_metrics AS m
JOIN sequence_ce AS c ON c.teacher = m.teacher AND c.sample_id = m.sample_id
WHERE NOT isnan(m.nll) AND (abs(m.nll - c.nll) > c.tokens / 2048.0 + 1e-4 * (1.0 + abs(c.nll)) OR CAST(m.tokens AS BIGINT) <> c.tokens);
