-- about: cross-entropy of each sample under each teacher, computed from its distributions
-- reads: token_ce, sequence_metrics
-- returns: teacher, sample_id, nll (nats, over supervised content tokens), tokens, bytes (content), ce (nats per token), bpb (bits per byte)
-- The same nll as in sequence_metrics, which is computed while scoring; the check
-- sequence_metrics_agree compares them. Only bytes are taken from there.
CREATE OR REPLACE VIEW sequence_ce AS
SELECT
    c.teacher,
    c.sample_id,
    c.nll,
    c.tokens,
    m.bytes,
    c.nll / c.tokens AS ce,
    c.nll / (ln(2.0) * NULLIF(m.bytes, 0)) AS bpb
FROM (
    SELECT teacher, sample_id, SUM(ce) AS nll, COUNT(*) AS tokens
    FROM token_ce
    WHERE NOT special
    GROUP BY teacher, sample_id
) AS c
LEFT JOIN sequence_metrics AS m ON m.teacher = c.teacher AND m.sample_id = c.sample_id;
