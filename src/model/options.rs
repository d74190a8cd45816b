//! Where and how parameters are held.

use candle_core::{DType, Device};

use crate::error::{Error, Result};

/// Whether gradients are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No graph is recorded; attention works in place.
    Inference,
    /// Parameters are variables in the graph of what is computed from them.
    Training,
}

/// Where and how the parameters are held.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where the parameters live and all work is done.
    pub device: Device,
    /// Type of parameters and activations (norms and softmax are always f32 inside).
    pub dtype: DType,
    /// Whether gradients are wanted.
    pub mode: Mode,
}

/// The float type named by `f32`, `bf16` or `f16` (or, as in `config.json`, `float32` ...).
///
/// # Errors
/// The name is none of these.
pub fn dtype(spec: &str) -> Result<DType> {
    match spec {
        "f32" | "float32" => Ok(DType::F32),
        "bf16" | "bfloat16" => Ok(DType::BF16),
        "f16" | "float16" => Ok(DType::F16),
        _ => Err(Error::usage(format!(
            "dtype: expected `f32`, `bf16` or `f16`, found `{spec}`"
        ))),
    }
}
