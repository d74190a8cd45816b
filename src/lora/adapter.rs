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
use std::path::{Path, PathBuf};

use super::base::Base;
use super::check::check;
use super::parts::{Parts, TokenRows};
use super::read::Settings;
use super::sort::sort;
use crate::checkpoint::{ADAPTER_CONFIG as CONFIG, ADAPTER_WEIGHTS as WEIGHTS, Checkpoint};
use crate::error::{Context, Error, Result};
use crate::progress;

/// The weights of an adapter as older programs wrote them: pickled.
const PICKLED: &str = "adapter_model.bin";

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
    unties: bool,
    rows: Option<usize>,
}

impl Adapter {
    /// Opens the adapter in `dir` for the model `base`.
    ///
    /// # Errors
    ///
    /// Missing or damaged files; another kind of adapter; settings that are not supported; tensors
    /// that are no part of an adapter; A without B; modules that the model does not have; shapes
    /// that fit neither the model nor the settings; no tensor that PEFT would apply.
    pub fn open(dir: &Path, base: &Base) -> Result<Self> {
        let path = dir.join(CONFIG);
        if !path.is_file() {
            return Err(
                Error::file(dir, format!("expected an adapter, there is no `{CONFIG}`"))
                    .remedy("write `MODEL+ADAPTER` with the folder of a LoRA adapter"),
            );
        }
        let text = std::fs::read_to_string(&path).at(&path)?;
        let settings = Settings::read(&path, &text)?;
        settings
            .targets
            .check(&path, base, !settings.parameters.is_empty())?;
        let mut adapter = Self {
            dir: dir.to_path_buf(),
            checkpoint: weights(dir)?,
            settings,
            text,
            modules: BTreeMap::new(),
            replaced: BTreeMap::new(),
            tokens: BTreeMap::new(),
            unties: false,
            rows: None,
        };
        let ignored = sort(&mut adapter, base)?;
        adapter.rows = check(&adapter, base)?;
        adapter.unties = adapter.parts(base);
        for message in ignored {
            progress::warn_once(format!("{}: {message}", dir.display()));
        }
        Ok(adapter)
    }

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

    /// Whether head and embedding get parts of their own.
    fn parts(&self, base: &Base) -> bool {
        let Some([embedding, head]) = base.tied() else {
            return false;
        };
        let differ = self.modules.get(embedding) != self.modules.get(head);
        differ
            || self.replaced.get(embedding) != self.replaced.get(head)
            || self.tokens.get(embedding) != self.tokens.get(head)
    }
}

/// The tensors of the adapter in `dir`.
fn weights(dir: &Path) -> Result<Checkpoint> {
    let path = dir.join(WEIGHTS);
    if !path.is_file() {
        let problem = format!("expected `{WEIGHTS}`, there is none");
        let error = Error::file(dir, problem);
        return Err(match dir.join(PICKLED).is_file() {
            true => error.remedy(format!(
                "`{PICKLED}` is pickled, which can run code and is not read; load the adapter with \
                 PEFT and save it again: `save_pretrained(…, safe_serialization=True)`"
            )),
            false => error.remedy("copy the adapter again, with its weights"),
        });
    }
    Checkpoint::open(&path)
}
