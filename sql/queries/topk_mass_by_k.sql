-- about: how much probability the first k tokens of a list hold, on average
-- reads: topk
-- returns: teacher, k, mass (mean probability of the k most probable tokens), added (by the k-th), positions
-- param: teacher = '' — only this teacher; all if empty
SELECT
    r.teacher,
    r.k,
    SUM(r.probability) OVER (PARTITION BY r.teacher ORDER BY r.k) / n.positions AS mass,
    r.probability / n.positions AS added,
    n.positions
FROM (
    SELECT teacher, k, SUM(exp(CAST(logprob AS DOUBLE))) AS probability
    FROM (
        SELECT
            teacher,
            unnest(array_sort(logprobs, 'DESC')) AS logprob,
            unnest(range(1, CAST(array_length(logprobs) AS BIGINT) + 1)) AS k
        FROM topk
        WHERE $teacher = '' OR teacher = $teacher
    )
    GROUP BY teacher, k
) AS r
JOIN (SELECT teacher, COUNT(*) AS positions FROM topk GROUP BY teacher) AS n
    ON n.teacher = r.teacher
ORDER BY r.teacher, r.k;
