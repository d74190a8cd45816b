-- about: samples for which nats per token and bits per byte choose different models
-- reads: sequence_metrics, models
-- returns: sample_id, best_by_ce, best_by_bpb, loss (bits per byte that the choice by ce gives away)
-- param: limit = 30 — rows at most
-- Shorter tokens have a lower cross-entropy each for the same text, so ce prefers small
-- vocabularies. Ties go to the pivot, then by name.
SELECT
    sample_id,
    MAX(CASE WHEN by_ce = 1 THEN teacher END) AS best_by_ce,
    MAX(CASE WHEN by_bpb = 1 THEN teacher END) AS best_by_bpb,
    MAX(CASE WHEN by_ce = 1 THEN bpb END) - MAX(CASE WHEN by_bpb = 1 THEN bpb END) AS loss
FROM (
    SELECT
        s.sample_id,
        s.teacher,
        s.nll / (ln(2.0) * s.bytes) AS bpb,
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
    WHERE s.tokens > 0 AND s.bytes > 0
)
GROUP BY sample_id
HAVING MAX(CASE WHEN by_ce = 1 THEN teacher END) <> MAX(CASE WHEN by_bpb = 1 THEN teacher END)
ORDER BY loss DESC, sample_id
LIMIT $limit;
