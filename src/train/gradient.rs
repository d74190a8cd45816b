//! Loss and gradients of one micro batch: decoder, head, and back.

use candle_core::{DType, Tensor};

use super::data::MicroBatch;
use super::loss::{self, Head, Sums, Weights};
use crate::error::{Context, Result};
#[cfg(feature = "cuda")]
use crate::model::cuda;
use crate::model::{Decoder, attach1};

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
/// backward pass of the decoder. (Gradient checkpointing replaces `backward` alone.)
///
/// # Errors
/// A loss that is infinite or NaN, naming `step` (from 0) and the samples.
///
/// # Memory
/// All activations of the micro batch, 64 MiB of logits, and the gradients.
pub fn micro_gradient(
    decoder: &Decoder,
    micro: &MicroBatch,
    weights: Weights,
    step: u64,
) -> Result<MicroGradient> {
    let hidden = forward(decoder, micro)?;
    let (picked, index) = pick(&hidden, micro)?;
    let head = Head::of(decoder);
    let head = loss::head_gradient(&picked, &head, &micro.rows, weights)?;
    loss::check_finite(&head.sums, step, &micro.samples)?;
    let spread = || -> candle_core::Result<Tensor> {
        #[cfg(feature = "cuda")]
        if hidden.device().is_cuda() {
            return cuda::scatter_rows(&head.hidden, &index, hidden.dim(0)?);
        }
        let zeros = hidden.detach().zeros_like()?;
        zeros.index_add(&index, &head.hidden, 0)
    };
    let seed = spread().during(|| "spreading the gradient of the head".to_owned())?;
    let mut params = backward(decoder, &hidden, &seed)?;
    let name = decoder.config().head_name();
    let slot = decoder.trained().keys().position(|key| key == name);
    let slot = slot.and_then(|i| params.get_mut(i));
    if let (Some(slot), Some(head)) = (slot, head.head) {
        *slot = Some(match slot.take() {
            Some(embedding) => embedding
                .to_dtype(DType::F32)
                .and_then(|embedding| embedding + head)
                .during(|| "adding the gradient of the head".to_owned())?,
            None => head,
        });
    }
    Ok(MicroGradient {
        sums: head.sums,
        params,
    })
}

/// Σ −log q over the supervised tokens, in nats.
pub fn micro_nll(decoder: &Decoder, micro: &MicroBatch) -> Result<f64> {
    let hidden = forward(decoder, micro)?;
    let (picked, _) = pick(&hidden, micro)?;
    loss::head_nll(&picked, &Head::of(decoder), &micro.rows)
}

/// Hidden states (sequences · length, hidden size).
fn forward(decoder: &Decoder, micro: &MicroBatch) -> Result<Tensor> {
    let shape = (micro.sequences, micro.len);
    let ids = Tensor::from_slice(&micro.ids, shape, decoder.device())
        .during(|| "preparing a batch".to_owned())?;
    let hidden = decoder.hidden(&ids)?;
    hidden
        .flatten_to(1)
        .during(|| "preparing a batch".to_owned())
}

/// The rows whose next token is supervised, without their graph, and which they are.
fn pick(hidden: &Tensor, micro: &MicroBatch) -> Result<(Tensor, Tensor)> {
    let pick = || -> candle_core::Result<(Tensor, Tensor)> {
        let index = Tensor::from_slice(&micro.rows.index, micro.rows.len(), hidden.device())?;
        Ok((hidden.detach().index_select(&index, 0)?, index))
    };
    pick().during(|| "selecting supervised positions".to_owned())
}

/// ∂L/∂parameter of all that is trained, given ∂L/∂hidden.
fn backward(decoder: &Decoder, hidden: &Tensor, seed: &Tensor) -> Result<Vec<Option<Tensor>>> {
    let run = || -> candle_core::Result<Vec<Option<Tensor>>> {
        // `backward` starts from ones, so the seed comes in as the gradient of a scalar.
        let zero = Tensor::zeros((), hidden.dtype(), hidden.device())?;
        let seed = seed.clone();
        let scalar = attach1(hidden, &zero, move |_, _, _| Ok(seed.clone()))?;
        let mut gradients = scalar.backward()?;
        let params = decoder.trained().values();
        Ok(params
            .map(|var| gradients.remove(var.as_tensor()))
            .collect())
    };
    run().during(|| "computing gradients".to_owned())
}
