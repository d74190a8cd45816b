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

mod base;
mod family;
mod fields;
mod gemma;
mod gpt2;
mod gpt_neox;
mod internlm2;
mod llama;
mod llama_like;
mod mistral;
mod mpt;
mod phi3;
mod qwen;
mod rope;
mod towers;
mod windows;

use std::path::Path;

use serde_json::{Map, Value};

use super::config::Config;
use crate::checkpoint::{Checkpoint, is_gguf, read_config};
use crate::error::{Error, Result, did_you_mean};
use crate::progress::warn_once;
pub(super) use family::Family;
use family::Reading;
pub(super) use fields::Fields;

/// The field that makes the head the embedding.
const TIE: &str = "tie_word_embeddings";

/// All families.
pub(super) static FAMILIES: &[&Family] = &[
    &llama::LLAMA,
    &mistral::MISTRAL,
    &mistral::MIXTRAL,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &qwen::QWEN3_MOE,
    &gemma::GEMMA,
    &gemma::GEMMA2,
    &gemma::GEMMA3,
    &phi3::PHI3,
    &internlm2::INTERNLM2,
    &gpt_neox::GPT_NEOX,
    &gpt2::GPT2,
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
        let mut config = Self::from_json(raw, &path)?;
        if config.tie_word_embeddings && !is_gguf(dir) {
            config.untie_separate_head(dir);
        }
        Ok(config)
    }

    /// Notes where the checkpoint in `dir` has a head of its own in spite of `tie_word_embeddings`:
    /// as in transformers, the head counts. What is wrong with the weights is said by those who read
    /// them.
    fn untie_separate_head(&mut self, dir: &Path) {
        let names = self.names();
        let separate = Checkpoint::open(dir)
            .map(|checkpoint| names.rename(checkpoint))
            .is_ok_and(|checkpoint| checkpoint.differ(names.head, names.embedding));
        if separate {
            warn_once(format!(
                "{}: the head `{}` and the embedding have different values though the configuration \
                 ties them; the head is kept, as in transformers (`tie_word_embeddings: false` says so)",
                dir.display(),
                names.head
            ));
            self.tie_word_embeddings = false;
            self.raw.insert(TIE.to_owned(), Value::Bool(false));
        }
    }

    /// Validates the content of a `config.json`; `path` is only used in messages. Of a model of several
    /// towers, the text tower is read as a model of its own.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_json(raw: Map<String, Value>, path: &Path) -> Result<Self> {
        let text = towers::text_tower(&raw, path)?;
        let is_text = text.is_some();
        let raw = text.unwrap_or(raw);
        let fields = |map| match is_text {
            true => Fields::within(path, towers::TEXT, map),
            false => Fields::new(path, map),
        };
        let family = family(&fields(&raw))?;
        let usual = usual_fields(family, &raw, path);
        let fields = fields(usual.as_ref().unwrap_or(&raw));
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

/// The file with the usual names of fields, where it has others, and with the values of absent ones,
/// where the family has some.
fn usual_fields(
    family: &Family,
    raw: &Map<String, Value>,
    path: &Path,
) -> Option<Map<String, Value>> {
    let mut usual: Option<Map<String, Value>> = None;
    for (alias, name) in family.aliases {
        let Some(value) = raw.get(*alias).filter(|value| !value.is_null()) else {
            continue;
        };
        if raw.get(*name).is_some_and(|usual| usual != value) {
            warn_once(format!(
                "{}: `{alias}` and `{name}` differ; `{alias}` counts, as in transformers",
                path.display()
            ));
        }
        let map = usual.get_or_insert_with(|| raw.clone());
        map.insert((*name).to_owned(), value.clone());
    }
    for (name, default) in family.defaults {
        if !usual.as_ref().unwrap_or(raw).contains_key(*name) {
            let map = usual.get_or_insert_with(|| raw.clone());
            map.insert((*name).to_owned(), Value::from(*default));
        }
    }
    usual
}

/// The family that the file names: by `model_type`, as in transformers, or by `architectures` where
/// that is absent.
fn family(fields: &Fields<'_>) -> Result<&'static Family> {
    let named = match fields.get("architectures") {
        Some(Value::Array(names)) => names.first().and_then(Value::as_str),
        _ => None,
    };
    let kind = fields.text("model_type")?;
    let has_class = |name: &str| FAMILIES.iter().find(|f| f.classes.contains(&name));
    let found = match kind {
        Some(kind) => FAMILIES.iter().find(|family| family.model_type == kind),
        None => named.and_then(has_class),
    };
    let Some(family) = found.copied() else {
        return Err(unknown(fields, named, kind));
    };
    match named {
        Some(name) if !family.classes.contains(&name) => {
            // A class of the folder's own code may compute anything.
            if fields.has("auto_map") && has_class(name).is_none() {
                return Err(unknown(fields, Some(name), None));
            }
            warn_once(format!(
                "{}: `architectures` names {name}, `model_type` is {}; it is read as {}, as in transformers",
                fields.path().display(),
                family.model_type,
                family.classes[0]
            ));
        }
        _ => {}
    }
    Ok(family)
}

/// What a name that is not known was to be, if it is one with a slip: other families have much the
/// same names (`phi` and `phi3`, `opt` and `mpt`).
fn slip<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let letters = |name: &str| -> String {
        let family = name.trim_end_matches("ForCausalLM").chars();
        family.filter(|c| c.is_ascii_alphabetic()).collect()
    };
    let own = letters(name);
    let near = |other: &&str| letters(other) != own && own.len() >= 5;
    did_you_mean(name, known.filter(near))
}

/// The error for a file of no family.
fn unknown(fields: &Fields<'_>, named: Option<&str>, kind: Option<&str>) -> Error {
    let classes = FAMILIES.iter().flat_map(|family| family.classes).copied();
    let kinds = FAMILIES.iter().map(|family| family.model_type);
    let is_known = named.is_some_and(|name| classes.clone().any(|class| class == name));
    let (field, expected, near) = match kind {
        Some(kind) if is_known || named.is_none() => {
            let known: Vec<&str> = kinds.clone().collect();
            let expected = format!("one of the supported types {}", known.join(", "));
            ("model_type", expected, slip(kind, kinds))
        }
        _ => {
            let known: Vec<&str> = classes.clone().collect();
            let expected = format!("one of the supported architectures {}", known.join(", "));
            let near = named.and_then(|name| slip(name, classes));
            ("architectures", expected, near)
        }
    };
    fields.wrong(field, expected).remedy(
        near.unwrap_or_else(|| {
            "models of other families can be merged (`fuselm merge`), and distributions that another \
             program made with them imported (`fuselm import`), for which only their tokenizer is needed"
                .to_owned()
        }),
    )
}
