-- about: how often each teacher is the best on a sample, by bits per byte and by nats per token
-- reads: sequence_metrics, models
-- returns: teacher, samples, bpb (over all samples), wins_bpb, wins_ce, wins_both, win_rate (share of samples won by bpb)
-- Ties go to the pivot, then by name. ce compares models only where they share a vocabulary:
-- shorter tokens have a lower one each for the same text.
SELECT
    teacher,
    COUNT(*) AS samples,
    SUM(nll) / (ln(2.0) * SUM(bytes)) AS bpb,
    SUM(CASE WHEN by_bpb = 1 THEN 1 ELSE 0 END) AS wins_bpb,
    SUM(CASE WHEN by_ce = 1 THEN 1 ELSE 0 END) AS wins_ce,
    SUM(CASE WHEN by_bpb = 1 AND by_ce = 1 THEN 1 ELSE 0 END) AS wins_both,
    AVG(CASE WHEN by_bpb = 1 THEN 1.0 ELSE 0.0 END) AS win_rate
FROM (
    SELECT
        s.teacher,
        s.nll,
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
    WHERE s.tokens > 0 AND s.bytes > 0
)
GROUP BY teacher
ORDER BY wins_bpb DESC, teacher;
