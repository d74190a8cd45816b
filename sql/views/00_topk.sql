-- about: top-k distributions in the teacher's own vocabulary
-- reads: topk_stored
-- returns: row pos is the distribution of token pos + 1 (target_id); natural logarithms; ids rise; target_rank counts from 1 by falling probability (null: not listed); tail_logprob is the mass outside the list; draws is 0, or the number of random draws that the probabilities are shares of
CREATE OR REPLACE VIEW topk AS
SELECT
    sample_id,
    pos,
    id_at(id_gaps, target_place, target_other) AS target_id,
    rank_at(levels, target_place) AS target_rank,
    CASE WHEN target_nll = 4294967295 THEN CAST('-Infinity' AS FLOAT)
        ELSE CAST(target_nll / -1024.0 AS FLOAT)
    END AS target_logprob,
    CAST(4.0 * ln(tail_level / 432.0) AS FLOAT) AS tail_logprob,
    ids_of_gaps(id_gaps) AS ids,
    logprobs_of_levels(levels, base_level, draws) AS logprobs,
    draws,
    teacher
FROM topk_stored;
