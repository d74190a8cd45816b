//! What is to be merged, as the user wrote it.
//!
//! | file | what it does |
//! |---|---|
//! | `setting` | a parameter as configured, and its value for a tensor |
//! | `tokenizer` | `tokenizer_source` and `tokenizer` |
//! | `json` | values of a kind |
//! | `check` | whether the models are those that the method takes |
//! | `reader`, `parameters`, `sources`, `read` | reading mergekit's YAML |
//!
//! `models` is short for one slice that holds all layers. A parameter is looked up at the
//! model, then at its slice, then at the top; at each level it is a scalar, a gradient (a list
//! of numbers spread over the layers of the slice) or a list of `{filter, value}`, of which the
//! first whose filter occurs in the tensor's name holds.

mod check;
mod json;
mod parameters;
mod read;
mod reader;
mod setting;
mod sources;
mod tokenizer;

use std::path::PathBuf;

use serde_json::Value;

pub use self::setting::{Setting, Settings};
pub use self::tokenizer::{TokenConfig, TokenSource, TokenizerConfig, TokenizerSource};
use super::methods::Method;
use crate::lora::split;
use crate::tensors::Dtype;

/// A model in a slice.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The model's folder, as written.
    pub model: String,
    /// Its layers (half-open); all where absent.
    pub layers: Option<(usize, usize)>,
    /// Its own parameters.
    pub parameters: Settings,
}

/// A run of output layers and the models that it is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// The models, in the order given.
    pub sources: Vec<Source>,
    /// The base model of this slice, where it differs.
    pub base_model: Option<String>,
    /// Parameters of the slice.
    pub parameters: Settings,
}

/// A chat template of the output's tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChatTemplate {
    /// This one (Jinja).
    Text(String),
    /// The one that most of the models have.
    Commonest,
}

/// A merge as configured: every key known, every value of the right kind.
#[derive(Clone, Debug)]
pub struct MergeConfig {
    /// The method.
    pub method: &'static Method,
    /// The slices of the output; `models` makes one.
    pub slices: Vec<Slice>,
    /// The base model's folder, as written.
    pub base_model: Option<String>,
    /// Parameters for all models and tensors.
    pub parameters: Settings,
    /// The configured dtype: the output's, unless `out_dtype` says otherwise.
    pub dtype: Option<Dtype>,
    /// The dtype of the output.
    pub out_dtype: Option<Dtype>,
    /// The output's vocabulary; without it rows are merged as they are, and the tokenizer of the
    /// base (or first) model is copied.
    pub tokenizer: Option<TokenizerConfig>,
    /// The chat template that replaces the tokenizer's own.
    pub chat_template: Option<ChatTemplate>,
    /// The folder that model paths are relative to.
    pub root: PathBuf,
    /// Models that a recipe gives instead of the configuration, relative to the current folder.
    pub given: Vec<String>,
    /// The configuration as JSON, for the fingerprint and the model card.
    pub source: Value,
    /// What in it has no effect.
    pub warnings: Vec<String>,
}

impl MergeConfig {
    /// The base model's folder of a slice, as written.
    pub(super) fn base_of<'a>(&'a self, slice: &'a Slice) -> Option<&'a String> {
        slice.base_model.as_ref().or(self.base_model.as_ref())
    }

    /// The folder of a model as written.
    pub fn resolve(&self, model: &str) -> PathBuf {
        let inside = self.root.join(model);
        match self.given.iter().any(|given| given == model) || !inside.exists() {
            true => PathBuf::from(model),
            false => inside,
        }
    }

    /// The folders of a model as written: its own, and after a `+` that of an adapter.
    pub fn folders(&self, model: &str) -> (PathBuf, Option<PathBuf>) {
        let (base, adapter) = split(model, |name| self.resolve(name).exists());
        (self.resolve(base), adapter.map(|name| self.resolve(name)))
    }

    /// The models whose weights are read, as written: of each slice its base and its sources.
    pub fn models(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for slice in &self.slices {
            let base = self.base_of(slice);
            let sources = slice.sources.iter().map(|source| &source.model);
            for name in base.into_iter().chain(sources) {
                if !names.contains(&name.as_str()) {
                    names.push(name);
                }
            }
        }
        names
    }

    /// The folder whose tokenizer the output gets, where the configuration names one.
    pub fn tokenizer_folder(&self) -> Option<PathBuf> {
        match &self.tokenizer.as_ref()?.source {
            TokenizerSource::Model(name) => Some(self.resolve(name)),
            TokenizerSource::Base | TokenizerSource::Union => None,
        }
    }

    /// The dtype of the output, where one is configured.
    pub fn output_dtype(&self) -> Option<Dtype> {
        self.out_dtype.or(self.dtype)
    }
}
