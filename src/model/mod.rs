//! Reading, running, training and writing decoder-only transformers.
//!
//! The decoder is our own because it must do what ready-made ones do not: return logits at *all*
//! positions and pass a gradient to *every* parameter, at the speed of fused kernels. It covers
//! all families ([`Architecture`]) by configuration:
//!
//! * [`Config`] is `config.json`, validated (`families`); [`Config::tensors`] lists every parameter
//!   by its name in the checkpoint (`names`).
//! * [`Decoder`] holds the parameters and runs the layers; `ops` and `attention` are the fused
//!   operations with hand-written backwards.
//! * [`next_token`] turns hidden states into log-probabilities without ever holding the logits
//!   of a whole batch, [`predict()`] does so for a set of samples; [`generate()`] samples with a [`Cache`].
//! * [`Decoder::load`] and [`Decoder::save`] read and write Hugging Face folders
//!   ([`checkpoint`](crate::checkpoint) knows these). GGUF files are read as well; a [`Predictor`] reads them, and models that are
//!   larger than memory, layer by layer.

mod attach;
mod attention;
mod batch;
mod cache;
mod config;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod decoder;
mod device;
mod draws;
mod experts;
mod families;
mod feed_forward;
mod fields;
mod generate;
mod gguf;
mod head;
pub(crate) mod kernels;
mod layer;
mod linear;
mod logprobs;
pub mod lora;
mod names;
mod norm;
mod offload;
pub(crate) mod ops;
mod peft;
mod predict;
mod products;
mod qkv;
mod rope;
mod save;
mod source;
mod stream;
mod weights;

#[cfg(test)]
pub(crate) mod tests;

pub use attach::{attach1, attach2};
pub use batch::{PredictOptions, Predictions};
pub use cache::Cache;
pub use config::{Activation, Architecture, Config, Experts, Init, NormKind, TensorSpec};
pub use decoder::{Decoder, LoadOptions, Mode, Rotary};
pub use device::{DeviceMemory, device, device_memory, free_memory};
pub use draws::Draws;
pub use generate::{GenerateOptions, generate, generation_stops};
pub(crate) use head::logits;
pub use logprobs::{NextToken, next_token};
pub use lora::{Adapters, Lora, LoraSave};
pub use offload::DEFAULT_OFFLOAD;
pub use predict::{Predictor, predict};
pub use rope::{Rope, RopeScaling};
pub use stream::Streamed;
pub use weights::check_weights;

use candle_core::DType;

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
