-- about: whether projected distributions know more about the next pivot token than the pivot itself
-- reads: projected, topk, sequence_metrics, models
-- returns: teacher, better (whether the teacher has fewer bits per byte on the sample than the pivot), projection, positions, share (of the teacher's positions), in_list (share whose list has the true token), top1 (share where it is the most probable), projected_ce, pivot_ce (nats, at the same positions), gain (pivot_ce - projected_ce)
-- param: floor = 1e-6 — the least probability that a true token outside the list counts with
-- Where the list lacks the true token, the projected distribution counts with all its
-- probability outside the list (an upper bound, and at least the floor). one_hot rows name the
-- true token, so their cross-entropy of 0 says nothing. MinCE takes a teacher's distributions
-- where `better` is true: where gain is not above 0 there, training on them makes the pivot worse.
SELECT
    teacher,
    better,
    projection,
    COUNT(*) AS positions,
    CAST(COUNT(*) AS DOUBLE) / SUM(COUNT(*)) OVER (PARTITION BY teacher) AS share,
    AVG(CASE WHEN in_list THEN 1.0 ELSE 0.0 END) AS in_list,
    AVG(CASE WHEN top1 THEN 1.0 ELSE 0.0 END) AS top1,
    AVG(projected_ce) AS projected_ce,
    AVG(pivot_ce) AS pivot_ce,
    AVG(pivot_ce) - AVG(projected_ce) AS gain
FROM (
    SELECT
        p.teacher,
        COALESCE(own.nll * pivot.bytes < pivot.nll * own.bytes, true) AS better,
        p.projection,
        p.target_rank IS NOT NULL AS in_list,
        COALESCE(p.target_rank = 1, false) AS top1,
        -ln(greatest(exp(CAST(p.target_logprob AS DOUBLE)), CAST($floor AS DOUBLE))) AS projected_ce,
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
    ) AS pivot ON pivot.sample_id = p.sample_id
)
GROUP BY teacher, better, projection
ORDER BY teacher, better DESC, positions DESC, projection;
