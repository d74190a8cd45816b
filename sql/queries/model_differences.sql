-- about: how much models differ on the same items, in bits per byte, with 95 % intervals
-- reads: run_eval_items
-- returns: run (empty for the recipe itself, else the variant), task, model, items (that both models have), bpb (bits per byte), difference (from the baseline's of the same run), low, high (2.5 and 97.5 % of the differences in 1,000 draws of items; the sign is sure where both have it)
-- param: baseline = 'clm' — the model that the others are compared with
-- param: model = '' — only this model; all if empty
-- A paired bootstrap: both models get the same items. A draw takes each item 0, 1, 2 ... times, as often as
-- Poisson's distribution with a mean of one says, by 32 bits that item and draw are mixed into; so the figures
-- are the same every time. The bits are compared with the distribution's sums, times 2^32.
WITH items AS (
    SELECT
        run,
        task,
        model,
        item_id,
        SUM(CASE WHEN metric = 'nll' THEN value ELSE 0.0 END) / ln(2.0) AS bits,
        SUM(CASE WHEN metric = 'bytes' THEN value ELSE 0.0 END) AS bytes
    FROM run_eval_items
    WHERE metric IN ('nll', 'bytes')
    GROUP BY run, task, model, item_id
),
pairs AS (
    SELECT i.run, i.task, i.model, i.item_id, i.bytes, i.bits, i.bits - base.bits AS difference
    FROM items AS i
    JOIN items AS base ON base.run = i.run AND base.task = i.task AND base.item_id = i.item_id
    WHERE base.model = $baseline AND i.model <> $baseline AND (i.model = $model OR $model = '')
),
draws AS (
    SELECT unnest(range(0, 1000)) AS draw
),
mixed AS (
    SELECT
        i.item_id,
        d.draw,
        (i.item_id * 2654435761 + d.draw * 2246822519 + 3266489917) & 4294967295 AS bits
    FROM (SELECT DISTINCT item_id FROM pairs) AS i
    CROSS JOIN draws AS d
),
mixed_twice AS (
    SELECT
        item_id,
        draw,
        ((bits & 65535) * ((bits >> 16) + 40503) + (bits >> 7) * 668265263) & 4294967295 AS bits
    FROM mixed
),
mixed_thrice AS (
    SELECT
        item_id,
        draw,
        ((bits & 65535) * ((bits >> 16) + 30011) + (bits >> 5) * 374761393) & 4294967295 AS bits
    FROM mixed_twice
),
counts AS (
    SELECT
        item_id,
        draw,
        CASE
            WHEN bits < 1580030169 THEN 0
            WHEN bits < 3160060337 THEN 1
            WHEN bits < 3950075422 THEN 2
            WHEN bits < 4213413783 THEN 3
            WHEN bits < 4279248374 THEN 4
            WHEN bits < 4292415292 THEN 5
            WHEN bits < 4294609778 THEN 6
            ELSE 7
        END AS times
    FROM mixed_thrice
),
drawn AS (
    SELECT
        p.run,
        p.task,
        p.model,
        c.draw,
        SUM(c.times * p.difference) / NULLIF(SUM(c.times * p.bytes), 0.0) AS difference
    FROM pairs AS p
    JOIN counts AS c ON c.item_id = p.item_id
    GROUP BY p.run, p.task, p.model, c.draw
),
ranked AS (
    SELECT
        run,
        task,
        model,
        difference,
        ROW_NUMBER() OVER (PARTITION BY run, task, model ORDER BY difference) AS place,
        COUNT(*) OVER (PARTITION BY run, task, model) AS places
    FROM drawn
    WHERE difference IS NOT NULL
),
borders AS (
    SELECT
        run,
        task,
        model,
        MIN(CASE WHEN 40 * place >= places THEN difference END) AS low,
        MAX(CASE WHEN 40 * (places + 1 - place) >= places THEN difference END) AS high
    FROM ranked
    GROUP BY run, task, model
)
SELECT
    p.run,
    p.task,
    p.model,
    COUNT(*) AS items,
    SUM(p.bits) / NULLIF(SUM(p.bytes), 0.0) AS bpb,
    SUM(p.difference) / NULLIF(SUM(p.bytes), 0.0) AS difference,
    MAX(b.low) AS low,
    MAX(b.high) AS high
FROM pairs AS p
LEFT JOIN borders AS b ON b.run = p.run AND b.task = p.task AND b.model = p.model
GROUP BY p.run, p.task, p.model
ORDER BY p.task, bpb, p.run, p.model;
