-- about: a source's distributions in the pivot's vocabulary
-- reads: projected_stored
-- returns: topk's columns; target_logprob is exact and the target listed where the source's readings are carried, else -Infinity where the list lacks it; projection says which case it was; source_nll (nats) of the source tokens that begin within the true token; owed (nats) after it; unknown and short, shares of the probability; named, whether the source's own tokens stand for the true one. The last four are null where readings are not carried
CREATE OR REPLACE VIEW projected AS
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
    projection,
    CAST(source_nll / 1024.0 AS FLOAT) AS source_nll,
    CASE WHEN named IS NOT NULL THEN CAST(COALESCE(owed, 0) / 1024.0 AS FLOAT) END AS owed,
    CASE WHEN named IS NOT NULL THEN CAST(COALESCE(unknown, 0) / 255.0 AS FLOAT) END AS unknown,
    CASE WHEN named IS NOT NULL THEN CAST(COALESCE(short, 0) / 255.0 AS FLOAT) END AS short,
    named,
    teacher
FROM projected_stored;
