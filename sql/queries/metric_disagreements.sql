-- about: samples for which nats per token and bits per byte choose different models
-- reads: sample_rank
-- returns: sample_id, best_by_ce, best_by_bpb, loss (bits per byte that the choice by ce gives away)
-- param: limit = 30 — rows at most
-- Shorter tokens have a lower cross-entropy each for the same text, so ce prefers small
-- vocabularies.
SELECT
    by_ce.sample_id,
    by_ce.teacher AS best_by_ce,
    by_bpb.teacher AS best_by_bpb,
    (by_ce.nll / by_ce.bytes - by_bpb.nll / by_bpb.bytes) / ln(2.0) AS loss
FROM sample_rank AS by_ce
JOIN sample_rank AS by_bpb ON by_bpb.sample_id = by_ce.sample_id AND by_bpb.by_bpb = 1
WHERE by_ce.by_ce = 1 AND by_ce.teacher <> by_bpb.teacher
ORDER BY loss DESC, by_ce.sample_id
LIMIT $limit;
