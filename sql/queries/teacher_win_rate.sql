-- about: how often each teacher is the best on a sample, by bits per byte and by nats per token
-- reads: sample_rank
-- returns: teacher, samples, bpb (over all samples), wins_bpb, wins_ce, wins_both, win_rate (share of samples won by bpb); wins are null where sample_rank does not know the winner of a sample
-- ce compares models only where they share a vocabulary: shorter tokens have a lower one each for
-- the same text.
SELECT
    teacher,
    COUNT(*) AS samples,
    SUM(nll) / (ln(2.0) * SUM(bytes)) AS bpb,
    CASE WHEN COUNT(by_bpb) = COUNT(*) THEN COUNT(CASE WHEN by_bpb = 1 THEN 1 END) END AS wins_bpb,
    CASE WHEN COUNT(by_ce) = COUNT(*) THEN COUNT(CASE WHEN by_ce = 1 THEN 1 END) END AS wins_ce,
    CASE WHEN COUNT(by_bpb + by_ce) = COUNT(*)
        THEN COUNT(CASE WHEN by_bpb = 1 AND by_ce = 1 THEN 1 END)
    END AS wins_both,
    CASE WHEN COUNT(by_bpb) = COUNT(*)
        THEN AVG(CASE WHEN by_bpb = 1 THEN 1.0 ELSE 0.0 END)
    END AS win_rate
FROM sample_rank
GROUP BY teacher
ORDER BY wins_bpb DESC NULLS LAST, teacher;
