-- about: what the pivot is trained towards
-- reads: targets_stored
-- returns: ids rise; probs and tail sum to one, but for rounding; winner names the model whose distribution it is; draws is 0, or the number of random draws that the probabilities are shares of
CREATE OR REPLACE VIEW targets AS
SELECT
    sample_id,
    pos,
    array_transform(
        range(1, CAST(array_length(id_gaps) AS BIGINT) + 1),
        i -> CAST(array_sum(array_slice(id_gaps, 1, i)) AS INT UNSIGNED)
    ) AS ids,
    array_transform(levels, x -> CAST(CASE
        WHEN draws > 0 THEN (CAST(x AS DOUBLE) + base_level) / draws
        ELSE power((CAST(x AS DOUBLE) + base_level) / 432.0, 4)
    END AS FLOAT)) AS probs,
    CAST(power(tail_level / 432.0, 4) AS FLOAT) AS tail,
    draws,
    winner,
    fusion
FROM targets_stored;
