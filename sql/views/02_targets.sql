-- about: what the pivot is trained towards
-- reads: targets_stored
-- returns: ids rise; probs and tail sum to one, but for rounding; winner names the model whose distribution it is; draws is 0, or the number of random draws that the probabilities are shares of
-- A lambda gets a copy of what it reads for each element. Gaps are summed in pieces of 24, so that for
-- k ids about k²/24 + 25 k numbers are copied and not k².
CREATE OR REPLACE VIEW targets AS
SELECT
    sample_id,
    pos,
    flatten(array_transform(
        array_transform(
            range(0, CAST(array_length(id_gaps) AS BIGINT), 24),
            b -> array_prepend(
                CAST(COALESCE(array_sum(array_slice(id_gaps, 1, b)), 0) AS BIGINT),
                array_slice(id_gaps, b + 1, b + 24)
            )
        ),
        c -> array_transform(
            range(2, CAST(array_length(c) AS BIGINT) + 1),
            i -> CAST(array_sum(array_slice(c, 1, i)) AS BIGINT)
        )
    )) AS ids,
    array_transform(levels, x -> CAST(CASE
        WHEN draws > 0 THEN (CAST(x AS DOUBLE) + base_level) / draws
        ELSE power((CAST(x AS DOUBLE) + base_level) / 432.0, 4)
    END AS FLOAT)) AS probs,
    CAST(power(tail_level / 432.0, 4) AS FLOAT) AS tail,
    draws,
    winner,
    fusion
FROM targets_stored;
