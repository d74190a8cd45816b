-- about: a source's distributions in the pivot's vocabulary
-- reads: projected_stored
-- returns: topk's columns; target_logprob is exact and the target listed where the source's readings are carried, else -Infinity where the list lacks it; projection says which case it was; source_nll (nats) of the source tokens that begin within the true token; owed (nats) after it; unknown and short, shares of the probability; named, whether the source's own tokens stand for the true one. The last four are null where readings are not carried
-- A lambda gets a copy of what it reads for each element. Gaps are summed in pieces of 24, so that for
-- k ids about k²/24 + 25 k numbers are copied and not k².
CREATE OR REPLACE VIEW projected AS
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
    projection,
    CAST(source_nll / 1024.0 AS FLOAT) AS source_nll,
    CASE WHEN named IS NOT NULL THEN CAST(COALESCE(owed, 0) / 1024.0 AS FLOAT) END AS owed,
    CASE WHEN named IS NOT NULL THEN CAST(COALESCE(unknown, 0) / 255.0 AS FLOAT) END AS unknown,
    CASE WHEN named IS NOT NULL THEN CAST(COALESCE(short, 0) / 255.0 AS FLOAT) END AS short,
    named,
    teacher
FROM projected_stored;
