//! The files of the output's tokenizer.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::tokens::entry;
use crate::checkpoint::{CONFIG, Role, TOKENIZER, TOKENIZER_CONFIG, copy_companions};
use crate::error::{Context, Result};
use crate::files::{edit_json, read_json};

/// Writes the tokenizer of the folder `from` to `to`.
///
/// # Errors
///
/// Files that cannot be read or written.
pub(in crate::merge) fn copy_tokenizer(from: &Path, to: &Path) -> Result<()> {
    let wanted = |role| matches!(role, Role::Tokens | Role::Settings | Role::Slow);
    copy_companions(from, to, |companion| wanted(companion.role))
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
        write(TOKENIZER, json)?;
        copy_companions(&self.source, dir, |companion| {
            companion.role == Role::Settings
        })?;
        // Older releases of transformers keep added tokens here a second time.
        const KEY: &str = "added_tokens_decoder";
        match read_json(&self.source.join(TOKENIZER_CONFIG))? {
            Some(config) if config.get(KEY).is_some() => {
                let added = self.added.iter();
                let added = added.map(|(id, token)| (id.to_string(), entry(None, token)));
                edit_json(&dir.join(TOKENIZER_CONFIG), |config| {
                    config.insert(KEY.into(), Value::Object(added.collect()));
                })
            }
            _ => Ok(()),
        }
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
        self.correct_ids(CONFIG, config)
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
            read_json(&self.source.join(CONFIG))?,
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
