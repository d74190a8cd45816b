//! Differentiable operations with fused kernels.
//!
//! candle's fused kernels lose the gradient, and its differentiable ones make a copy per
//! elementary step. These do neither: one pass forward, one pass backward. On the CPU they
//! compute in f32; other dtypes are converted on the way in and out. GPUs have kernels of their
//! own, which take all three (`cuda`).

mod attention;
mod gate;
pub(crate) mod kernels;
mod logits;
mod norm;
mod products;
mod rotate;
mod rows;
mod softcap;

pub(crate) use attention::attention;
pub(crate) use gate::{activate, gated};
pub(crate) use logits::logits;
pub(crate) use norm::rms_norm;
pub(crate) use rotate::rotate_heads;
pub(crate) use rows::{add_rows, embed, linear, scatter_rows, take_rows};
pub(crate) use softcap::softcap_slope;
