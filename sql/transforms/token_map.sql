-- about: counts of aligned pairs of tokens, from which the vocabulary map `ms` is made
-- reads: alignment
-- returns: source_id, pivot_id, count (alignments of the pivot token in which the source token occurs); in no order
-- param: teacher = '' — the source whose alignment is counted
-- A pivot token that is aligned with n source tokens counts once for each distinct one of them,
-- whether or not it is supervised; n-m links count all their pairs.
SELECT source_id, pivot_id, COUNT(*) AS count
FROM (
    SELECT pivot_id, unnest(array_distinct(source_ids)) AS source_id
    FROM alignment
    WHERE teacher = $teacher AND kind <> 'none'
)
GROUP BY source_id, pivot_id;
