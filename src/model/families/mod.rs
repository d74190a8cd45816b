//! How each family's `config.json` is read, and how its checkpoints name their parameters.
//!
//! # Adding a family
//!
//! A family that differs from those here in names and settings is a [`Family`] in a file of its own
//! and a line in [`FAMILIES`]. `phi3` shows one that is nothing but a table of settings
//! ([`LlamaLike`](family::LlamaLike)) and [`Names`](super::config::Names); `gemma` one with a
//! function for what the table cannot say; `mpt` one whose file has fields of its own. The row's
//! `sample` makes a tiny model of it, on which the tests of all families run: gradients, caches,
//! saving and loading, and the logits against a plain version in f64. In the program nothing else knows
//! families by their names. (GGUF files name their architectures and tensors otherwise, and have tables of
//! their own.)

mod family;
mod fields;
mod gemma;
mod internlm2;
mod llama;
mod llama_like;
mod mistral;
mod mpt;
mod phi3;
mod qwen;
mod rope;
mod windows;

use std::path::Path;

use serde_json::{Map, Value};

use super::config::Config;
use crate::checkpoint::read_config;
use crate::error::{Error, Result, did_you_mean};
pub(super) use family::Family;
use family::Reading;
pub(super) use fields::Fields;

/// All families.
pub(super) static FAMILIES: &[&Family] = &[
    &llama::LLAMA,
    &mistral::MISTRAL,
    &mistral::MIXTRAL,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &gemma::GEMMA,
    &gemma::GEMMA2,
    &phi3::PHI3,
    &internlm2::INTERNLM2,
    &mpt::MPT,
];

impl Config {
    /// Reads and validates `dir/config.json`, or the settings in the GGUF file `dir`.
    ///
    /// # Errors
    /// The file is unreadable or not JSON, the architecture or a setting is not supported, a
    /// field is missing, of the wrong type or out of range (each names file and field).
    pub fn load(dir: &Path) -> Result<Self> {
        let (raw, path) = read_config(dir)?;
        Self::from_json(raw, &path)
    }

    /// Validates the content of a `config.json`; `path` is only used in messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_json(raw: Map<String, Value>, path: &Path) -> Result<Self> {
        let fields = Fields::new(path, &raw);
        let family = family(&fields)?;
        let config = match &family.reading {
            Reading::LlamaLike(settings) => settings.read(&fields, family.architecture()),
            Reading::Own(read) => read(&fields, family.architecture()),
        }?;
        if config.checked_parameters().is_none() {
            return Err(Error::file(
                path,
                "the sizes multiply to more parameters than fit in memory",
            ));
        }
        Ok(Self { raw, ..config })
    }
}

/// The family that the file names.
fn family(fields: &Fields<'_>) -> Result<&'static Family> {
    let named = match fields.get("architectures") {
        Some(Value::Array(names)) => names.first().and_then(Value::as_str),
        _ => None,
    };
    let found = match (named, fields.get("model_type").and_then(Value::as_str)) {
        (Some(name), _) => FAMILIES
            .iter()
            .find(|family| family.classes.contains(&name)),
        (None, Some(kind)) => FAMILIES.iter().find(|family| family.model_type == kind),
        (None, None) => None,
    };
    found.copied().ok_or_else(|| {
        let classes = FAMILIES.iter().flat_map(|family| family.classes).copied();
        let known: Vec<&str> = classes.clone().collect();
        let field = match named.is_none() && fields.has("model_type") {
            true => "model_type",
            false => "architectures",
        };
        let expected = format!("one of the supported architectures {}", known.join(", "));
        let near = named.and_then(|name| did_you_mean(name, classes));
        fields
            .wrong(field, expected)
            .remedy(near.unwrap_or_else(|| {
                "distributions of other models can be imported as `topk`".to_owned()
            }))
    })
}
