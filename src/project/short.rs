//! Short readings: what the pivot makes of a letter or a digit that may be part of a longer token.
//!
//! A reading that is all of the pivot token that it begins with only says that the text goes on
//! with these bytes. Where longer pivot tokens begin so, the pivot itself says which of them it
//! would be: its weight is spread over those that the pivot lists at the position, in proportion
//! to their probabilities there.

use std::collections::HashMap;

use super::spellings::Spellings;
use crate::units::TokenId;

/// Most triples that are remembered.
const REMEMBERED: usize = 1 << 16;

/// Whether a source could have read on from a token as a pivot token does.
#[derive(Debug, Default)]
pub(super) struct Continuations {
    /// By the reading's last source token, the pivot token, and where the reading ends in it.
    known: HashMap<(TokenId, TokenId, u32), bool>,
}

impl Continuations {
    /// Whether text that goes on as `longer` does after its first `read` bytes would still be read
    /// with `last` by the source: it has no longer token that begins so.
    fn keeps(
        &mut self,
        spellings: &Spellings,
        last: TokenId,
        longer: (TokenId, &[u8]),
        read: u32,
    ) -> bool {
        let (id, bytes) = longer;
        if let Some(known) = self.known.get(&(last, id, read)) {
            return *known;
        }
        let mut text = spellings.of(last).to_vec();
        let length = text.len();
        text.extend_from_slice(bytes.get(read as usize..).unwrap_or_default());
        let keeps = !spellings.begins(&text, length);
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert((last, id, read), keeps);
        keeps
    }
}

/// A reading that is all of the pivot token that it begins with, where longer ones begin so.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShortReading {
    pub(super) weight: f64,
    /// The pivot token.
    pub(super) token: TokenId,
    /// The last source token of the reading.
    pub(super) last: TokenId,
}

/// Where the weight of short readings goes at a position.
pub(super) enum ShortRule<'r> {
    /// It stays.
    First,
    /// To the tail.
    Tail,
    /// To what the pivot itself lists there, with its log-probabilities.
    Pivot {
        ids: &'r [TokenId],
        logprobs: &'r [f32],
        continuations: &'r mut Continuations,
    },
}

impl ShortRule<'_> {
    /// Puts into `shares` where the weight goes; they sum to one, or are empty for the tail. False
    /// if it stays.
    pub(super) fn shares(
        &mut self,
        reading: &ShortReading,
        source: &Spellings,
        pivot: &Spellings,
        shares: &mut Vec<(TokenId, f64)>,
    ) -> bool {
        shares.clear();
        let (ids, logprobs, continuations) = match self {
            ShortRule::First => return false,
            ShortRule::Tail => return true,
            ShortRule::Pivot {
                ids,
                logprobs,
                continuations,
            } => (ids, logprobs, continuations),
        };
        let bytes = pivot.of(reading.token);
        let read = bytes.len() as u32;
        for (id, logprob) in ids.iter().zip(logprobs.iter()) {
            let longer = pivot.of(*id);
            if !longer.starts_with(bytes) || pivot.is_special(*id) {
                continue;
            }
            let same = longer.len() == bytes.len();
            if same || continuations.keeps(source, reading.last, (*id, longer), read) {
                shares.push((*id, f64::from(logprob.exp())));
            }
        }
        let total: f64 = shares.iter().map(|share| share.1).sum();
        shares.iter_mut().for_each(|share| share.1 /= total);
        total > 0.0
    }
}
