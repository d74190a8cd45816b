-- about: the models by how well they predict each sample
-- reads: sequence_metrics, models
-- returns: teacher, sample_id, nll (nats), tokens, bytes, by_bpb, by_ce (1 for the best in bits per byte, and in nats per token; null where a model of the run was not scored on the sample, and on a tie where it is not known which model is the pivot)
-- Ties go to the pivot, then by name. Samples without supervised content are left out.
CREATE OR REPLACE VIEW sample_rank AS
SELECT
    teacher,
    sample_id,
    nll,
    tokens,
    bytes,
    CASE WHEN complete AND (same_bpb = 1 OR same_bpb = known_bpb) THEN
        CAST(row_number() OVER (
            PARTITION BY sample_id
            ORDER BY nll / bytes, CASE WHEN role = 'pivot' THEN 0 ELSE 1 END, teacher
        ) AS BIGINT)
    END AS by_bpb,
    CASE WHEN complete AND (same_ce = 1 OR same_ce = known_ce) THEN
        CAST(row_number() OVER (
            PARTITION BY sample_id
            ORDER BY nll / tokens, CASE WHEN role = 'pivot' THEN 0 ELSE 1 END, teacher
        ) AS BIGINT)
    END AS by_ce
FROM (
    SELECT
        teacher,
        sample_id,
        nll,
        tokens,
        bytes,
        role,
        complete,
        COUNT(*) OVER (PARTITION BY sample_id, nll / bytes) AS same_bpb,
        COUNT(role) OVER (PARTITION BY sample_id, nll / bytes) AS known_bpb,
        COUNT(*) OVER (PARTITION BY sample_id, nll / tokens) AS same_ce,
        COUNT(role) OVER (PARTITION BY sample_id, nll / tokens) AS known_ce
    FROM (
        SELECT
            s.teacher,
            s.sample_id,
            s.nll,
            s.tokens,
            s.bytes,
            m.role,
            COUNT(m.name) OVER (PARTITION BY s.sample_id) = n.models AS complete
        FROM sequence_metrics AS s
        LEFT JOIN models AS m ON m.name = s.teacher
        CROSS JOIN (SELECT COUNT(*) AS models FROM models) AS n
    )
    WHERE tokens > 0 AND bytes > 0
);
