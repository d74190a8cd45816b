-- about: the trained models of a recipe and of its variants side by side, by bits per byte
-- reads: run_eval_items, models
-- returns: run (empty for the recipe itself, else the variant), model, task, bpb (bits per byte, over all items of the task; `average` is the mean over the tasks), difference (from the recipe's own model of that name), rank (1 for the lowest bpb of the model's name in the task)
-- param: model = '' — only models of this name; all but the pivot and the sources if empty, as far as the run knows them
-- param: task = 'average' — only this task; all if empty
WITH tasks AS (
    SELECT
        run,
        model,
        task,
        SUM(CASE WHEN metric = 'nll' THEN value ELSE 0.0 END)
            / (ln(2.0) * NULLIF(SUM(CASE WHEN metric = 'bytes' THEN value ELSE 0.0 END), 0.0)) AS bpb
    FROM run_eval_items
    WHERE metric IN ('nll', 'bytes')
    GROUP BY run, model, task
),
bits AS (
    SELECT run, model, 'average' AS task, AVG(bpb) AS bpb FROM tasks GROUP BY run, model
    UNION ALL
    SELECT run, model, task, bpb FROM tasks
),
wanted AS (
    SELECT run, model, task, bpb
    FROM bits
    WHERE (task = $task OR $task = '')
        AND (model = $model OR ($model = '' AND model NOT IN (SELECT name FROM models)))
)
SELECT
    w.run,
    w.model,
    w.task,
    w.bpb,
    w.bpb - base.bpb AS difference,
    CASE WHEN w.bpb IS NOT NULL
        THEN CAST(RANK() OVER (PARTITION BY w.model, w.task ORDER BY w.bpb) AS BIGINT)
    END AS rank
FROM wanted AS w
LEFT JOIN wanted AS base ON base.run = '' AND base.model = w.model AND base.task = w.task
ORDER BY w.task, w.model, w.bpb, w.run;
