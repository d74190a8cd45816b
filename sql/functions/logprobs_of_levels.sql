-- about: the logarithms of a list's probabilities, as they are stored
-- reads: levels (INT[]), base (INT), draws (INT)
-- returns: FLOAT[], natural logarithms; draws is 0, or the number of random draws that the probabilities are shares of
array_transform(levels, x -> CAST(CASE
    WHEN draws > 0 THEN ln((CAST(x AS DOUBLE) + base) / draws)
    ELSE 4.0 * ln((CAST(x AS DOUBLE) + base) / 432.0)
END AS FLOAT))
