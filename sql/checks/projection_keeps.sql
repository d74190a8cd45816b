-- about: projected probabilities of a text multiply to the source's own probability of it
-- reads: projected_stored
-- returns: check, level, artifact, sample_id, detail, value
-- Over consecutive rows that the source's readings carry, the negative log-likelihoods of the pivot's
-- tokens are those of the source's, plus what was owed before and less what is owed after. Each is
-- stored to 1/1024 nat, so n rows may be off by (n + 2)/2 of these. Where readings begin within a source
-- token, what was owed before is not stored, and the row is left out.
SELECT
    'projection_keeps' AS "check",
    'error' AS level,
    concat('projected/teacher=', teacher) AS artifact,
    sample_id,
    concat('the projected log-likelihood of ', n, ' rows differs by ', round(difference / 1024.0, 3),
        ' nats from the source''s own; project again') AS detail,
    difference / 1024.0 AS value
FROM (
    SELECT
        teacher,
        sample_id,
        COUNT(*) AS n,
        SUM(target_nll - source_nll - before + COALESCE(owed, 0)) AS difference
    FROM (
        SELECT
            teacher,
            sample_id,
            target_nll,
            source_nll,
            owed,
            named,
            CASE
                WHEN before_pos = pos - 1 AND before_named IS NOT NULL THEN COALESCE(before_owed, 0)
                WHEN projection <> 'conditioned' THEN 0
            END AS before
        FROM (
            SELECT
                *,
                LAG(pos) OVER w AS before_pos,
                LAG(named) OVER w AS before_named,
                LAG(owed) OVER w AS before_owed
            FROM projected_stored
            WINDOW w AS (PARTITION BY teacher, sample_id ORDER BY pos)
        )
    )
    WHERE named IS NOT NULL AND before IS NOT NULL
    GROUP BY teacher, sample_id
)
WHERE abs(difference) > (n + 2) / 2.0;
