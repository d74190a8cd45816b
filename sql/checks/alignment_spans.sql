-- about: an alignment's source tokens are those of its span
-- reads: alignment
-- returns: check, level, artifact, sample_id, detail, value
SELECT
    'alignment_spans' AS "check",
    'error' AS level,
    concat('alignment/teacher=', teacher) AS artifact,
    CAST(sample_id AS BIGINT) AS sample_id,
    concat('position ', pos, ': source positions ', source_begin, '..', source_end, ' with ',
        COALESCE(array_length(source_ids), 0), ' ids') AS detail,
    CAST(pos AS DOUBLE) AS value
FROM alignment
WHERE source_begin > source_end
    OR CAST(source_end AS BIGINT) - CAST(source_begin AS BIGINT) < CAST(COALESCE(array_length(source_ids), 0) AS BIGINT)
    OR (source_end > source_begin AND COALESCE(array_length(source_ids), 0) = 0);
