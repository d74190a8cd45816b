//! What runs on a GPU.
//!
//! What candle has no kernel for, or one that reads its arguments several times, is a kernel of
//! ours (`../kernels/*.cu`, compiled to PTX by `build.rs`): norms, gated activations, rotation,
//! attention's softmax, the best next tokens, the training loss, AdamW. The rest is candle's.
//!
//! | file | holds |
//! |---|---|
//! | `device` | opening a device; its memory |
//! | `memory`, `launch`, `blas` | views of device memory, kernel launches, matrix products |
//! | `ops`, `attention`, `vocabulary`, `optim` | one function for each kernel |
//!
//! Kernels take f32, bf16 and f16 and compute in f32. A device has one stream, so that work is
//! done in the order in which it was asked for, whatever thread asks; memory is freed in that
//! order too. Nothing waits for the device but what reads results back.

mod attention;
mod blas;
mod device;
mod launch;
mod memory;
mod ops;
mod optim;
mod vocabulary;

pub(crate) use attention::attention;
pub(crate) use device::{holds, memory, open};
pub(crate) use ops::{
    embed, gated, linear, norm, rotate_heads, scatter_rows, spread_rows, take_rows,
};
pub(crate) use optim::{accumulate, adamw, norm_of_all};
pub(crate) use vocabulary::{head_loss, next_tokens};
