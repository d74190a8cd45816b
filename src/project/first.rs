//! The first pivot token of what remains of a reading.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use foldhash::fast::RandomState;

use super::memory::Memory;
use super::spellings::Spellings;
use crate::artifact::token_map::{MapMethod, MapRow};
use crate::units::TokenId;

/// Most texts before a reading's last token that are remembered.
const TEXTS: usize = 1 << 16;

/// Nothing is known yet.
const UNKNOWN: u32 = u32::MAX;
/// No token of the pivot begins so.
const NONE: u32 = u32::MAX - 1;
/// A special token of the source.
const SPECIAL: u32 = u32::MAX - 2;
/// The token is all that remains, and longer tokens begin with it.
const SHORT: u32 = 1 << 31;

/// How the pivot begins to read some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct First {
    /// The token.
    pub(super) token: TokenId,
    /// Whether it is all of the bytes, and longer tokens of the pivot begin with them: what
    /// follows in the text may turn it into one of those.
    pub(super) short: bool,
}

/// What the pivot makes of each end of each source token, found out when it is first asked for; all
/// threads share it.
pub(super) struct FirstTokens<'a> {
    first_token: &'a (dyn Fn(&[u8]) -> Option<TokenId> + Sync),
    source: &'a Spellings,
    pivot: &'a Spellings,
    /// By id of the pivot: whether longer tokens begin with its bytes.
    extended: Vec<bool>,
    /// Whether a blank ends a word of the pivot, so that what follows it changes no token before.
    blanks_end_words: bool,
    /// By id of the source: the first token of all its bytes. Candidates lie all over the
    /// vocabulary, and each is a visit to memory.
    wholes: Vec<AtomicU32>,
    /// Beside the source's spellings: the first token of what remains from each byte on.
    ends: Vec<AtomicU32>,
}

impl<'a> FirstTokens<'a> {
    /// # Memory
    /// 4 bytes for each token of the source, and for each byte of its spelling.
    pub(super) fn new(
        first_token: &'a (dyn Fn(&[u8]) -> Option<TokenId> + Sync),
        source: &'a Spellings,
        pivot: &'a Spellings,
    ) -> Self {
        let known = |id| match source.is_special(id) {
            true => SPECIAL,
            false => UNKNOWN,
        };
        let wholes = (0..source.len() as TokenId).map(known);
        let ends = std::iter::repeat_n(UNKNOWN, source.bytes());
        Self {
            first_token,
            source,
            pivot,
            extended: pivot.extended(),
            blanks_end_words: pivot.blanks_end_words(),
            wholes: wholes.map(AtomicU32::new).collect(),
            ends: ends.map(AtomicU32::new).collect(),
        }
    }

    /// Takes from a map by first tokens what it says of whole tokens, so that it need not be asked
    /// again.
    pub(super) fn learn(&mut self, map: &[MapRow]) {
        for row in map.iter().filter(|row| row.method == MapMethod::Prefix) {
            let packed = self.packed(row.pivot_id, self.source.of(row.source_id));
            if let Some(whole) = self.wholes.get_mut(row.source_id as usize) {
                *whole.get_mut() = packed;
            }
        }
    }

    /// Whether an id of the source is a special token.
    #[inline]
    pub(super) fn is_special(&self, token: TokenId) -> bool {
        let whole = self.wholes.get(token as usize);
        whole.is_some_and(|whole| whole.load(Ordering::Relaxed) == SPECIAL)
    }

    /// The first token of a source token's bytes from `offset` on.
    #[inline]
    pub(super) fn of_token(&self, token: TokenId, offset: u32) -> Option<First> {
        let slot = match offset {
            0 => self.wholes.get(token as usize)?,
            _ => self.ends.get(self.source.place(token)? + offset as usize)?,
        };
        let known = slot.load(Ordering::Relaxed);
        if known < SPECIAL || known == NONE {
            return unpack(known);
        }
        let packed = self.ask(self.source.of(token).get(offset as usize..)?);
        if known == UNKNOWN {
            slot.store(packed, Ordering::Relaxed);
        }
        unpack(packed)
    }

    fn ask(&self, bytes: &[u8]) -> u32 {
        let token = (self.first_token)(bytes).filter(|token| *token < SPECIAL & !SHORT);
        token.map_or(NONE, |token| self.packed(token, bytes))
    }

    fn packed(&self, token: TokenId, bytes: &[u8]) -> u32 {
        let whole = self.pivot.of(token).len() >= bytes.len();
        let extended = self.extended.get(token as usize).copied();
        match whole && extended.unwrap_or(false) {
            true => token | SHORT,
            false => token,
        }
    }
}

#[inline]
fn unpack(packed: u32) -> Option<First> {
    (packed != NONE).then_some(First {
        token: packed & !SHORT,
        short: packed & SHORT != 0,
    })
}

/// Text of a reading before its last token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead<'t> {
    number: u64,
    blank: bool,
    text: &'t [u8],
}

/// What the pivot makes of readings of several tokens; each thread has its own.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    /// A number for each text; numbers are not given out again.
    numbers: HashMap<Box<[u8]>, u64, RandomState>,
    given: u64,
    known: Memory<(u64, Last), u32>,
    bytes: Vec<u8>,
}

impl Remembered {
    /// A text, with a blank before if one is asked for.
    pub(super) fn ahead<'t>(&mut self, blank: bool, text: &'t [u8]) -> Ahead<'t> {
        write(&mut self.bytes, blank, text);
        let bytes = &self.bytes;
        let number = match self.numbers.get(bytes.as_slice()) {
            Some(number) => *number,
            None => {
                if self.numbers.len() >= TEXTS {
                    self.numbers.clear();
                }
                self.given += 1;
                self.numbers.insert(bytes.as_slice().into(), self.given);
                self.given
            }
        };
        Ahead {
            number,
            blank,
            text,
        }
    }

    /// The first token of a text and, if any, a source token's bytes from an offset on.
    pub(super) fn of(
        &mut self,
        first: &FirstTokens<'_>,
        ahead: Ahead<'_>,
        last: Option<(TokenId, u32)>,
    ) -> Option<First> {
        let rest = |token, offset| first.source.rest(token, offset);
        let word = ahead.text.last().is_some_and(u8::is_ascii_alphanumeric);
        let last = match last {
            None => Last::Nothing,
            Some((token, offset))
                if word && first.blanks_end_words && rest(token, offset).starts_with(b" ") =>
            {
                Last::Blank
            }
            Some((token, offset)) => Last::Token(token, offset),
        };
        let bytes = &mut self.bytes;
        let packed = self.known.of((ahead.number, last), || {
            write(bytes, ahead.blank, ahead.text);
            bytes.extend_from_slice(match last {
                Last::Nothing => b"",
                Last::Blank => b" ",
                Last::Token(token, offset) => rest(token, offset),
            });
            first.ask(bytes)
        });
        unpack(packed)
    }
}

/// Puts a text into `bytes`, with a blank before if one is asked for.
fn write(bytes: &mut Vec<u8>, blank: bool, text: &[u8]) {
    bytes.clear();
    bytes.extend(blank.then_some(b' '));
    bytes.extend_from_slice(text);
}

/// What follows a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Last {
    Nothing,
    /// Anything that begins with a blank, where that ends a word.
    Blank,
    Token(TokenId, u32),
}
