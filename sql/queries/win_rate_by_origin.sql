-- about: which model is the best on the samples of each input file, by bits per byte
-- reads: sample_rank, samples
-- returns: source_file (null for samples that the run does not have), teacher, samples (scored), bpb (over them), wins, win_rate (share of the file's samples); wins are null where sample_rank does not know the winner of a sample
SELECT
    o.source_file,
    r.teacher,
    COUNT(*) AS samples,
    SUM(r.nll) / (ln(2.0) * SUM(r.bytes)) AS bpb,
    CASE WHEN COUNT(r.by_bpb) = COUNT(*) THEN COUNT(CASE WHEN r.by_bpb = 1 THEN 1 END) END AS wins,
    CASE WHEN COUNT(r.by_bpb) = COUNT(*)
        THEN AVG(CASE WHEN r.by_bpb = 1 THEN 1.0 ELSE 0.0 END)
    END AS win_rate
FROM sample_rank AS r
LEFT JOIN samples AS o ON o.sample_id = r.sample_id
GROUP BY o.source_file, r.teacher
ORDER BY o.source_file, wins DESC NULLS LAST, r.teacher;
