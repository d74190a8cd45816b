//! Reading, running, training and writing decoder-only transformers.
//!
//! The decoder is our own because it must do what ready-made ones do not: return logits at *all*
//! positions and pass a gradient to *every* parameter, at the speed of fused kernels. It covers
//! all families by configuration. Below, each part uses those above it:
//!
//! | part | what it is |
//! |---|---|
//! | `config` | [`Config`]: what a decoder is, as plain data, with the list of its parameters |
//! | `outline` | what is known of a model that need not be run |
//! | `families` | how each family's `config.json` is read into it; a new family is one file there |
//! | `cuda` | the door to GPUs: their kernels, or nothing |
//! | `ops` | differentiable operations, each for CPUs and GPUs |
//! | `layers` | embeddings, positions, layers, norms |
//! | `decoder` | [`Decoder`]: all of it with its parameters in memory; [`Cache`] runs it token by token |
//! | `direct` | the decoder forward and back without a graph, for training on the CPU |
//! | `predict` | [`predict()`]: distributions of next tokens, also of models larger than memory |
//! | `generate` | [`generate()`]: sampling |
//!
//! [`Decoder::load`] and [`Decoder::save`] read and write Hugging Face folders
//! ([`checkpoint`](crate::checkpoint) knows these). GGUF files are read as well; a [`Predictor`] reads
//! them layer by layer.

mod attach;
mod cache;
mod causal;
mod config;
pub(crate) mod cuda;
mod decoder;
mod device;
mod direct;
mod families;
mod generate;
mod gguf;
mod head;
mod layers;
pub mod lora;
pub(crate) mod ops;
mod options;
mod outline;
mod plain;
mod predict;
mod random;
mod save;
mod source;
mod weights;

#[cfg(test)]
pub(crate) mod tests;

pub use attach::{attach1, attach2};
pub use cache::Cache;
pub use config::{
    Activation, Architecture, Config, Experts, Init, NormKind, Rope, RopeScaling, TensorSpec,
};
pub use cuda::DeviceMemory;
pub use decoder::Decoder;
pub use device::{device, device_memory, free_memory};
pub(crate) use direct::DirectPass;
pub use generate::{GenerateOptions, generate, generation_stops};
pub use head::Head;
pub use layers::Rotary;
pub use lora::{Adapters, LoraSave};
pub use options::{LoadOptions, Mode, dtype};
pub use outline::Outline;
pub use plain::{Rounding, write_plain};
pub use predict::{
    DEFAULT_OFFLOAD, Draws, Listed, NextToken, PredictOptions, Predictions, Predictor, Streamed,
    Wanted, next_token, predict,
};
pub(crate) use source::open_adapter;
pub use weights::check_weights;
