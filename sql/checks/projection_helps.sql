-- about: projected distributions know more about the next pivot token than the pivot itself
-- reads: projected, topk, models
-- returns: check, level, artifact, sample_id, detail, value
-- See the query projection_quality; one_hot rows are left out, they are no knowledge.
SELECT
    'projection_helps' AS "check",
    'warning' AS level,
    concat('projected/teacher=', teacher) AS artifact,
    CAST(NULL AS BIGINT) AS sample_id,
    concat('cross-entropy ', projected_ce, ' nats at ', positions, ' positions, the pivot itself has ', pivot_ce,
        '; training on them makes it worse') AS detail,
    projected_ce - pivot_ce AS value
FROM (
    SELECT
        p.teacher,
        COUNT(*) AS positions,
        AVG(-ln(greatest(exp(CAST(p.target_logprob AS DOUBLE)), 1e-6))) AS projected_ce,
        AVG(-CAST(t.target_logprob AS DOUBLE)) AS pivot_ce
    FROM projected AS p
    JOIN (
        SELECT sample_id, pos, target_logprob
        FROM topk
        WHERE teacher IN (SELECT name FROM models WHERE role = 'pivot')
    ) AS t ON t.sample_id = p.sample_id AND t.pos = p.pos
    WHERE p.projection IN ('same_end', 'conditioned', 'averaged')
    GROUP BY p.teacher
)
WHERE projected_ce >= pivot_ce;
