-- about: which model is the best on the samples of each input file, by bits per byte
-- reads: sample_rank, samples
-- returns: source_file, teacher, samples (scored), bpb (over them), wins, win_rate (share of the file's samples)
SELECT
    o.source_file,
    r.teacher,
    COUNT(*) AS samples,
    SUM(r.nll) / (ln(2.0) * SUM(r.bytes)) AS bpb,
    SUM(CASE WHEN r.by_bpb = 1 THEN 1 ELSE 0 END) AS wins,
    AVG(CASE WHEN r.by_bpb = 1 THEN 1.0 ELSE 0.0 END) AS win_rate
FROM sample_rank AS r
JOIN samples AS o ON o.sample_id = r.sample_id
GROUP BY o.source_file, r.teacher
ORDER BY o.source_file, wins DESC, r.teacher;
