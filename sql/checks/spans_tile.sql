-- about: the spans of a transcript cover its text without gaps, and its tokens end where it ends
-- reads: transcripts, tokens
-- returns: check, level, artifact, sample_id, detail, value
SELECT
    'spans_tile' AS "check",
    'error' AS level,
    concat('transcripts/template=', template) AS artifact,
    CAST(sample_id AS BIGINT) AS sample_id,
    concat('its spans do not cover its ', bytes, ' bytes one after the other') AS detail,
    CAST(bytes AS DOUBLE) AS value
FROM (
    SELECT
        template,
        sample_id,
        CAST(octet_length(text) AS BIGINT) AS bytes,
        CAST(COALESCE(array_length(spans), 0) AS BIGINT) AS n,
        array_transform(spans, s -> CAST(s['byte_start'] AS BIGINT)) AS starts,
        array_transform(spans, s -> CAST(s['byte_end'] AS BIGINT)) AS ends,
        array_transform(spans, s -> s['byte_end'] > s['byte_start']) AS filled
    FROM transcripts
)
WHERE CASE
    WHEN n = 0 THEN bytes > 0
    ELSE starts[1] <> 0
        OR ends[n] <> bytes
        OR array_has(filled, false)
        OR (n > 1 AND array_slice(starts, 2, n) <> array_slice(ends, 1, n - 1))
END
UNION ALL
SELECT
    'spans_tile',
    'error',
    concat('tokens/vocab=', k.vocab, '/template=', k.template),
    CAST(k.sample_id AS BIGINT),
    concat('its tokens end at byte ', k.last, ', its text has ', CAST(octet_length(t.text) AS BIGINT)),
    CAST(k.last AS DOUBLE)
FROM (
    SELECT vocab, template, sample_id, CAST(COALESCE(byte_end[CAST(array_length(byte_end) AS BIGINT)], 0) AS BIGINT) AS last
    FROM tokens
) AS k
JOIN transcripts AS t ON t.template = k.template AND t.sample_id = k.sample_id
WHERE k.last <> CAST(octet_length(t.text) AS BIGINT);
