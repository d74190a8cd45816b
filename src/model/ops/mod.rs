//! Differentiable operations with fused kernels.
//!
//! candle's fused kernels lose the gradient, and its differentiable ones make a copy per
//! elementary step. These do neither: one pass forward, one pass backward. On the CPU they
//! compute in f32; other dtypes are converted on the way in and out. GPUs have kernels of their
//! own, which take all three (`cuda`).

mod attention;
mod collect;
mod gate;
mod in_place;
pub(crate) mod kernels;
mod logits;
mod norm;
mod products;
mod projection;
mod rotate;
mod rows;
mod softcap;

pub(crate) use attention::{attention, attention_backward};
pub(crate) use collect::{Sums, collect};
pub(crate) use gate::{activate, gated, swiglu_backward};
pub(crate) use in_place::{add_bias, add_in_place, add_multiplied};
pub(crate) use logits::logits;
pub(crate) use norm::{rms_norm, rms_norm_backward};
pub(crate) use products::multiply;
pub(crate) use rotate::{rotate_heads, rotate_heads_backward};
pub(crate) use rows::{add_rows, embed, linear, scatter_rows, take_rows};
pub(crate) use softcap::softcap_slope;
