-- about: where a source is better than the pivot, its projected distributions are better too
-- reads: projected, topk, sequence_metrics, models
-- returns: check, level, artifact, sample_id, detail, value
-- See the query projection_quality; one_hot rows are left out, they are no knowledge, and so are
-- samples on which the source is no better than the pivot: MinCE does not use them.
SELECT
    'projection_helps' AS "check",
    'warning' AS level,
    concat('projected/teacher=', teacher) AS artifact,
    CAST(NULL AS BIGINT) AS sample_id,
    concat('cross-entropy ', round(projected_ce, 3), ' nats at ', positions,
        ' positions of samples on which the source is the better model, the pivot itself has ',
        round(pivot_ce, 3), '; training on them makes it worse, try another map') AS detail,
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
    LEFT JOIN sequence_metrics AS own
        ON own.teacher = p.teacher AND own.sample_id = p.sample_id
    LEFT JOIN (
        SELECT sample_id, nll, bytes
        FROM sequence_metrics
        WHERE teacher IN (SELECT name FROM models WHERE role = 'pivot')
    ) AS pivot ON pivot.sample_id = p.sample_id
    WHERE p.projection IN ('same_end', 'conditioned', 'averaged')
        AND COALESCE(own.nll * pivot.bytes < pivot.nll * own.bytes, true)
    GROUP BY p.teacher
)
WHERE projected_ce >= pivot_ce;
