-- about: the models by how well they predict each sample
-- reads: sequence_metrics, models
-- returns: teacher, sample_id, nll (nats), tokens, bytes, by_bpb, by_ce (1 for the best in bits per byte, and in nats per token)
-- Ties go to the pivot, then by name. Samples without supervised content are left out.
CREATE OR REPLACE VIEW sample_rank AS
SELECT
    s.teacher,
    s.sample_id,
    s.nll,
    s.tokens,
    s.bytes,
    row_number() OVER (
        PARTITION BY s.sample_id
        ORDER BY s.nll / s.bytes, CASE WHEN m.role = 'pivot' THEN 0 ELSE 1 END, s.teacher
    ) AS by_bpb,
    row_number() OVER (
        PARTITION BY s.sample_id
        ORDER BY s.nll / s.tokens, CASE WHEN m.role = 'pivot' THEN 0 ELSE 1 END, s.teacher
    ) AS by_ce
FROM sequence_metrics AS s
LEFT JOIN models AS m ON m.name = s.teacher
WHERE s.tokens > 0 AND s.bytes > 0;
