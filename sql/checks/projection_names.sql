-- about: a source's own tokens stand for the tokens that follow
-- reads: projected_stored
-- returns: check, level, artifact, sample_id, detail, value
-- The true token always gets what the source's own tokens of the text have. Where the map or the
-- pivot's tokenizer would send them elsewhere, it sends the rest of the list elsewhere, too.
SELECT
    'projection_names' AS "check",
    'warning' AS level,
    concat('projected/teacher=', teacher) AS artifact,
    CAST(NULL AS BIGINT) AS sample_id,
    concat('the source''s own tokens stand for the true one at ', round(100.0 * share, 1), ' % of ',
        positions, ' positions, expected 95; its other candidates are as misplaced: use `map: prefix`, ',
        'or look whether the tokenizers are those of the models') AS detail,
    share AS value
FROM (
    SELECT
        teacher,
        COUNT(*) AS positions,
        AVG(CASE WHEN named THEN 1.0 ELSE 0.0 END) AS share
    FROM projected_stored
    WHERE named IS NOT NULL
    GROUP BY teacher
)
WHERE share < 0.95;
