-- about: which model is the best on the samples of each input file, by bits per byte
-- reads: sequence_metrics, samples, models
-- returns: source_file, teacher, samples (scored), bpb (over them), wins, win_rate (share of the file's samples)
-- Ties go to the pivot, then by name.
SELECT
    source_file,
    teacher,
    COUNT(*) AS samples,
    SUM(nll) / (ln(2.0) * SUM(bytes)) AS bpb,
    SUM(CASE WHEN place = 1 THEN 1 ELSE 0 END) AS wins,
    AVG(CASE WHEN place = 1 THEN 1.0 ELSE 0.0 END) AS win_rate
FROM (
    SELECT
        o.source_file,
        s.teacher,
        s.nll,
        s.bytes,
        row_number() OVER (
            PARTITION BY s.sample_id
            ORDER BY s.nll / s.bytes, CASE WHEN m.role = 'pivot' THEN 0 ELSE 1 END, s.teacher
        ) AS place
    FROM sequence_metrics AS s
    JOIN samples AS o ON o.sample_id = s.sample_id
    LEFT JOIN models AS m ON m.name = s.teacher
    WHERE s.bytes > 0
)
GROUP BY source_file, teacher
ORDER BY source_file, wins DESC, teacher;
