-- about: top-k distributions in the teacher's own vocabulary
-- reads: topk_stored
-- returns: row pos is the distribution of token pos + 1 (target_id); natural logarithms; ids rise; target_rank counts from 1 by falling probability (null: not listed); tail_logprob is the mass outside the list; draws is 0, or the number of random draws that the probabilities are shares of
-- A lambda gets a copy of what it reads for each element. Gaps are summed in pieces of 24, so that for
-- k ids about k²/24 + 25 k numbers are copied and not k².
CREATE OR REPLACE VIEW topk AS
SELECT
    sample_id,
    pos,
    CAST(CASE
        WHEN target_place > 0 THEN array_sum(array_slice(id_gaps, 1, target_place))
        ELSE target_other
    END AS BIGINT) AS target_id,
    CAST(CASE WHEN target_place > 0
        THEN array_position(array_sort(levels, 'DESC'), levels[target_place])
    END AS BIGINT) AS target_rank,
    CASE WHEN target_nll = 4294967295 THEN CAST('-Infinity' AS FLOAT)
        ELSE CAST(target_nll / -1024.0 AS FLOAT)
    END AS target_logprob,
    CAST(4.0 * ln(tail_level / 432.0) AS FLOAT) AS tail_logprob,
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
        WHEN draws > 0 THEN ln((CAST(x AS DOUBLE) + base_level) / draws)
        ELSE 4.0 * ln((CAST(x AS DOUBLE) + base_level) / 432.0)
    END AS FLOAT)) AS logprobs,
    draws,
    teacher
FROM topk_stored;
