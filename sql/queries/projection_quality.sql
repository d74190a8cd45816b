-- about: whether projected distributions know more about the next pivot token than the pivot itself
-- reads: projection_ce
-- returns: teacher, better (whether the teacher has fewer bits per byte on the sample than the pivot; null where that is not known), projection, positions, share (of the teacher's positions), in_list (share whose list has the true token), top1 (share where it is the most probable), best (mean of the largest probability; near top1 where the lists are as sure as they are right), named (share where the source's own tokens stand for the true token; null where readings are not carried), unknown, short (mean shares of the probability), projected_ce, pivot_ce (nats, at the positions that have both; where the run has no distributions of its pivot, projected_ce at all and pivot_ce null), gain (pivot_ce - projected_ce)
-- param: floor = 1e-6 — the least probability that a true token outside the list counts with
-- Where a list lacks the true token, it counts with the floor: training on the list gives it nothing.
-- one_hot rows name the true token, so their cross-entropy of 0 says nothing, and skipped and missing
-- rows have none. MinCE takes a teacher's distributions
-- where `better` is true: where gain is not above 0 there, training on them makes the pivot worse.
SELECT
    teacher,
    better,
    projection,
    COUNT(*) AS positions,
    CAST(COUNT(*) AS DOUBLE) / SUM(COUNT(*)) OVER (PARTITION BY teacher) AS share,
    AVG(CASE WHEN in_list THEN 1.0 ELSE 0.0 END) AS in_list,
    AVG(CASE WHEN top1 THEN 1.0 ELSE 0.0 END) AS top1,
    AVG(best) AS best,
    AVG(CASE WHEN named THEN 1.0 WHEN NOT named THEN 0.0 END) AS named,
    AVG(CAST(unknown AS DOUBLE)) AS unknown,
    AVG(CAST(short AS DOUBLE)) AS short,
    CASE WHEN COUNT(pivot_ce) = 0
        THEN AVG(projected_ce)
        ELSE AVG(CASE WHEN pivot_ce IS NOT NULL THEN projected_ce END)
    END AS projected_ce,
    AVG(pivot_ce) AS pivot_ce,
    AVG(pivot_ce - projected_ce) AS gain
FROM (
    SELECT
        teacher,
        better,
        projection,
        in_list,
        top1,
        best,
        named,
        unknown,
        short,
        least(projected_ce, -ln(CAST($floor AS DOUBLE))) AS projected_ce,
        pivot_ce
    FROM projection_ce
)
GROUP BY teacher, better, projection
ORDER BY teacher, better DESC NULLS LAST, positions DESC, projection;
