-- about: the rank of what is at a place of a list, by falling level
-- reads: levels (INT[]), place (INT; counts from 1)
-- returns: BIGINT, from 1; equal levels have the best rank of them; null where place is 0
CAST(CASE
    WHEN place > 0 THEN array_position(array_sort(levels, 'DESC'), levels[place])
END AS BIGINT)
