-- about: what each projected distribution knows about the next pivot token, beside the pivot's own
-- reads: projected, topk, sequence_metrics, models
-- returns: teacher, sample_id, pos, projection, better (whether the teacher has fewer bits per byte on the sample than the pivot; null where the run does not say which model is the pivot, or lacks the metrics of one), in_list (the list has the true token), top1 (it is the most probable), best (the largest probability of the list), named (whether the source's own tokens stand for the true token), unknown, short (shares of the probability; null where readings are not carried, as is named), projected_ce (nats; infinite where the list lacks the true token, null where nothing is projected), pivot_ce (nats; null where the pivot is not known or has no row)
CREATE OR REPLACE VIEW projection_ce AS
SELECT
    p.teacher,
    p.sample_id,
    p.pos,
    p.projection,
    own.nll * base.bytes < base.nll * own.bytes AS better,
    p.target_rank IS NOT NULL AS in_list,
    COALESCE(p.target_rank = 1, false) AS top1,
    exp(CAST(array_max(p.logprobs) AS DOUBLE)) AS best,
    p.named,
    p.unknown,
    p.short,
    CASE WHEN p.projection NOT IN ('skipped', 'missing')
        THEN -CAST(p.target_logprob AS DOUBLE)
    END AS projected_ce,
    -CAST(t.target_logprob AS DOUBLE) AS pivot_ce
FROM projected AS p
LEFT JOIN (
    SELECT sample_id, pos, target_logprob
    FROM topk
    WHERE teacher IN (SELECT name FROM models WHERE role = 'pivot')
) AS t ON t.sample_id = p.sample_id AND t.pos = p.pos
LEFT JOIN sequence_metrics AS own
    ON own.teacher = p.teacher AND own.sample_id = p.sample_id
LEFT JOIN (
    SELECT sample_id, nll, bytes
    FROM sequence_metrics
    WHERE teacher IN (SELECT name FROM models WHERE role = 'pivot')
) AS base ON base.sample_id = p.sample_id;
