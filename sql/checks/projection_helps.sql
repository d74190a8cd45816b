-- about: where a source is better than the pivot, its projected distributions are better too
-- reads: projection_ce
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
        teacher,
        COUNT(*) AS positions,
        AVG(least(projected_ce, -ln(1e-6))) AS projected_ce,
        AVG(pivot_ce) AS pivot_ce
    FROM projection_ce
    WHERE projection IN ('same_end', 'followed', 'conditioned', 'averaged')
        AND projected_ce IS NOT NULL
        AND better
        AND pivot_ce IS NOT NULL
    GROUP BY teacher
)
WHERE projected_ce >= pivot_ce;
