-- about: a list's probabilities, as they are stored
-- reads: levels (INT[]), base (INT), draws (INT)
-- returns: FLOAT[]; draws is 0, or the number of random draws that the probabilities are shares of
array_transform(levels, x -> CAST(CASE
    WHEN draws > 0 THEN (CAST(x AS DOUBLE) + base) / draws
    ELSE power((CAST(x AS DOUBLE) + base) / 432.0, 4)
END AS FLOAT))
