//! Loss and gradients of one micro batch: decoder, head, and back.

use candle_core::Tensor;

use super::data::MicroBatch;
use super::loss::{self, Head, Sums, Weights};
use super::passes::Pass;
use crate::error::{Context, Result};
use crate::model::{Decoder, ops};

/// What one micro batch adds to the step.
#[derive(Debug)]
pub struct MicroGradient {
    /// Loss sums.
    pub sums: Sums,
    /// ∂L/∂parameter for all that is trained, in the order of their names; `None` is zero.
    pub params: Vec<Option<Tensor>>,
}

/// Runs the decoder forward and backward.
///
/// The gradient of the loss at the head is computed first, without a graph; it then seeds one
/// backward pass of the decoder. With `checkpointing`, layers are computed again on the way back.
///
/// # Errors
/// A loss that is infinite or NaN, naming `step` (from 0) and the samples.
///
/// # Memory
/// All activations of the micro batch (with `checkpointing`, those of one layer and the inputs of
/// all), 64 MiB of logits, and the gradients.
pub fn micro_gradient(
    decoder: &Decoder,
    micro: &MicroBatch,
    weights: Weights,
    step: u64,
    checkpointing: bool,
) -> Result<MicroGradient> {
    let pass = Pass::forward(decoder, micro, checkpointing)?;
    let hidden = pass.hidden();
    let (picked, index) = pick(hidden, micro)?;
    let head = Head::of(decoder);
    let head = loss::head_gradient(&picked, &head, &micro.rows, weights)?;
    loss::check_finite(&head.sums, step, &micro.samples)?;
    let rows = hidden.dim(0);
    let seed = rows.and_then(|rows| ops::scatter_rows(&head.hidden, &index, rows));
    let seed = seed.during(|| "spreading the gradient of the head".to_owned())?;
    let mut params = vec![None; decoder.trained().len()];
    let name = decoder.config().head_name();
    let slot = decoder.trained().keys().position(|key| key == name);
    if let Some(slot) = slot.and_then(|i| params.get_mut(i)) {
        *slot = head.head;
    }
    let params = pass.backward(&seed, params)?;
    Ok(MicroGradient {
        sums: head.sums,
        params,
    })
}

/// Σ −log q over the supervised tokens, in nats.
pub fn micro_nll(decoder: &Decoder, micro: &MicroBatch) -> Result<f64> {
    // Nothing is kept for a backward: checkpointing drops the graph layer by layer.
    let pass = Pass::forward(decoder, micro, true)?;
    let (picked, _) = pick(pass.hidden(), micro)?;
    loss::head_nll(&picked, &Head::of(decoder), &micro.rows)
}

/// The rows whose next token is supervised, without their graph, and which they are.
fn pick(hidden: &Tensor, micro: &MicroBatch) -> Result<(Tensor, Tensor)> {
    let pick = || -> candle_core::Result<(Tensor, Tensor)> {
        let index = Tensor::from_slice(&micro.rows.index, micro.rows.len(), hidden.device())?;
        Ok((hidden.detach().index_select(&index, 0)?, index))
    };
    pick().during(|| "selecting supervised positions".to_owned())
}
