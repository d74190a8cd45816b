//! One row of the source, as probabilities that sum to one.

use crate::artifact::distribution::Distribution;
use crate::units::TokenId;

/// A log-probability may be this much above 0, from rounding.
pub(super) const SLACK: f32 = 1e-2;

/// A row of the source that is no distribution.
#[derive(Debug)]
pub(super) struct BadRow {
    pub(super) pos: u32,
}

/// The distribution of the token that follows in the text, and of what else might have.
#[derive(Clone, Debug, Default)]
pub(super) struct SourceRow {
    /// The token that follows.
    pub(super) target: TokenId,
    /// Its probability, listed or not.
    pub(super) target_prob: f64,
    /// The other listed tokens with their probabilities.
    pub(super) others: Vec<(TokenId, f64)>,
    /// Probability of all that is neither.
    pub(super) tail: f64,
    /// Length of the stored list.
    pub(super) k: usize,
}

impl SourceRow {
    /// Takes a stored row. The probability of the token that follows is exact; the others and the
    /// tail are scaled so that all sum to one: what storing rounded must not leak into it.
    pub(super) fn read(&mut self, row: &Distribution<'_>) -> Result<(), BadRow> {
        let bad = BadRow { pos: row.pos };
        self.target = row.target_id;
        self.target_prob = f64::from(row.target_logprob).exp().min(1.0);
        self.k = row.ids.len();
        self.others.clear();
        let mut sane = row.tail_logprob <= SLACK && row.target_logprob <= SLACK;
        let (mut sum, mut listed) = (0.0, false);
        for (id, logprob) in row.ids.iter().zip(row.logprobs) {
            // NaN compares false.
            sane &= *logprob <= SLACK;
            if *id == row.target_id {
                listed = true;
                continue;
            }
            let prob = f64::from(logprob.exp());
            sum += prob;
            self.others.push((*id, prob));
        }
        let tail = f64::from(row.tail_logprob.exp());
        if !sane || sum + tail + self.target_prob <= 0.0 {
            return Err(bad);
        }
        // Where the token that follows is not listed, the tail holds its probability.
        let tail = match listed {
            true => tail,
            false => (tail - self.target_prob).max(0.0),
        };
        let left = 1.0 - self.target_prob;
        let scale = left / (sum + tail);
        if sum + tail <= 0.0 {
            self.tail = left;
            return Ok(());
        }
        self.others.iter_mut().for_each(|other| other.1 *= scale);
        self.tail = tail * scale;
        Ok(())
    }
}
