-- about: the positions whose next token covers supervised content of a transcript, which metrics count
-- reads: tokens, transcripts
-- returns: vocab, template, sample_id, first_pos, last_pos (of each stretch of content, no position in two of them)
-- Not the end of a turn, nor what a template writes; a special token that the content itself
-- spells out (<s> in HTML) is content, and so is a token without a byte of its own before one.
CREATE OR REPLACE VIEW content_positions AS
SELECT vocab, template, sample_id, first_pos, last_pos
FROM (
    SELECT
        vocab,
        template,
        sample_id,
        -- A token may cover the end of one stretch and the beginning of the next.
        greatest(first_pos, COALESCE(LAG(last_pos) OVER (
            PARTITION BY vocab, template, sample_id
            ORDER BY byte_start
        ) + 1, first_pos)) AS first_pos,
        last_pos
    FROM (
        SELECT
            t.vocab,
            t.template,
            t.sample_id,
            s.byte_start,
            MIN(t.pos) AS first_pos,
            MAX(t.pos) AS last_pos
        FROM (
            SELECT
                template,
                sample_id,
                span['byte_start'] AS byte_start,
                span['byte_end'] AS byte_end
            FROM (SELECT template, sample_id, unnest(spans) AS span FROM transcripts)
            WHERE span['supervised'] AND span['role'] NOT IN ('turn', 'turn_end')
        ) AS s
        JOIN (
            SELECT
                vocab,
                template,
                sample_id,
                unnest(range(-1, CAST(array_length(byte_end) AS BIGINT) - 1)) AS pos,
                unnest(array_prepend(CAST(0 AS BIGINT), array_pop_back(byte_end))) AS byte_start,
                unnest(byte_end) AS byte_end
            FROM tokens
        ) AS t
            ON t.template = s.template
            AND t.sample_id = s.sample_id
            AND t.byte_start < s.byte_end
            AND greatest(t.byte_end, t.byte_start + 1) > s.byte_start
            AND t.pos >= 0
        GROUP BY t.vocab, t.template, t.sample_id, s.byte_start
    )
)
WHERE first_pos <= last_pos;
