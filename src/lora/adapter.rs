//! LoRA adapters in PEFT's layout, open for reading.
//!
//! ```text
//! adapter_config.json            r, lora_alpha and what is said of single modules
//! adapter_model.safetensors      base_model.model.<module>.lora_A.weight (r × in), .lora_B.weight (out × r)
//!                                .lora_embedding_A (r × rows), .lora_embedding_B (columns × r)
//!                                .lora_magnitude_vector (out): DoRA; .lora_B.bias (out)
//!                                .weight, .bias, .base_layer.weight: in place of the model's own
//!                                .token_adapter.trainable_tokens_delta: rows of some tokens
//! ```
//!
//! What an adapter does is what PEFT 0.21 does that loads it, before it is merged: a tensor that
//! PEFT does not read is not applied and said, and a head that was the embedding becomes a matrix of
//! its own where only one of the two is changed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::parts::{Parts, TokenRows};
use super::read::Settings;
use crate::checkpoint::{ADAPTER_CONFIG as CONFIG, ADAPTER_WEIGHTS as WEIGHTS, Checkpoint};
use crate::error::Error;

/// An open adapter.
pub struct Adapter {
    /// Its folder.
    pub dir: PathBuf,
    /// Its matrices.
    pub checkpoint: Checkpoint,
    /// Its settings as they are in the file.
    pub text: String,
    pub(super) settings: Settings,
    /// By the name of the model's tensor.
    pub(super) modules: BTreeMap<String, Parts>,
    /// By the name of the model's tensor: the tensor in its place.
    pub(super) replaced: BTreeMap<String, String>,
    /// By the name of the model's tensor: rows in place of some of it.
    pub(super) tokens: BTreeMap<String, TokenRows>,
    pub(super) unties: bool,
    pub(super) rows: Option<usize>,
}

impl Adapter {
    /// Whether head and embedding, which are one tensor of the model, are two with the adapter.
    pub fn unties(&self) -> bool {
        self.unties
    }

    /// The number of tokens that the adapted embedding has rows for, where it is another one than
    /// the model's.
    pub fn rows(&self) -> Option<usize> {
        self.rows
    }

    /// An error about one of the tensors.
    pub(super) fn bad(&self, name: &str, problem: impl std::fmt::Display) -> Error {
        let problem = format!("tensor `{name}`: {problem}");
        Error::file(&self.dir.join(WEIGHTS), problem).remedy(format!(
            "check that model, adapter and `{CONFIG}` belong together"
        ))
    }

    /// An error about the settings.
    pub(super) fn unfit(&self, problem: impl Into<String>) -> Error {
        Error::file(&self.dir.join(CONFIG), problem)
    }

    /// The shape of one of the adapter's tensors.
    pub(super) fn shape(&self, name: &str) -> &[usize] {
        let info = self.checkpoint.info(name);
        info.map_or(&[], |info| info.shape.as_slice())
    }
}
