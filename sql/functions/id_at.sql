-- about: the id at a place of a list, from the gaps between its ids
-- reads: gaps (BIGINT[]), place (INT; counts from 1), other (BIGINT)
-- returns: BIGINT; other where place is 0
CAST(CASE
    WHEN place > 0 THEN array_sum(array_slice(gaps, 1, place))
    ELSE other
END AS BIGINT)
