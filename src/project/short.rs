//! Short readings: what the pivot makes of a letter or a digit that may be part of a longer token.
//!
//! A reading that is all of the pivot token that it begins with only says that the text goes on
//! with these bytes. Where longer pivot tokens begin so, the pivot itself says which of them it
//! would be: its weight is spread over those that the pivot lists at the position, in proportion
//! to their probabilities there.

use super::memory::Memory;
use super::spellings::Spellings;
use crate::units::TokenId;

/// Whether a source could have read on from a token as a pivot token does.
#[derive(Debug, Default)]
pub(super) struct Continuations {
    /// By the reading's last source token, the pivot token, and where the reading ends in it.
    known: Memory<(TokenId, TokenId, u32), bool>,
}

impl Continuations {
    /// Whether text that goes on as `longer` does after its first `read` bytes would still be read
    /// with `last` by the source: it has no longer token that begins so.
    fn keeps(
        &mut self,
        (source, pivot): (&Spellings, &Spellings),
        last: TokenId,
        longer: TokenId,
        read: u32,
    ) -> bool {
        self.known.of((last, longer, read), || {
            let mut text = source.of(last).to_vec();
            let length = text.len();
            text.extend_from_slice(pivot.rest(longer, read));
            !source.begins(&text, length)
        })
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

/// Where the weight of one goes.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// The pivot's tokens of text at the position, with their probabilities.
    own: Vec<(TokenId, f64)>,
    /// Their first bytes, parallel to `own`: they rule out most of them.
    heads: Vec<u64>,
    /// They sum to one, or are empty for the tail.
    pub(super) list: Vec<(TokenId, f64)>,
}

impl ShortRule<'_> {
    /// Looks at a position; false if nothing moves there.
    pub(super) fn begin(&self, pivot: &Spellings, shares: &mut Shares) -> bool {
        shares.own.clear();
        shares.heads.clear();
        if let ShortRule::Pivot { ids, logprobs, .. } = self {
            for (id, logprob) in ids.iter().zip(*logprobs) {
                if !pivot.is_special(*id) {
                    shares.own.push((*id, f64::from(logprob.exp())));
                    shares.heads.push(pivot.outline(*id).head);
                }
            }
        }
        !matches!(self, ShortRule::First)
    }

    /// Puts into `shares` where the weight goes. False if it stays.
    pub(super) fn shares(
        &mut self,
        reading: &ShortReading,
        source: &Spellings,
        pivot: &Spellings,
        shares: &mut Shares,
    ) -> bool {
        shares.list.clear();
        let continuations = match self {
            ShortRule::First => return false,
            ShortRule::Tail => return true,
            ShortRule::Pivot { continuations, .. } => continuations,
        };
        let token = pivot.outline(reading.token);
        let mask = token.mask();
        for (at, head) in shares.heads.iter().enumerate() {
            if (head ^ token.head) & mask != 0 {
                continue;
            }
            let (id, prob) = shares.own[at];
            let (bytes, longer) = (pivot.of(token.id), pivot.of(id));
            let (last, read) = (reading.last, token.length);
            if longer.starts_with(bytes)
                && (longer.len() == bytes.len()
                    || continuations.keeps((source, pivot), last, id, read))
            {
                shares.list.push((id, prob));
            }
        }
        if let [only] = shares.list[..] {
            shares.list[0].1 = 1.0;
            return only.0 != reading.token && only.1 > 0.0;
        }
        let total: f64 = shares.list.iter().map(|share| share.1).sum();
        shares.list.iter_mut().for_each(|share| share.1 /= total);
        total > 0.0
    }
}
