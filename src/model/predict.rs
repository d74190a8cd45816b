//! Next-token predictions for a set of samples: batches by length, one pass, any order inside,
//! the caller's order outside.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::Decoder;
use super::draws::Draws;
use super::logprobs::{NextToken, drawn_tokens, next_token};
use crate::artifact::tokens::SampleTokens;
use crate::error::{Context, Error, Result};
use crate::progress;
use crate::units::TokenId;

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
    /// Most tokens in one batch, padding included; a longer sample is a batch of its own.
    pub batch_tokens: usize,
}

/// Runs `decoder` over `samples` and calls `sink(index, predictions)` once for each, as batches
/// finish; samples without predicted positions get empty predictions.
///
/// # Errors
/// A logit that is NaN or infinite, naming sample and position; what `sink` returns.
///
/// # Memory
/// The activations of one batch for each thread, 64 MiB of logits each, and its predictions.
pub fn predict(
    decoder: &Decoder,
    samples: &[SampleTokens],
    options: &PredictOptions,
    sink: impl Fn(usize, Predictions) -> Result<()> + Sync,
) -> Result<()> {
    predict_with(decoder, samples, options, None, sink)
}

/// [`predict`], or with `draws` random draws in place of the most probable tokens: `k` is then
/// their number, ids rise and may repeat, and nothing is left.
pub fn predict_with(
    decoder: &Decoder,
    samples: &[SampleTokens],
    options: &PredictOptions,
    draws: Option<Draws>,
    sink: impl Fn(usize, Predictions) -> Result<()> + Sync,
) -> Result<()> {
    let batches = batches(samples, options.batch_tokens);
    let run = |batch: &Vec<usize>| -> Result<()> {
        progress::check_interrupt()?;
        predict_batch(decoder, samples, batch, options, draws, &sink)
    };
    // Small models leave cores idle inside one batch; on a GPU batches queue up anyway.
    match decoder.device() {
        Device::Cpu => batches.par_iter().try_for_each(run),
        _ => batches.iter().try_for_each(run),
    }
}

/// Indices of samples in batches of similar length, longest first, so that the memory needed
/// shows at once.
fn batches(samples: &[SampleTokens], batch_tokens: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..samples.len()).collect();
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

fn predict_batch(
    decoder: &Decoder,
    samples: &[SampleTokens],
    batch: &[usize],
    options: &PredictOptions,
    draws: Option<Draws>,
    sink: &(impl Fn(usize, Predictions) -> Result<()> + Sync),
) -> Result<()> {
    let width = samples[batch[0]].ids.len();
    let mut ids = vec![0u32; batch.len() * width];
    let mut rows = Vec::new();
    let mut targets = Vec::new();
    // Of each row: its sample within the batch.
    let mut owners = Vec::new();
    for (place, &index) in batch.iter().enumerate() {
        let sample = &samples[index];
        ids[place * width..][..sample.ids.len()].copy_from_slice(&sample.ids);
        for pos in sample.predicted() {
            rows.push((place * width + pos) as u32);
            targets.push(sample.ids[pos + 1]);
            owners.push(place);
        }
    }
    let mut found: Vec<Predictions> = vec![Predictions::default(); batch.len()];
    if !rows.is_empty() {
        let device = decoder.device();
        let hidden = Tensor::from_vec(ids, (batch.len(), width), device)
            .during(|| "copying a batch".into())
            .and_then(|ids| decoder.hidden(&ids))?;
        let picked = Tensor::from_slice(&rows, rows.len(), device)
            .and_then(|rows| hidden.flatten(0, 1)?.index_select(&rows, 0))
            .during(|| "picking the predicted positions".into())?;
        drop(hidden);
        let mut reached = 0;
        let pos_of = |row: usize| rows[row] % width as u32;
        let sink = |row: usize, next: &NextToken<'_>| {
            reached = row + 1;
            let predictions = &mut found[owners[row]];
            predictions.pos.push(pos_of(row));
            predictions.target_id.push(targets[row]);
            predictions.target_logprob.push(next.target_logprob);
            predictions.tail_logprob.push(next.tail_logprob);
            predictions.k = next.ids.len();
            predictions.ids.extend_from_slice(next.ids);
            predictions.logprobs.extend_from_slice(next.logprobs);
            Ok(())
        };
        let vocab_len = options.vocab_len;
        let done = match draws {
            None => next_token(decoder, &picked, &targets, vocab_len, options.k, sink),
            Some(draws) => {
                let sample = |row: usize| samples[batch[owners[row]]].sample_id;
                let keys = (0..rows.len()).map(|row| draws.key(sample(row), pos_of(row)));
                let keys: Vec<u64> = keys.collect();
                let count = draws.count;
                drawn_tokens(decoder, &picked, &targets, &keys, vocab_len, count, sink)
            }
        };
        if let Err(error) = done {
            // `next_token` knows rows only; a broken row is the first one not delivered.
            return Err(match error {
                Error::Input { problem, .. } if reached < rows.len() => Error::input(
                    format!(
                        "sample {} position {}",
                        samples[batch[owners[reached]]].sample_id,
                        rows[reached] % width as u32
                    ),
                    problem,
                )
                .remedy("the model is broken or overflows in this dtype; try `dtype: f32`"),
                other => other,
            });
        }
    }
    for (place, predictions) in found.into_iter().enumerate() {
        sink(batch[place], predictions)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_like_lengths_within_the_budget() {
        let sample = |len| SampleTokens {
            ids: vec![0; len],
            ..Default::default()
        };
        let samples: Vec<_> = [3, 10, 4, 50, 9].map(sample).into();
        assert_eq!(batches(&samples, 20), [vec![3], vec![1, 4], vec![2, 0]]);
        assert!(batches(&[], 20).is_empty());
    }
}
