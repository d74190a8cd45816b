//! Reading, running, training and writing decoder-only transformers.
//!
//! The decoder is our own because it must do what ready-made ones do not: return logits at *all*
//! positions and pass a gradient to *every* parameter, at the speed of fused kernels. It covers
//! the Llama family ([`Architecture`]) by configuration:
//!
//! * [`Config`] is `config.json`, validated; [`Config::tensors`] lists every parameter.
//! * [`Decoder`] holds the parameters and runs the layers; `ops` and `attention` are the fused
//!   operations with hand-written backwards.
//! * [`next_token`] turns hidden states into log-probabilities without ever holding the logits
//!   of a whole batch, [`predict()`] does so for a set of samples; [`generate()`] samples with a [`Cache`].
//! * [`Decoder::load`] and [`Decoder::save`] read and write Hugging Face folders, and [`locate()`]
//!   finds them.

mod attach;
mod attention;
mod cache;
mod config;
mod decoder;
mod draws;
mod fields;
mod generate;
mod kernels;
mod layer;
mod linear;
mod locate;
mod logprobs;
mod ops;
mod predict;
mod save;
mod weights;

#[cfg(test)]
mod tests;

pub use attach::{attach1, attach2};
pub use cache::Cache;
pub use config::{Activation, Architecture, Config, Init, Rope, RopeScaling, TensorSpec};
pub use decoder::{Decoder, LoadOptions, Mode, Rotary};
pub use draws::Draws;
pub use generate::{GenerateOptions, generate};
pub use locate::locate;
pub use logprobs::{NextToken, next_token};
pub use predict::{PredictOptions, Predictions, predict, predict_with};
pub use save::copy_companions;
pub use weights::check_weights;

use candle_core::{DType, Device};

use crate::error::{Error, Result};

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

/// The device named by `cpu`, `cuda` (the first GPU) or `cuda:N`.
///
/// # Errors
/// The name is none of these, or this build or machine has no such GPU.
pub fn device(spec: &str) -> Result<Device> {
    if spec == "cpu" {
        return Ok(Device::Cpu);
    }
    let ordinal = match spec.strip_prefix("cuda") {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix(':').and_then(|n| n.parse::<usize>().ok()),
        None => None,
    }
    .ok_or_else(|| {
        Error::usage(format!(
            "device: expected `cpu`, `cuda` or `cuda:N`, found `{spec}`"
        ))
    })?;
    Device::new_cuda(ordinal).map_err(|error| {
        let without = !candle_core::utils::cuda_is_available();
        let reason = if without {
            "this build of fuselm has no CUDA support".to_owned()
        } else {
            error.to_string()
        };
        Error::usage(format!("device `{spec}` is not available: {reason}"))
            .remedy("use `--device cpu`")
    })
}
