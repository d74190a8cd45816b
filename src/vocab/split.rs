//! Splitting a transcript that is longer than `max_tokens`.
//!
//! Only the text and the pivot's tokenizer decide, so that adding a source never moves a split.
//! A piece ends, in this order of preference, before a user's turn, after a paragraph, after a
//! line, before a word; a text without any of these is cut between two characters.

use super::{SpecialTokens, Tokenizer};
use crate::error::Result;
use crate::progress::check_interrupt;
use crate::text::Transcript;

/// How far back a paragraph, line or word border may lie, as a share of the piece.
const PARAGRAPH: f64 = 0.5;
const LINE: f64 = 0.25;

impl Tokenizer {
    /// The pieces of a transcript, each of at most `max_tokens` of these tokens (BOS included);
    /// together they are the whole text. With `whole_turns` pieces end only before a user's
    /// turn; none if that is not possible.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn split_transcript(
        &self,
        transcript: &Transcript,
        max_tokens: usize,
        whole_turns: bool,
        special_tokens: SpecialTokens,
    ) -> Result<Option<Vec<Transcript>>> {
        // A token has a byte at least, but for BOS and an added prefix, where no step makes more
        // of the text.
        let text = &transcript.text;
        if text.len() + 2 <= max_tokens && self.has_bytes_for_all(text) {
            return Ok(Some(vec![transcript.clone()]));
        }
        let reader = Reader {
            transcript,
            tokenizer: self,
            special_tokens,
        };
        reader.split(max_tokens, whole_turns)
    }
}

/// A transcript and who reads it.
struct Reader<'a> {
    transcript: &'a Transcript,
    tokenizer: &'a Tokenizer,
    special_tokens: SpecialTokens,
}

impl Reader<'_> {
    fn split(&self, max_tokens: usize, whole_turns: bool) -> Result<Option<Vec<Transcript>>> {
        let transcript = self.transcript;
        let text = transcript.text.as_str();
        let most = max_tokens.saturating_sub(1).max(1);
        let turns = transcript.turn_borders();
        let mut pieces = Vec::new();
        let mut start = 0;
        while start < text.len() {
            check_interrupt()?;
            let Some(limit) = self.reach(start, most)? else {
                pieces.push(transcript.slice(start, text.len()));
                break;
            };
            let mut limit = limit;
            let cut = loop {
                let cut = match turn_border(&turns, start, limit) {
                    Some(cut) => cut,
                    None if whole_turns => return Ok(None),
                    None => text_border(text, start, limit),
                };
                // Tokens at the end of a piece can differ from those of the running text.
                let excess = self.ends(start, cut)?.len().saturating_sub(most);
                let shorter = floor(text, cut.saturating_sub(excess));
                if excess == 0 || shorter <= start {
                    break cut;
                }
                limit = shorter;
            };
            pieces.push(transcript.slice(start, cut));
            start = cut;
        }
        if pieces.is_empty() {
            pieces.push(transcript.clone());
        }
        Ok(Some(pieces))
    }

    /// The ends of the tokens of a piece, without BOS, counted from its beginning.
    fn ends(&self, start: usize, end: usize) -> Result<Vec<u32>> {
        let piece = self.transcript.slice(start, end);
        let row = self
            .tokenizer
            .encode_transcript(&piece, None, self.special_tokens)?;
        Ok(row.byte_end[1..].to_vec())
    }

    /// The byte up to which `most` tokens reach from `start`; none if the rest has no more.
    fn reach(&self, start: usize, most: usize) -> Result<Option<usize>> {
        let text = self.transcript.text.as_str();
        // Tokens of a text have about four bytes; a window avoids tokenising all of a long one.
        let mut window = most.saturating_mul(8);
        loop {
            let end = floor(text, start.saturating_add(window));
            let ends = self.ends(start, end)?;
            if let Some(byte) = ends.get(most - 1)
                && ends.len() > most
            {
                let limit = floor(text, start + *byte as usize);
                // One character may take more tokens than are allowed; it is taken whole.
                return Ok(Some(if limit > start {
                    limit
                } else {
                    ceil(text, start + 1)
                }));
            }
            if end == text.len() {
                return Ok(None);
            }
            window = window.saturating_mul(2);
        }
    }
}

fn turn_border(turns: &[usize], start: usize, limit: usize) -> Option<usize> {
    let before = turns.iter().rev().find(|turn| **turn <= limit);
    before.copied().filter(|turn| *turn > start)
}

fn text_border(text: &str, start: usize, limit: usize) -> usize {
    let piece = text.get(start..limit).unwrap_or_default();
    let far = |share: f64| (piece.len() as f64 * share) as usize;
    let after = |pattern: &str, share: f64| {
        let found = piece.rfind(pattern).map(|at| at + pattern.len());
        found.filter(|end| *end > far(share))
    };
    let word = || {
        // The blank goes with the word after it, as tokenizers have it.
        let next_is_blank = text
            .get(limit..)
            .is_some_and(|rest| rest.starts_with(char::is_whitespace));
        if next_is_blank {
            return Some(piece.len());
        }
        piece.rfind(char::is_whitespace).filter(|at| *at > 0)
    };
    let end = after("\n\n", PARAGRAPH)
        .or_else(|| after("\n", LINE))
        .or_else(word)
        .unwrap_or(piece.len());
    start + end
}

fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn ceil(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}
