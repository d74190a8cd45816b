-- about: how the pivot's tokens are aligned with those of each source
-- reads: alignment
-- returns: teacher, kind (1-1, 1-n, n-1, n-m, none), positions, share (of the teacher's positions), same_end (positions where a source token ends at the same byte), same_end_share (of the kind's positions)
CREATE OR REPLACE VIEW alignment_coverage AS
SELECT
    teacher,
    kind,
    positions,
    CAST(positions AS DOUBLE) / SUM(positions) OVER (PARTITION BY teacher) AS share,
    same_end,
    CAST(same_end AS DOUBLE) / positions AS same_end_share
FROM (
    SELECT teacher, kind, COUNT(*) AS positions, COUNT(source_pos) AS same_end
    FROM alignment
    GROUP BY teacher, kind
);
