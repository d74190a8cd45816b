//! Causal attention in bounded memory, forward and backward.
//!
//! Scores exist for some heads and queries at a time; the graph keeps queries, keys, values and
//! the result, and the backward computes the weights again. On the CPU ([`blocks`]) only what a
//! block of queries sees is computed; GPUs have kernels of their own; other devices
//! ([`by_tensors`]) compute whole matrices with the mask inside the softmax.

mod blocks;
mod by_tensors;

use candle_core::{DType, Device, Result, Tensor};

use crate::model::causal::{Causal, Sizes};
use crate::model::cuda;

/// Mixes values by the softmax of query-key products.
///
/// `query` is (batch, heads, len, d), `key` and `value` (batch, groups, positions, d), where
/// `heads / groups` neighbouring query heads share a key/value head. The result is
/// (batch, len, heads, d). Differentiable in all three.
pub(crate) fn attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    causal: &Causal,
) -> Result<Tensor> {
    let sizes = Sizes::new(query, key, value, causal)?;
    if cuda::holds(query) {
        return cuda::attention([query, key, value], causal, sizes);
    }
    match query.device() {
        Device::Cpu => {
            let f32s = |tensor: &Tensor| tensor.to_dtype(DType::F32);
            blocks::attention(&f32s(query)?, &f32s(key)?, &f32s(value)?, causal, sizes)?
                .to_dtype(query.dtype())
        }
        _ => by_tensors::attention(query, key, value, causal, sizes),
    }
}

/// Gradients of query, key and value in [`attention`] of f32 tensors on the CPU, given that of the
/// result; without a graph.
pub(crate) fn attention_backward(
    args: [&Tensor; 3],
    causal: &Causal,
    grad: &Tensor,
) -> Result<[Tensor; 3]> {
    let [query, key, value] = args;
    let sizes = Sizes::new(query, key, value, causal)?;
    blocks::backward(args, causal, sizes, grad)
}

#[cfg(test)]
mod tests;
