//! What each token of a text stands for, as the tokenizer's own steps have it.
//!
//! Only for texts whose token bytes are not simply the text ([`super::spans::walk`]): blanks that
//! a pre-tokenizer drops, normal forms, unknown words. The steps are run again one by one: the
//! normaliser's result is kept as a text of its own, and the pre-tokenizer and the model work on
//! that one, so that their offsets are exact. (The offsets of a whole run are not: where a
//! normaliser drops the first character or composes two, they are off.) Every step is compared
//! with what it is taken for; where that fails, this tokenizer is not understood.

use std::ops::Range;
use std::path::Path;

use tokenizers::normalizer::Range as In;
use tokenizers::{
    Model, NormalizedString, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Token,
};

use super::pieces::Scheme;
use super::{Kind, Vocabulary};
use crate::error::{Context, Error, Result};
use crate::progress::check_interrupt;

/// Words between two looks at the user's wish to stop.
const WORDS: usize = 1 << 10;

/// Characters of a word that an error shows.
const SHOWN: usize = 40;

/// A text after the tokenizer's steps.
pub(super) struct Trace {
    /// The normalised text.
    pub(super) normal: String,
    /// The parts of the text that are normalised by themselves, in order.
    pub(super) fragments: Vec<Fragment>,
    /// The tokens, in order.
    pub(super) tokens: Vec<Place>,
}

/// A part of the text that is normalised by itself.
pub(super) struct Fragment {
    pub(super) text: Range<usize>,
    pub(super) normal: Range<usize>,
    /// It is an added token, which is not normalised.
    pub(super) added: bool,
}

/// A token and the part of the normalised text that it stands for.
pub(super) struct Place {
    pub(super) id: u32,
    pub(super) normal: Range<usize>,
}

/// What is known of a tokenizer.
pub(super) struct Tracer<'a> {
    /// The tokenizer's file, for errors.
    pub(super) path: &'a Path,
    pub(super) inner: &'a tokenizers::Tokenizer,
    pub(super) vocabulary: &'a Vocabulary,
    pub(super) scheme: &'a Scheme,
    /// Whether an id is an added token that is taken out of the text before normalisation.
    pub(super) separates: &'a [bool],
    /// The model's own id for what it does not know.
    pub(super) unknown: Option<u32>,
    /// Whether pieces of the model share an id.
    pub(super) shares_ids: bool,
}

/// A part of the normalised text, before the pre-tokenizer.
struct Piece {
    normal: Range<usize>,
    /// An added token that was found in the text.
    token: Option<Token>,
}

impl Tracer<'_> {
    /// Runs the steps.
    ///
    /// # Errors
    /// A token that does not stand for what its bytes say; a failure of the tokenizer; the user's
    /// wish to stop.
    pub(super) fn trace(&self, text: &str) -> Result<Trace> {
        let (normal, fragments, pieces, shifted) = self.normalised(text);
        let words = self.tokenised(&normal, pieces, shifted)?;
        let shift = usize::from(shifted);
        let mut tokens = Vec::new();
        let mut at = 0;
        let words = words.get_splits(OffsetReferential::Original, OffsetType::Byte);
        for (count, (word, (start, end), found)) in words.into_iter().enumerate() {
            if count.is_multiple_of(WORDS) {
                check_interrupt()?;
            }
            let found = found.as_deref().unwrap_or_default();
            let here = at.max(start.saturating_sub(shift))..end.saturating_sub(shift);
            at = self.place_word(word, &normal, here, found, &mut tokens)?;
        }
        Ok(Trace {
            normal,
            fragments,
            tokens,
        })
    }

    /// Adds the tokens of a word; returns where the word ends in the normalised text.
    fn place_word(
        &self,
        word: &str,
        normal: &str,
        here: Range<usize>,
        found: &[Token],
        tokens: &mut Vec<Place>,
    ) -> Result<usize> {
        if let [token] = found
            && self.spells(word, token)
            && normal.get(here.clone()) == Some(word)
        {
            let end = here.end;
            tokens.push(Place {
                id: token.id,
                normal: here,
            });
            return Ok(end);
        }
        let first = found.first().map(|token| token.id);
        let Some(borders) = self.borders(word, normal, here.clone()) else {
            return Err(self.misread(word, first));
        };
        let places = match self.by_offsets(word, found) {
            Ok(places) => places,
            Err(id) => match self.by_spelling(word, found) {
                Some(places) => places,
                None => return Err(self.misread(word, Some(id))),
            },
        };
        let border = |at: usize| borders.get(at).copied().unwrap_or(here.end);
        tokens.extend(found.iter().zip(places).map(|(token, place)| Place {
            id: token.id,
            normal: border(place.start)..border(place.end),
        }));
        Ok(border(word.len()))
    }

    /// Whether a token is spelled like that; pieces can share an id, and the library then shows
    /// any of them.
    fn spells(&self, word: &str, token: &Token) -> bool {
        token.value == word || self.inner.get_model().token_to_id(word) == Some(token.id)
    }

    fn misread(&self, word: &str, id: Option<u32>) -> Error {
        let token = id.and_then(|id| self.vocabulary.token(id));
        let token = match (id, token) {
            (Some(id), Some(token)) => format!("token {id}, `{}`", token.display),
            (Some(id), None) => format!("token {id}"),
            _ => "a token".to_owned(),
        };
        let word: String = word.chars().take(SHOWN).collect();
        Error::file(
            self.path,
            format!("{token}, was made of `{word}`, which is not what it stands for"),
        )
        .remedy(
            "fuselm knows vocabularies that spell bytes as GPT-2 does, spaces as `▁`, pieces of \
             words as `##` or `</w>`, and whole words; convert the tokenizer to one of these, or \
             leave this model out",
        )
    }

    /// The text with its added tokens found and the rest normalised. The last: whether something
    /// was dropped before the first piece.
    fn normalised(&self, text: &str) -> (String, Vec<Fragment>, Vec<Piece>, bool) {
        let added = self.inner.get_added_vocabulary();
        let extracted = added.extract_and_normalize(self.inner.get_normalizer(), text);
        let mut normal = String::with_capacity(text.len());
        let mut fragments: Vec<Fragment> = Vec::new();
        let mut pieces = Vec::new();
        let mut shifted = false;
        // Adds what is between two tokens that are taken out before anything is normalised, and
        // whose offsets are exact therefore.
        let between = |text: usize, normal: usize, fragments: &mut Vec<Fragment>| {
            let (text_at, normal_at) = fragments
                .last()
                .map_or((0, 0), |last| (last.text.end, last.normal.end));
            if text_at < text || normal_at < normal {
                fragments.push(Fragment {
                    text: text_at..text,
                    normal: normal_at..normal,
                    added: false,
                });
            }
        };
        for (piece, (start, end), tokens) in
            extracted.get_splits(OffsetReferential::Original, OffsetType::Byte)
        {
            shifted |= pieces.is_empty() && start > 0;
            let token = tokens.as_ref().and_then(|tokens| tokens.first()).cloned();
            let from = normal.len();
            normal.push_str(piece);
            let here = from..normal.len();
            let separates = |token: &Token| self.separates.get(token.id as usize) == Some(&true);
            if token.as_ref().is_some_and(separates) {
                between(start, from, &mut fragments);
                fragments.push(Fragment {
                    text: start..end,
                    normal: here.clone(),
                    added: true,
                });
            }
            pieces.push(Piece {
                normal: here,
                token,
            });
        }
        between(text.len(), normal.len(), &mut fragments);
        (normal, fragments, pieces, shifted)
    }

    /// The normalised text in the pre-tokenizer's words, with the model's tokens.
    fn tokenised(
        &self,
        normal: &str,
        pieces: Vec<Piece>,
        shifted: bool,
    ) -> Result<PreTokenizedString> {
        // One step acts on what stands at the very start of a text only; where that was dropped,
        // a byte takes its place.
        let shift = usize::from(shifted);
        let whole = match shifted {
            true => format!("\n{normal}"),
            false => normal.to_owned(),
        };
        let mut words = PreTokenizedString::from(NormalizedString::from(whole));
        let run = |words: &mut PreTokenizedString| -> tokenizers::Result<()> {
            words.split(|_, whole| {
                let pieces = pieces.iter().filter_map(|piece| {
                    let range = piece.normal.start + shift..piece.normal.end + shift;
                    let part = whole.slice(In::Normalized(range))?;
                    Some((part, piece.token.clone().map(|token| vec![token])))
                });
                Ok(pieces.collect::<Vec<_>>())
            })?;
            if let Some(pre_tokenizer) = self.inner.get_pre_tokenizer() {
                pre_tokenizer.pre_tokenize(words)?;
            }
            let count = std::cell::Cell::new(0usize);
            words.tokenize(|word| {
                count.set(count.get() + 1);
                if count.get().is_multiple_of(WORDS) {
                    check_interrupt()?;
                }
                self.inner.get_model().tokenize(word.get())
            })
        };
        run(&mut words).during(|| "tokenising a text".to_owned())?;
        Ok(words)
    }

    /// For every byte of a word, and its end, the byte of the normalised text that it stands for;
    /// none where the word is not that text as this tokenizer spells it.
    fn borders(&self, word: &str, normal: &str, at: Range<usize>) -> Option<Vec<usize>> {
        let part = normal.get(at.start..at.end);
        let spelled = |prefix: usize| match self.scheme.spells_bytes() {
            true => self.borders_of_bytes(word, normal.as_bytes(), at.clone(), prefix),
            false => self.borders_of_chars(word, part?, at.start, prefix),
        };
        // A space that is added before a word is no part of the text.
        spelled(0).or_else(|| {
            let first = word.chars().next()?;
            let space = self.scheme.is_space(first);
            space.then(|| spelled(first.len_utf8()))?
        })
    }

    fn borders_of_bytes(
        &self,
        word: &str,
        normal: &[u8],
        at: Range<usize>,
        prefix: usize,
    ) -> Option<Vec<usize>> {
        let mut borders = vec![at.start; prefix];
        let mut next = at.start;
        for char in word.get(prefix..)?.chars() {
            borders.extend(std::iter::repeat_n(next, char.len_utf8()));
            let byte = (next < at.end).then(|| normal.get(next).copied())??;
            if self.scheme.byte_of(char) != Some(byte) {
                return None;
            }
            next += 1;
        }
        borders.push(next);
        Some(borders)
    }

    fn borders_of_chars(
        &self,
        word: &str,
        part: &str,
        start: usize,
        prefix: usize,
    ) -> Option<Vec<usize>> {
        let mut borders = vec![start; prefix];
        let mut next = start;
        let mut normal = part.chars();
        for char in word.get(prefix..)?.chars() {
            let other = normal.next()?;
            if char == other {
                borders.extend(next..next + char.len_utf8());
            } else if other == ' ' && self.scheme.is_space(char) {
                borders.extend(std::iter::repeat_n(next, char.len_utf8()));
            } else {
                return None;
            }
            next += other.len_utf8();
        }
        borders.push(next);
        Some(borders)
    }

    /// The parts of a word that its tokens stand for, by the model's offsets; the id of a token
    /// that stands for something else.
    fn by_offsets(
        &self,
        word: &str,
        tokens: &[Token],
    ) -> std::result::Result<Vec<Range<usize>>, u32> {
        let mut at = 0;
        let place = |token: &Token| {
            let place = self.place(word, at, token).ok_or(token.id)?;
            at = place.end;
            Ok(place)
        };
        tokens.iter().map(place).collect()
    }

    fn place(&self, word: &str, at: usize, token: &Token) -> Option<Range<usize>> {
        let known = self.vocabulary.token(token.id)?;
        let (start, end) = token.offsets;
        let part = word.get(start..end).filter(|_| start >= at);
        if part.is_some_and(|part| part == known.display || self.spells(part, token)) {
            return Some(start..end);
        }
        if known.kind == Kind::Byte {
            // The bytes of one character have their own offsets, or share the character's.
            let at = at.max(start);
            let byte = word.as_bytes().get(at..=at)?;
            return (byte == known.bytes).then_some(at..at + 1);
        }
        // What is spelled by another piece with the same id is merged as if it were that one.
        let stands = Some(token.id) == self.unknown
            || self.shares_ids && part.is_some()
            || self.scheme.bytes_of_text(part?) == known.bytes;
        stands.then_some(start..end)
    }

    /// The same by the tokens' spelling alone, for a model that drops characters which it does
    /// not know: its offsets do not count what was dropped.
    fn by_spelling(&self, word: &str, tokens: &[Token]) -> Option<Vec<Range<usize>>> {
        let mut chars = word.char_indices();
        let place = |token: &Token| {
            let known = self.vocabulary.token(token.id)?;
            if Some(token.id) == self.unknown || known.kind == Kind::Byte {
                return None;
            }
            let mut place: Option<Range<usize>> = None;
            for wanted in self.scheme.bare(&known.display).chars() {
                let (at, char) = chars.find(|(_, char)| *char == wanted)?;
                let start = place.map_or(at, |place| place.start);
                place = Some(start..at + char.len_utf8());
            }
            place
        };
        tokens.iter().map(place).collect()
    }
}
