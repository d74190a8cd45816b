-- about: the results of all evaluated models, best first
-- reads: eval_items
-- returns: model, task, metric, value, items
-- For perplexity tasks bpb (bits per byte) and ppl (perplexity per token) are computed over all
-- items together; the task `average` is the mean bpb over a model's tasks. Other metrics are
-- means over the items. ppl compares only models that share a vocabulary.
WITH perplexity AS (
    SELECT
        model,
        task,
        SUM(CASE WHEN metric = 'nll' THEN value ELSE 0.0 END) AS nll,
        SUM(CASE WHEN metric = 'tokens' THEN value ELSE 0.0 END) AS tokens,
        SUM(CASE WHEN metric = 'bytes' THEN value ELSE 0.0 END) AS bytes,
        SUM(CASE WHEN metric = 'nll' THEN 1 ELSE 0 END) AS items
    FROM eval_items
    WHERE metric IN ('nll', 'tokens', 'bytes')
    GROUP BY model, task
),
bits AS (
    SELECT model, task, nll / (ln(2.0) * NULLIF(bytes, 0.0)) AS value, items
    FROM perplexity
)
SELECT model, task, metric, value, items
FROM (
    SELECT model, 'average' AS task, 'bpb' AS metric, AVG(value) AS value, SUM(items) AS items
    FROM bits
    GROUP BY model
    UNION ALL
    SELECT model, task, 'bpb' AS metric, value, items
    FROM bits
    UNION ALL
    SELECT model, task, 'ppl' AS metric, exp(nll / NULLIF(tokens, 0.0)) AS value, items
    FROM perplexity
    UNION ALL
    SELECT model, task, metric, AVG(value) AS value, COUNT(*) AS items
    FROM eval_items
    WHERE metric NOT IN ('nll', 'tokens', 'bytes')
    GROUP BY model, task, metric
)
ORDER BY
    CASE WHEN task = 'average' THEN 0 ELSE 1 END,
    task,
    metric,
    CASE WHEN metric IN ('bpb', 'ppl') THEN value ELSE -value END,
    model;
