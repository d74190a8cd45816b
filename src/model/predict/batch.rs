//! Samples of like length as one padded batch, and what is predicted in it.

use std::ops::Range;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::draws::Draws;
use super::logprobs::{Listed, NextToken, Wanted, next_token};
use crate::artifact::tokens::SampleTokens;
use crate::error::{Context, Error, Result};
use crate::model::head::Head;
use crate::progress;
use crate::units::TokenId;

/// Full batches in a window: enough that about 5 % of the tokens are padding.
const WINDOW_BATCHES: usize = 32;

/// What a model predicts at the predicted positions of one sample; `n` is their number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Predictions {
    /// (n) Positions, rising; row `pos` is the distribution of token `pos + 1`.
    pub pos: Vec<u32>,
    /// (n) The tokens that follow.
    pub target_id: Vec<TokenId>,
    /// (n) Their log-probabilities, in nats.
    pub target_logprob: Vec<f32>,
    /// (n) Log of the probability outside the list, in nats.
    pub tail_logprob: Vec<f32>,
    /// Entries in each list.
    pub k: usize,
    /// (n × k) The most probable tokens of each position, by falling probability.
    pub ids: Vec<TokenId>,
    /// (n × k) Their log-probabilities, in nats.
    pub logprobs: Vec<f32>,
}

/// How samples are batched and what is kept of the distributions.
#[derive(Clone, Copy, Debug)]
pub struct PredictOptions {
    /// Ids below this exist; the head's rows beyond them are padding and are masked out.
    pub vocab_len: usize,
    /// Entries to keep of each distribution; 0 keeps only the target's log-probability.
    pub k: usize,
    /// Random draws in place of the most probable entries: as many, in rising order, ids repeated;
    /// nothing is left.
    pub draws: Option<Draws>,
    /// Most tokens in one batch, padding included; a longer sample is a batch of its own.
    pub batch_tokens: usize,
}

impl PredictOptions {
    /// Bytes of the predictions of one position.
    pub(super) fn bytes(&self) -> u64 {
        20 + 8 * self.draws.map_or(self.k, |draws| draws.count) as u64
    }
}

/// Samples padded to the length of the first.
pub(super) struct Batch {
    /// Indices of the samples.
    pub samples: Vec<usize>,
    /// Length of all.
    pub width: usize,
    /// (samples × width) Tokens.
    pub ids: Vec<u32>,
    /// Of each predicted position: where it is in `ids`.
    rows: Vec<u32>,
    targets: Vec<TokenId>,
    /// Of each predicted position: its sample within the batch.
    owners: Vec<usize>,
}

impl Batch {
    /// A batch of the samples `chosen`, of which the first is the longest.
    pub fn new(samples: &[SampleTokens], chosen: &[usize]) -> Self {
        let width = samples[chosen[0]].ids.len();
        let mut batch = Self {
            samples: chosen.to_vec(),
            width,
            ids: vec![0; chosen.len() * width],
            rows: Vec::new(),
            targets: Vec::new(),
            owners: Vec::new(),
        };
        for (place, &index) in chosen.iter().enumerate() {
            let sample = &samples[index];
            batch.ids[place * width..][..sample.ids.len()].copy_from_slice(&sample.ids);
            for pos in sample.predicted() {
                batch.rows.push((place * width + pos) as u32);
                batch.targets.push(sample.ids[pos + 1]);
                batch.owners.push(place);
            }
        }
        batch
    }

    /// Whether nothing is predicted.
    pub fn is_idle(&self) -> bool {
        self.rows.is_empty()
    }

    /// Predictions of each sample from `hidden` (samples, width, hidden), after the final norm.
    pub fn predictions(
        &self,
        head: &Head,
        hidden: &Tensor,
        samples: &[SampleTokens],
        options: &PredictOptions,
    ) -> Result<Vec<Predictions>> {
        let mut found = vec![Predictions::default(); self.samples.len()];
        let picked = Tensor::from_slice(&self.rows, self.rows.len(), head.weight.device())
            .and_then(|rows| hidden.flatten(0, 1)?.index_select(&rows, 0))
            .during(|| "picking the predicted positions".into())?;
        let mut reached = 0;
        let pos_of = |row: usize| self.rows[row] % self.width as u32;
        let sample_of = |row: usize| samples[self.samples[self.owners[row]]].sample_id;
        let sink = |row: usize, next: &NextToken<'_>| {
            reached = row + 1;
            let predictions = &mut found[self.owners[row]];
            predictions.pos.push(pos_of(row));
            predictions.target_id.push(self.targets[row]);
            predictions.target_logprob.push(next.target_logprob);
            predictions.tail_logprob.push(next.tail_logprob);
            predictions.k = next.ids.len();
            predictions.ids.extend_from_slice(next.ids);
            predictions.logprobs.extend_from_slice(next.logprobs);
            Ok(())
        };
        let keys: Vec<u64> = options.draws.map_or(Vec::new(), |draws| {
            let rows = 0..self.rows.len();
            rows.map(|row| draws.key(sample_of(row), pos_of(row)))
                .collect()
        });
        let wanted = Wanted {
            targets: &self.targets,
            vocab_len: options.vocab_len,
            listed: match options.draws {
                None => Listed::Best(options.k),
                Some(Draws { count, .. }) => Listed::Draws { count, keys: &keys },
            },
        };
        match next_token(head, &picked, &wanted, sink) {
            Ok(()) => Ok(found),
            // `next_token` knows rows only; a broken row is the first one not delivered.
            Err(Error::Input { problem, .. }) if reached < self.rows.len() => Err(Error::input(
                format!("sample {} position {}", sample_of(reached), pos_of(reached)),
                problem,
            )
            .remedy("the model is broken or overflows in this dtype; try `dtype: f32`")),
            Err(other) => Err(other),
        }
    }
}

/// Consecutive samples that are batched together: about [`WINDOW_BATCHES`] full batches.
pub(super) fn windows(samples: &[SampleTokens], batch_tokens: usize) -> Vec<Range<usize>> {
    let limit = batch_tokens.saturating_mul(WINDOW_BATCHES);
    let (mut windows, mut begin, mut tokens) = (Vec::new(), 0, 0);
    for (index, sample) in samples.iter().enumerate() {
        if index > begin && tokens + sample.ids.len() > limit {
            windows.push(begin..index);
            (begin, tokens) = (index, 0);
        }
        tokens += sample.ids.len();
    }
    if begin < samples.len() {
        windows.push(begin..samples.len());
    }
    windows
}

/// Samples of a window in batches of similar length, longest first, so that the memory needed
/// shows at once.
pub(super) fn batches(
    samples: &[SampleTokens],
    window: Range<usize>,
    batch_tokens: usize,
) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = window.collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(samples[index].ids.len()), index));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for index in order {
        match batches.last_mut() {
            Some(batch) if (batch.len() + 1) * samples[batch[0]].ids.len() <= batch_tokens => {
                batch.push(index);
            }
            _ => batches.push(vec![index]),
        }
    }
    batches
}

/// Calls `work` on each item. Small models leave cores idle inside one batch, so that batches
/// run side by side on a CPU; on a GPU they queue up anyway.
pub(super) fn each<T: Send, R: Send>(
    device: &Device,
    items: Vec<T>,
    work: impl Fn(T) -> Result<R> + Sync + Send,
) -> Result<Vec<R>> {
    let work = |item| {
        progress::check_interrupt()?;
        work(item)
    };
    match device {
        Device::Cpu => items.into_par_iter().map(work).collect(),
        _ => items.into_iter().map(work).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(lengths: &[usize]) -> Vec<SampleTokens> {
        let sample = |&len: &usize| SampleTokens {
            ids: vec![0; len],
            ..Default::default()
        };
        lengths.iter().map(sample).collect()
    }

    #[test]
    fn batches_hold_like_lengths_within_the_budget() {
        let samples = samples(&[3, 10, 4, 50, 9]);
        assert_eq!(
            batches(&samples, 0..5, 20),
            [vec![3], vec![1, 4], vec![2, 0]]
        );
        assert_eq!(batches(&samples, 1..3, 20), [vec![1, 2]]);
        assert!(batches(&samples, 0..0, 20).is_empty());
    }

    #[test]
    fn windows_are_consecutive_and_of_thirty_two_batches() {
        let samples = samples(&[10, 100, 60, 900, 1, 1]);
        assert_eq!(windows(&samples, 10), [0..3, 3..4, 4..6]);
        assert_eq!(windows(&samples[..1], 10), vec![0..1; 1]);
        assert!(windows(&[], 10).is_empty());
    }
}
