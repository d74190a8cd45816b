//! The files of the output's tokenizer.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::tokens::{FILE, entry};
use crate::error::{Context, Result};
use crate::text::read_json;

/// Files that hold for the tokenizer whatever its tokens are.
const SETTINGS: &[&str] = &[
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
];

/// Files in which slow tokenizers keep the tokens of `tokenizer.json`.
const SLOW: &[&str] = &[
    "tokenizer.model",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
];

/// Writes the tokenizer of the folder `from` to `to`.
///
/// # Errors
///
/// Files that cannot be read or written.
pub(in crate::merge) fn copy_tokenizer(from: &Path, to: &Path) -> Result<()> {
    let files = [FILE].iter().chain(SETTINGS).chain(SLOW);
    files.into_iter().try_for_each(|name| copy(from, to, name))
}

/// Copies a file, if it is there.
///
/// # Errors
///
/// A file that cannot be read or written.
pub(in crate::merge) fn copy(from: &Path, to: &Path, name: &str) -> Result<()> {
    let (from, to) = (from.join(name), to.join(name));
    if from.is_file() {
        // Not `fs::copy`: a read-only original would make a read-only copy.
        let bytes = std::fs::read(&from).at(&from)?;
        std::fs::write(&to, bytes).at(&to)?;
    }
    Ok(())
}

/// The tokenizer of an output whose rows are placed by token.
pub(in crate::merge) struct Files {
    /// The folder whose tokenizer it is made from.
    pub source: PathBuf,
    /// The text of `tokenizer.json`, where it is not the source's.
    pub json: Option<String>,
    /// Its added tokens.
    pub added: Vec<(u32, AddedToken)>,
    /// Rows of embeddings.
    pub rows: usize,
    /// Whether the ids of special tokens come from the source: it is not the model that the
    /// output's config comes from.
    pub foreign: bool,
    /// What the vocabulary is made of, for people.
    pub summary: Vec<String>,
}

impl Files {
    /// Writes the files into `dir`.
    ///
    /// # Errors
    ///
    /// Files that cannot be read or written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let Some(json) = &self.json else {
            return copy_tokenizer(&self.source, dir);
        };
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).at(&path)
        };
        write(FILE, json)?;
        for name in SETTINGS {
            copy(&self.source, dir, name)?;
        }
        // Older releases of transformers keep added tokens here a second time.
        let config = read_json(&self.source.join(SETTINGS[0]))?;
        if let Some(mut config) = config
            && config.get("added_tokens_decoder").is_some()
        {
            let added = self.added.iter();
            let added = added.map(|(id, token)| (id.to_string(), entry(None, token)));
            config["added_tokens_decoder"] = Value::Object(added.collect());
            write(SETTINGS[0], &format!("{config:#}\n"))?;
        }
        Ok(())
    }

    /// Corrects the output's `config.json`: the size of the vocabulary, ids of special tokens.
    ///
    /// # Errors
    ///
    /// A config of the source that cannot be read.
    pub fn correct_config(&self, config: &mut Map<String, Value>) -> Result<()> {
        const SIZE: &str = "vocab_size";
        let nested = config.get_mut("text_config").and_then(Value::as_object_mut);
        match nested {
            Some(text) if text.contains_key(SIZE) => {
                text.insert(SIZE.into(), self.rows.into());
            }
            _ => {
                config.insert(SIZE.into(), self.rows.into());
            }
        }
        self.correct_ids("config.json", config)
    }

    /// Takes the ids of special tokens (`.._token_id`) in the file `name` from the tokenizer's
    /// model: those of another vocabulary mean other tokens.
    ///
    /// # Errors
    ///
    /// A config of the source that cannot be read.
    pub fn correct_ids(&self, name: &str, config: &mut Map<String, Value>) -> Result<()> {
        if !self.foreign {
            return Ok(());
        }
        let sources = [
            read_json(&self.source.join(name))?,
            read_json(&self.source.join("config.json"))?,
        ];
        config.retain(|key, value| {
            if !key.ends_with("_token_id") {
                return true;
            }
            let found = sources.iter().flatten().find_map(|source| source.get(key));
            if let Some(found) = found {
                *value = found.clone();
            }
            found.is_some()
        });
        Ok(())
    }
}
