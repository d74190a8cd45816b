-- about: what the pivot is trained towards
-- reads: targets_stored
-- returns: ids rise; probs and tail sum to one, but for rounding; winner names the model whose distribution it is; draws is 0, or the number of random draws that the probabilities are shares of
CREATE OR REPLACE VIEW targets AS
SELECT
    sample_id,
    pos,
    ids_of_gaps(id_gaps) AS ids,
    probs_of_levels(levels, base_level, draws) AS probs,
    CAST(power(tail_level / 432.0, 4) AS FLOAT) AS tail,
    draws,
    winner,
    fusion
FROM targets_stored;
