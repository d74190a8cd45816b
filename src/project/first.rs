//! The first pivot token of what remains of a reading.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use super::spellings::Spellings;
use crate::units::TokenId;

/// Most distinct readings of several tokens that are remembered.
const REMEMBERED: usize = 1 << 16;

/// Nothing is known yet.
const UNKNOWN: u32 = u32::MAX;
/// No token of the pivot begins so.
const NONE: u32 = u32::MAX - 1;
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
    /// Beside the source's spellings: the first token of what remains from each byte on.
    ends: Vec<AtomicU32>,
}

impl<'a> FirstTokens<'a> {
    /// # Memory
    /// 4 bytes for each byte of the source's spellings.
    pub(super) fn new(
        first_token: &'a (dyn Fn(&[u8]) -> Option<TokenId> + Sync),
        source: &'a Spellings,
        pivot: &'a Spellings,
    ) -> Self {
        let unknown = || AtomicU32::new(UNKNOWN);
        Self {
            first_token,
            source,
            pivot,
            extended: pivot.extended(),
            ends: std::iter::repeat_with(unknown)
                .take(source.bytes())
                .collect(),
        }
    }

    /// The first token of a source token's bytes from `offset` on.
    #[inline]
    pub(super) fn of_token(&self, token: TokenId, offset: u32) -> Option<First> {
        let slot = self.ends.get(self.source.place(token)? + offset as usize)?;
        let known = slot.load(Ordering::Relaxed);
        if known != UNKNOWN {
            return unpack(known);
        }
        let bytes = self.source.of(token).get(offset as usize..)?;
        let packed = self.ask(bytes);
        slot.store(packed, Ordering::Relaxed);
        unpack(packed)
    }

    fn ask(&self, bytes: &[u8]) -> u32 {
        let token = (self.first_token)(bytes).filter(|token| *token < NONE & !SHORT);
        let Some(token) = token else { return NONE };
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

/// What the pivot makes of readings of several tokens; each thread has its own.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    known: HashMap<Box<[u8]>, u32>,
}

impl Remembered {
    /// The first token of these bytes.
    pub(super) fn of(&mut self, first: &FirstTokens<'_>, bytes: &[u8]) -> Option<First> {
        if let Some(known) = self.known.get(bytes) {
            return unpack(*known);
        }
        let packed = first.ask(bytes);
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(bytes.into(), packed);
        unpack(packed)
    }
}
