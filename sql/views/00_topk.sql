-- about: top-k distributions in the teacher's own vocabulary
-- reads: topk_stored
-- returns: row pos is the distribution of token pos + 1 (target_id); natural logarithms; ids rise; target_rank counts from 1 by falling probability (null: not listed); tail_logprob is the mass outside the list; draws is 0, or the number of random draws that the probabilities are shares of
CREATE OR REPLACE VIEW topk AS
SELECT
    sample_id,
    pos,
    CAST(CASE
        WHEN target_place > 0 THEN array_sum(array_slice(id_gaps, 1, target_place))
        ELSE target_other
    END AS INT UNSIGNED) AS target_id,
    CASE WHEN target_place > 0
        THEN 1 + COALESCE(array_length(array_filter(levels, x -> x > levels[target_place])), 0)
    END AS target_rank,
    CAST(target_nll / -1024.0 AS FLOAT) AS target_logprob,
    CAST(4.0 * ln(tail_level / 432.0) AS FLOAT) AS tail_logprob,
    array_transform(
        range(1, CAST(array_length(id_gaps) AS BIGINT) + 1),
        i -> CAST(array_sum(array_slice(id_gaps, 1, i)) AS INT UNSIGNED)
    ) AS ids,
    array_transform(levels, x -> CAST(CASE
        WHEN draws > 0 THEN ln((CAST(x AS DOUBLE) + base_level) / draws)
        ELSE 4.0 * ln((CAST(x AS DOUBLE) + base_level) / 432.0)
    END AS FLOAT)) AS logprobs,
    draws,
    teacher
FROM topk_stored;
