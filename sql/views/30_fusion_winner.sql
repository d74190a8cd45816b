-- about: whose distributions the pivot is trained towards
-- reads: targets
-- returns: fusion, winner, positions, share (of the fusion's positions), samples (with at least one position), mean_tail (probability outside the lists)
CREATE OR REPLACE VIEW fusion_winner AS
SELECT
    fusion,
    winner,
    SUM(positions) AS positions,
    CAST(SUM(positions) AS DOUBLE) / SUM(SUM(positions)) OVER (PARTITION BY fusion) AS share,
    COUNT(*) AS samples,
    SUM(tail) / SUM(positions) AS mean_tail
FROM (
    SELECT fusion, winner, sample_id, COUNT(*) AS positions, SUM(CAST(tail AS DOUBLE)) AS tail
    FROM targets
    GROUP BY fusion, winner, sample_id
)
GROUP BY fusion, winner;
