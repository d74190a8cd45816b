//! The training loss and its gradient at the head, without ever holding all logits.
//!
//! L = λ · CLM + (1 − λ) · D (FuseLLM, eq. 6; FuseChat, eq. 5). CLM is the cross-entropy of the next
//! token, averaged over the supervised tokens of the whole optimiser step. D is the cross-entropy
//! −Σ pᵢ (zᵢ − logsumexp z) between the stored distribution P and the model's logits z, averaged
//! over the positions of the step that carry a target. KL(P‖Q) is D less the entropy of P: the same
//! gradient, so it is logged and not an option.
//!
//! Only positions whose next token is supervised go through the head, in chunks of rows whose logits
//! are overwritten by their own gradient:
//!
//! ```text
//! ∂L/∂z = (a + b Σp) softmax(z) − a e_label − b p      a = λ / N_supervised, b = (1 − λ) / N_targets
//! ```
//!
//! so that ∂L/∂hidden and ∂L/∂head are two matrix products a chunk, and batch × length × vocabulary
//! never exists. The gradient of the hidden states then seeds the backward pass of the decoder.

use std::ops::Range;
use std::sync::Mutex;

use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor};
use rayon::prelude::*;

use super::rows::Rows;
use crate::error::{Context, Error, Result};
use crate::model::ops::{self, kernels};
use crate::model::{self, Decoder, cuda};

/// Most bytes of f32 logits at once.
const CHUNK_BYTES: usize = 64 << 20;
/// Rows of logits at one time: enough for fast products, few enough for the caches.
const CHUNK_ROWS: usize = 512;

/// What one row counts in the loss of the whole optimiser step.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    /// a = λ / (supervised tokens of the step).
    pub clm: f64,
    /// b = (1 − λ) / (targets of the step), 0 if it has none.
    pub fusion: f64,
}

impl Weights {
    /// Weights for a step with so many supervised tokens and targets.
    pub fn new(lambda: f64, supervised: usize, targets: usize) -> Self {
        let share = |part: f64, of: usize| if of > 0 { part / of as f64 } else { 0.0 };
        Self {
            clm: share(lambda, supervised),
            fusion: share(1.0 - lambda, targets),
        }
    }
}

/// Sums over rows, not yet divided by their number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Σ −log q(label) over supervised rows, in nats.
    pub clm: f64,
    /// Σ cross-entropy between target and model, over rows with a target.
    pub fusion: f64,
    /// Σ entropy of the targets.
    pub entropy: f64,
}

impl Sums {
    /// Adds another micro batch.
    pub fn add(&mut self, other: &Sums) {
        self.clm += other.clm;
        self.fusion += other.fusion;
        self.entropy += other.entropy;
    }

    fn is_finite(&self) -> bool {
        self.clm.is_finite() && self.fusion.is_finite()
    }
}

/// Loss sums and gradients of one micro batch at the head.
#[derive(Debug)]
pub struct HeadGradient {
    /// Sums over the rows.
    pub sums: Sums,
    /// ∂L/∂(hidden rows): (rows, hidden), in the dtype of the hidden rows.
    pub hidden: Tensor,
    /// ∂L/∂head: (vocabulary, hidden), f32; none where the head is not trained.
    pub head: Option<Tensor>,
}

/// What turns hidden states into logits.
#[derive(Clone, Debug)]
pub struct Head {
    /// Matrix and soft cap, without their graph.
    pub output: model::Head,
    /// Whether its own gradient is wanted.
    pub trained: bool,
}

impl Head {
    /// The head of a model.
    pub fn of(decoder: &Decoder) -> Self {
        Self {
            output: model::Head {
                weight: decoder.head().weight.detach(),
                softcap: decoder.head().softcap,
            },
            trained: decoder.trained().contains_key(decoder.config().head_name()),
        }
    }

    /// f32 logits (rows, vocabulary).
    fn logits(&self, hidden: &Tensor) -> candle_core::Result<Tensor> {
        ops::logits(hidden, &self.output)
    }
}

/// Loss and gradient for `hidden` (rows, hidden size), one row for each of `rows`, and the
/// `head`. Both are used without their graph.
///
/// Sums are infinite or NaN where the logits are: the caller says which samples.
///
/// # Memory
/// Beside its result: at most 64 MiB of f32 logits, three times that if they are capped.
/// On a GPU: 512 MiB of them, or one row if that is more, and their gradient.
pub fn head_gradient(
    hidden: &Tensor,
    head: &Head,
    rows: &Rows,
    weights: Weights,
) -> Result<HeadGradient> {
    let during = || "computing the loss".to_owned();
    let hidden = hidden.detach();
    let mut sums = Sums {
        entropy: rows.entropy,
        ..Sums::default()
    };
    if cuda::holds(&hidden) {
        let weights = Some((weights.clm, weights.fusion));
        let found = cuda::head_loss(&hidden, &head.output, &rows.columns, weights);
        let found = found.during(during)?;
        sums.add(&sum_of(&found.losses));
        let (hidden, sum) = match found.gradients {
            Some((hidden, sum)) => (hidden, head.trained.then_some(sum)),
            None => (hidden.zeros_like().during(during)?, None),
        };
        return Ok(HeadGradient {
            sums,
            hidden,
            head: sum,
        });
    }
    let mut hidden_parts = Vec::new();
    let weight = &head.output.weight;
    let trained = head.trained.then_some(weight);
    let mut head_sum = ops::Sums::new(trained.into_iter(), vec![None]);
    for range in chunks(rows.len(), rows.columns.vocabulary) {
        let part = hidden.narrow(0, range.start, range.len());
        let part = part.and_then(|part| {
            let (gradient, found) = chunk_gradient(&part, head, rows, range, weights)?;
            sums.add(&found);
            head_sum.add_linear(weight, &part, &gradient)?;
            ops::multiply(&gradient, weight)?.to_dtype(hidden.dtype())
        });
        hidden_parts.push(part.during(during)?);
    }
    let hidden = match hidden_parts.len() {
        0 => hidden.zeros_like().during(during)?,
        1 => hidden_parts.swap_remove(0),
        _ => Tensor::cat(&hidden_parts, 0).during(during)?,
    };
    Ok(HeadGradient {
        sums,
        hidden,
        head: head_sum.into_inner().pop().flatten(),
    })
}

/// ∂L/∂logits before their cap, for the rows `range` alone.
fn chunk_gradient(
    hidden: &Tensor,
    head: &Head,
    rows: &Rows,
    range: Range<usize>,
    weights: Weights,
) -> candle_core::Result<(Tensor, Sums)> {
    let logits = head.logits(hidden)?;
    let slope = match head.output.softcap {
        Some(cap) => Some(ops::softcap_slope(&logits, cap)?),
        None => None,
    };
    let (gradient, sums) = logits_gradient(logits, rows, range, weights)?;
    let gradient = match slope {
        Some(slope) => (gradient * slope)?,
        None => gradient,
    };
    Ok((gradient, sums))
}

/// Σ −log q(label) in nats over `rows`, for validation. Shapes and memory as [`head_gradient`].
pub fn head_nll(hidden: &Tensor, head: &Head, rows: &Rows) -> Result<f64> {
    if cuda::holds(hidden) {
        let found = cuda::head_loss(&hidden.detach(), &head.output, &rows.columns, None);
        let found = found.during(|| "computing the validation loss".to_owned())?;
        return Ok(sum_of(&found.losses).clm);
    }
    let mut nll = 0.0;
    let weights = Weights {
        clm: 0.0,
        fusion: 0.0,
    };
    for range in chunks(rows.len(), rows.columns.vocabulary) {
        let mut chunk = || -> candle_core::Result<()> {
            let part = hidden.detach().narrow(0, range.start, range.len())?;
            let logits = head.logits(&part)?;
            nll += logits_gradient(logits, rows, range.clone(), weights)?.1.clm;
            Ok(())
        };
        chunk().during(|| "computing the validation loss".to_owned())?;
    }
    Ok(nll)
}

/// Sums of the losses that a GPU finds for each row.
fn sum_of(losses: &[f64]) -> Sums {
    let of = |which: usize| losses.iter().skip(which).step_by(2).sum();
    Sums {
        clm: of(0),
        fusion: of(1),
        entropy: 0.0,
    }
}

/// Says which samples made a loss that is no number.
pub fn check_finite(sums: &Sums, step: u64, samples: &[u64]) -> Result<()> {
    if sums.is_finite() {
        return Ok(());
    }
    Err(not_finite("loss", step, samples))
}

/// The error for a `what` that is infinite or NaN.
pub fn not_finite(what: &str, step: u64, samples: &[u64]) -> Error {
    const SHOWN: usize = 16;
    let mut list: Vec<String> = samples.iter().take(SHOWN).map(u64::to_string).collect();
    if samples.len() > SHOWN {
        list.push(format!("{} more", samples.len() - SHOWN));
    }
    Error::input(
        format!("step {}", step + 1),
        format!(
            "the {what} is infinite or not a number, in samples {}",
            list.join(", ")
        ),
    )
    .remedy("lower `lr`, or look for a damaged checkpoint or target with `fuselm check`")
}

/// Bytes of logits at a time, for so many rows at most.
pub(super) fn logits_bytes(vocabulary: usize, rows: u64) -> u64 {
    chunks(usize::try_from(rows).unwrap_or(usize::MAX), vocabulary)
        .next()
        .map_or(0, |range| 4 * vocabulary as u64 * range.len() as u64)
}

/// Ranges of rows whose f32 logits fit the limits.
fn chunks(rows: usize, vocabulary: usize) -> impl Iterator<Item = Range<usize>> {
    let size = (CHUNK_BYTES / (4 * vocabulary.max(1))).clamp(1, CHUNK_ROWS);
    (0..rows)
        .step_by(size)
        .map(move |begin| begin..rows.min(begin + size))
}

/// Turns f32 logits (rows, vocabulary) into their gradient.
fn logits_gradient(
    logits: Tensor,
    rows: &Rows,
    range: Range<usize>,
    weights: Weights,
) -> candle_core::Result<(Tensor, Sums)> {
    let kernel = Kernel {
        rows,
        range,
        weights,
        sums: Mutex::new(Sums::default()),
    };
    logits.inplace_op1(&kernel)?;
    let sums = *lock(&kernel.sums);
    Ok((logits, sums))
}

/// A poisoned lock only says that another thread panicked while it held plain numbers.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Overwrites logits by their gradient, row by row.
struct Kernel<'a> {
    rows: &'a Rows,
    range: Range<usize>,
    weights: Weights,
    sums: Mutex<Sums>,
}

impl InplaceOp1 for Kernel<'_> {
    fn name(&self) -> &'static str {
        "fusion-loss"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let CpuStorage::F32(values) = storage else {
            candle_core::bail!("the fusion loss needs f32 logits")
        };
        let Some((begin, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("the fusion loss needs contiguous logits")
        };
        let vocabulary = self.rows.columns.vocabulary;
        // Collected in row order and summed in it: the same for any number of threads.
        let losses: Vec<(f64, f64)> = values[begin..end]
            .par_chunks_mut(vocabulary)
            .with_min_len(16)
            .zip(self.range.clone())
            .map(|(logits, row)| self.row(logits, row))
            .collect();
        let mut sums = lock(&self.sums);
        for (clm, fusion) in losses {
            sums.clm += clm;
            sums.fusion += fusion;
        }
        Ok(())
    }
}

impl Kernel<'_> {
    /// Gradient of one row in place; returns (CLM, D).
    fn row(&self, logits: &mut [f32], row: usize) -> (f64, f64) {
        let rows = self.rows;
        let (ids, probs) = rows.entries(row);
        let columns = &rows.columns;
        let (label, rest) = (columns.labels[row] as usize, columns.rest[row]);
        let (a, b) = match columns.targeted[row] {
            true => (self.weights.clm, self.weights.fusion),
            false => (self.weights.clm, 0.0),
        };
        let label_logit = f64::from(logits[label]);
        // Σ pᵢ zᵢ and Σ pᵢ, with every unlisted id at `rest`.
        let (mut expected, mut mass) = (0.0, 0.0);
        for (id, p) in ids.iter().zip(probs) {
            expected += f64::from(p - rest) * f64::from(logits[*id as usize]);
            mass += f64::from(p - rest);
        }
        if rest > 0.0 {
            let all: f64 = logits.iter().map(|z| f64::from(*z)).sum();
            expected += f64::from(rest) * all;
            mass += f64::from(rest) * logits.len() as f64;
        }
        let max = kernels::max(logits);
        let sum = kernels::exp_row(logits, max);
        let lse = f64::from(max) + sum.ln();
        let scale = ((a + b * mass) / sum) as f32;
        let shift = (b * f64::from(rest)) as f32;
        kernels::affine_row(logits, scale, -shift);
        logits[label] -= a as f32;
        for (id, p) in ids.iter().zip(probs) {
            logits[*id as usize] -= (b * f64::from(p - rest)) as f32;
        }
        let fusion = match columns.targeted[row] {
            true => mass * lse - expected,
            false => 0.0,
        };
        (lse - label_logit, fusion)
    }
}

#[cfg(test)]
#[path = "loss_tests.rs"]
mod tests;
