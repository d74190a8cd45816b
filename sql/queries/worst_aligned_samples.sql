-- about: samples where the fewest pivot tokens end where a source token ends
-- reads: alignment, samples
-- returns: teacher, sample_id, source_file, source_row, positions, same_end_share, none_share (positions without a source token)
-- param: teacher = '' — only this source; all if empty
-- param: limit = 20 — rows at most
SELECT
    a.teacher,
    a.sample_id,
    s.source_file,
    s.source_row,
    a.positions,
    CAST(a.same_end AS DOUBLE) / a.positions AS same_end_share,
    CAST(a.unaligned AS DOUBLE) / a.positions AS none_share
FROM (
    SELECT
        teacher,
        sample_id,
        COUNT(*) AS positions,
        COUNT(source_pos) AS same_end,
        SUM(CASE WHEN kind = 'none' THEN 1 ELSE 0 END) AS unaligned
    FROM alignment
    WHERE $teacher = '' OR teacher = $teacher
    GROUP BY teacher, sample_id
) AS a
LEFT JOIN samples AS s ON s.sample_id = a.sample_id
ORDER BY same_end_share, none_share DESC, a.positions DESC, a.teacher, a.sample_id
LIMIT $limit;
