-- about: cross-entropy of each supervised token under each teacher
-- reads: topk, models, vocab
-- returns: teacher, sample_id, pos, target_id, target (display), special, ce (nats), top1 (it is the most probable), tail (probability outside the list); target and special are null where the teacher's vocabulary is not known
-- A token is special where the teacher's own vocabulary says so.
CREATE OR REPLACE VIEW token_ce AS
SELECT
    t.teacher,
    t.sample_id,
    t.pos,
    t.target_id,
    v.token AS target,
    v.special,
    -CAST(t.target_logprob AS DOUBLE) AS ce,
    COALESCE(t.target_rank = 1, false) AS top1,
    exp(CAST(t.tail_logprob AS DOUBLE)) AS tail
FROM topk AS t
LEFT JOIN models AS m ON m.name = t.teacher
LEFT JOIN vocab AS v ON v.vocab = m.vocabulary AND v.id = t.target_id;
