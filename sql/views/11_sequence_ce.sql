-- about: cross-entropy of each sample under each teacher, computed from its distributions
-- reads: topk, models, tokens, content_positions, sequence_metrics
-- returns: teacher, sample_id, nll (nats, over the tokens that cover content), tokens (how many these are), bytes (content), ce (nats per token), bpb (bits per byte); null where it is not known which tokens these are, bpb also where the distributions lack some of them
-- The same nll as in sequence_metrics, which is computed while scoring; the check
-- sequence_metrics_agree compares them. Only bytes are taken from there. The transcripts that a
-- teacher read are those by its own template, if there are such, else the only ones in its
-- vocabulary.
CREATE OR REPLACE VIEW sequence_ce AS
SELECT
    c.teacher,
    c.sample_id,
    c.nll,
    c.tokens,
    m.bytes,
    c.nll / c.tokens AS ce,
    CASE WHEN c.tokens = m.tokens THEN c.nll / (ln(2.0) * NULLIF(m.bytes, 0)) END AS bpb
FROM (
    SELECT
        t.teacher,
        t.sample_id,
        SUM(CASE WHEN k.first_pos IS NOT NULL THEN -CAST(t.target_logprob AS DOUBLE) END) AS nll,
        NULLIF(COUNT(k.first_pos), 0) AS tokens
    FROM (
        SELECT r.teacher, p.sample_id, p.first_pos, p.last_pos
        FROM (
            SELECT
                m.name AS teacher,
                m.vocabulary AS vocab,
                CASE
                    WHEN MAX(CASE WHEN k.template = m.name THEN 1 ELSE 0 END) = 1 THEN m.name
                    WHEN COUNT(*) = 1 THEN MIN(k.template)
                END AS template
            FROM models AS m
            JOIN (SELECT DISTINCT vocab, template FROM tokens) AS k ON k.vocab = m.vocabulary
            GROUP BY m.name, m.vocabulary
        ) AS r
        JOIN content_positions AS p ON p.vocab = r.vocab AND p.template = r.template
    ) AS k
    RIGHT JOIN topk AS t
        ON t.teacher = k.teacher
        AND t.sample_id = k.sample_id
        AND t.pos BETWEEN k.first_pos AND k.last_pos
    GROUP BY t.teacher, t.sample_id
) AS c
LEFT JOIN sequence_metrics AS m ON m.teacher = c.teacher AND m.sample_id = c.sample_id;
