//! Log-probabilities of next tokens, without ever holding the logits of a whole batch.

use std::ops::Range;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::draws;
use crate::error::{Context, Error, Result};
use crate::model::head::Head;
use crate::model::ops::{self, kernels};
use crate::model::{attach, cuda};

/// Size of the logits that exist at one time, in f32 elements (64 MiB).
const CHUNK: usize = 16 << 20;
/// A GPU finds the best one after another; for longer lists the CPU is better.
const MOST_ON_GPU: usize = 512;
/// Rows of logits at one time on a CPU: enough for fast products, few enough for the caches.
const ROWS_ON_CPU: usize = 256;

/// The distribution of one next token under the full softmax; natural logarithms.
#[derive(Clone, Copy, Debug)]
pub struct NextToken<'a> {
    /// Log-probability of the target.
    pub target_logprob: f32,
    /// Log of the mass outside of `ids`; -inf if `ids` is the whole vocabulary.
    pub tail_logprob: f32,
    /// The most probable ids, best first; among equals the lowest id first.
    pub ids: &'a [u32],
    /// Their log-probabilities.
    pub logprobs: &'a [f32],
}

/// What is wanted of the distributions of n next tokens.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// (n) Ids whose log-probability is wanted.
    pub targets: &'a [u32],
    /// The softmax runs over so many ids; the others do not exist.
    pub vocab_len: usize,
    /// What is listed of each distribution.
    pub listed: Listed<'a>,
}

/// What is listed of each distribution.
#[derive(Clone, Copy, Debug)]
pub enum Listed<'a> {
    /// So many of the most probable ids; 0 is allowed, more than `vocab_len` means all.
    Best(usize),
    /// Random draws: `ids` rise and may repeat, each draw's log-probability is that of its share,
    /// and nothing is left.
    Draws {
        /// Number of draws.
        count: usize,
        /// (n) What the draws of each row follow from.
        keys: &'a [u64],
    },
}

impl<'a> Wanted<'a> {
    /// Fails if this does not fit `rows` hidden states and the rows of the head, `ids`.
    fn check(&self, rows: usize, ids: usize) -> Result<()> {
        let (vocab_len, targets) = (self.vocab_len, self.targets);
        if vocab_len == 0 || vocab_len > ids {
            return Err(Error::usage(format!(
                "a vocabulary of {vocab_len} ids does not fit a model with {ids} rows"
            )));
        }
        if rows != targets.len() {
            return Err(Error::usage(format!(
                "{rows} hidden states for {} targets",
                targets.len()
            )));
        }
        if let Some(row) = targets.iter().position(|&id| id as usize >= vocab_len) {
            return Err(Error::usage(format!(
                "row {row}: target id {} is beyond the vocabulary of {vocab_len} ids",
                targets[row]
            )));
        }
        Ok(())
    }

    /// Entries of each list.
    fn entries(&self) -> usize {
        match self.listed {
            Listed::Best(k) => k.min(self.vocab_len),
            Listed::Draws { count, .. } => count,
        }
    }

    /// The same for some of the rows.
    fn part(&self, rows: Range<usize>) -> Self {
        Self {
            targets: &self.targets[rows.clone()],
            listed: match self.listed {
                Listed::Best(k) => Listed::Best(k),
                Listed::Draws { count, keys } => Listed::Draws {
                    count,
                    keys: &keys[rows],
                },
            },
            ..*self
        }
    }
}

/// Calls `sink(row, distribution)` for each row of hidden states, in order.
///
/// `rows` is (n, hidden), after the final norm. Logits are f32 whatever the type of the model; sums
/// are over f32 exponentials, their total and logarithm in f64.
///
/// Memory: 64 MiB of logits, or one row of them if that is more (twice that for other dtypes
/// than f32, or where the model caps them), and 8 · k bytes per row of such a chunk. On a GPU
/// 512 MiB, and 8 · k bytes for every row.
///
/// # Errors
/// A target is not below `vocab_len`; a logit is NaN or infinite (names the row; all rows before
/// it have been sunk); what `sink` returns.
pub fn next_token(
    head: &Head,
    rows: &Tensor,
    wanted: &Wanted<'_>,
    mut sink: impl FnMut(usize, &NextToken<'_>) -> Result<()>,
) -> Result<()> {
    let during = || "computing log-probabilities".to_owned();
    let sizes = rows.dim(0).and_then(|n| Ok((n, head.weight.dim(0)?)));
    let (count, ids) = sizes.during(|| "reading hidden states".to_owned())?;
    wanted.check(count, ids)?;
    let vocab_len = wanted.vocab_len;
    let weight = head.weight.detach().narrow(0, 0, vocab_len);
    let head = Head {
        weight: weight.during(|| "taking the head's rows".to_owned())?,
        softcap: head.softcap,
    };
    let rows = rows.detach();
    let mut scratch = Scratch::new(wanted.entries());
    if cuda::holds(&rows)
        && scratch.k <= MOST_ON_GPU
        && let Listed::Best(_) = wanted.listed
    {
        let found = cuda::next_tokens(&rows, &head, wanted.targets, vocab_len, scratch.k);
        let found = found.during(during)?;
        let scalars = found.scalars.chunks_exact(2);
        scratch.scalars = scalars.map(|s| (s[0], s[1])).collect();
        (scratch.ids, scratch.logprobs) = (found.ids, found.logprobs);
        return (0..count).try_for_each(|row| scratch.deliver(row, row, &mut sink));
    }
    let enough = match rows.device() {
        Device::Cpu => ROWS_ON_CPU,
        _ => usize::MAX,
    };
    let per_chunk = (CHUNK / vocab_len).clamp(1, enough);
    for begin in (0..count).step_by(per_chunk) {
        let len = per_chunk.min(count - begin);
        let wanted = wanted.part(begin..begin + len);
        let mut compute = || {
            let logits = ops::logits(&rows.narrow(0, begin, len)?, &head)?;
            let logits = logits.to_device(&Device::Cpu)?;
            attach::with_values(&logits, |logits| {
                scratch.fill(logits, &wanted);
                Ok(())
            })
        };
        compute().during(during)?;
        for row in 0..len {
            scratch.deliver(row, begin + row, &mut sink)?;
        }
    }
    Ok(())
}

/// Results of a chunk of rows.
struct Scratch {
    /// Entries of each list.
    k: usize,
    /// (target, tail) per row.
    scalars: Vec<(f32, f32)>,
    ids: Vec<u32>,
    logprobs: Vec<f32>,
}

impl Scratch {
    fn new(k: usize) -> Self {
        Self {
            k,
            scalars: Vec::new(),
            ids: Vec::new(),
            logprobs: Vec::new(),
        }
    }

    /// Calls `sink` with row `row` of the results, which is row `name` of all.
    fn deliver(
        &self,
        row: usize,
        name: usize,
        sink: &mut impl FnMut(usize, &NextToken<'_>) -> Result<()>,
    ) -> Result<()> {
        let entries = row * self.k..(row + 1) * self.k;
        let (target_logprob, tail_logprob) = self.scalars[row];
        if target_logprob.is_nan() {
            return Err(Error::input(
                format!("row {name}"),
                "expected finite logits, found one that is NaN or infinite",
            ));
        }
        let next = NextToken {
            target_logprob,
            tail_logprob,
            ids: &self.ids[entries.clone()],
            logprobs: &self.logprobs[entries],
        };
        sink(name, &next)
    }

    fn fill(&mut self, logits: &[f32], wanted: &Wanted<'_>) {
        let (count, k) = (wanted.targets.len(), self.k);
        self.scalars.resize(count, (0.0, 0.0));
        self.ids.resize(count * k, 0);
        self.logprobs.resize(count * k, 0.0);
        let inputs = logits
            .par_chunks_exact(wanted.vocab_len)
            .zip(wanted.targets);
        let outputs = &mut self.scalars;
        if k == 0 {
            outputs
                .par_iter_mut()
                .zip(inputs)
                .for_each(|(scalars, (logits, &target))| {
                    *scalars = row(logits, target, &mut [], &mut []);
                });
            return;
        }
        let lists = self
            .ids
            .par_chunks_exact_mut(k)
            .zip(self.logprobs.par_chunks_exact_mut(k));
        let all = outputs.par_iter_mut().zip(lists).zip(inputs).enumerate();
        all.for_each(|(at, ((scalars, (ids, logprobs)), (logits, &target)))| {
            *scalars = match wanted.listed {
                Listed::Best(_) => row(logits, target, ids, logprobs),
                Listed::Draws { keys, .. } => draws::row(logits, target, keys[at], ids, logprobs),
            };
        });
    }
}

/// Fills `ids` and `logprobs` with the best of a row; returns the log-probability of the target
/// and of the rest, or NaN for both if a logit is not finite.
fn row(logits: &[f32], target: u32, ids: &mut [u32], logprobs: &mut [f32]) -> (f32, f32) {
    if !kernels::all_finite(logits) {
        return (f32::NAN, f32::NAN);
    }
    best(logits, ids, logprobs);
    let shift = match logprobs.first() {
        Some(&largest) => largest,
        None => kernels::max(logits),
    };
    // The rest is summed on its own, between the listed ids: 1 minus the listed mass would
    // lose all digits where the model is sure.
    let mut listed: Vec<u32> = ids.to_vec();
    listed.sort_unstable();
    let (mut rest, mut begin) = (0f64, 0usize);
    for &id in listed.iter().chain(std::iter::once(&(logits.len() as u32))) {
        let end = id as usize;
        for block in logits[begin..end].chunks(4096) {
            rest += f64::from(kernels::sum_exp(block, shift));
        }
        begin = end + 1;
    }
    let shift = f64::from(shift);
    let top: f64 = logprobs.iter().map(|&x| (f64::from(x) - shift).exp()).sum();
    let log_sum = (top + rest).ln();
    let logprob = |logit: f32| (f64::from(logit) - shift - log_sum) as f32;
    for value in logprobs.iter_mut() {
        *value = logprob(*value);
    }
    let tail = (rest.ln() - log_sum) as f32;
    (logprob(logits[target as usize]), tail)
}

/// The largest values, in order, and where they are; among equals the first.
fn best(logits: &[f32], ids: &mut [u32], values: &mut [f32]) {
    const BLOCK: usize = 64;
    let Some(last) = values.len().checked_sub(1) else {
        return;
    };
    values.fill(f32::NEG_INFINITY);
    ids.fill(u32::MAX);
    for (block, chunk) in logits.chunks(BLOCK).enumerate() {
        // Few blocks hold a new entry once the list is warm, and this test is one vector loop.
        if kernels::max(chunk) <= values[last] {
            continue;
        }
        for (offset, &value) in chunk.iter().enumerate() {
            if value > values[last] {
                let place = values.partition_point(|&listed| listed >= value);
                values[place..].rotate_right(1);
                ids[place..].rotate_right(1);
                values[place] = value;
                ids[place] = (block * BLOCK + offset) as u32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_keeps_order_and_prefers_low_ids() {
        let logits: Vec<f32> = (0..200).map(|i| ((i * 37) % 50) as f32).collect();
        let (mut ids, mut values) = ([0; 7], [0.0; 7]);
        best(&logits, &mut ids, &mut values);
        let mut naive: Vec<u32> = (0..200).collect();
        naive.sort_by(|&a, &b| {
            logits[b as usize]
                .total_cmp(&logits[a as usize])
                .then(a.cmp(&b))
        });
        assert_eq!(ids, naive[..7]);
    }

    #[test]
    fn a_tail_far_below_keeps_its_digits() {
        // One id at 40, three at 0: the tail is 3 e^-40, far below the resolution of 1 - p.
        let (mut ids, mut logprobs) = ([0; 1], [0.0; 1]);
        let (target, tail) = row(&[0.0, 40.0, 0.0, 0.0], 2, &mut ids, &mut logprobs);
        assert_eq!(ids, [1]);
        assert!((tail - (3f32.ln() - 40.0)).abs() < 1e-5, "{tail}");
        assert!((target + 40.0).abs() < 1e-5);
        let (mut ids, mut logprobs) = ([0; 2], [0.0; 2]);
        let (_, tail) = row(&[1.0, 2.0], 0, &mut ids, &mut logprobs);
        assert_eq!(tail, f32::NEG_INFINITY);
    }
}
