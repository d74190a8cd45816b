//! The files of the output's tokenizer.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::AddedToken;

use super::tokens::entry;
use crate::checkpoint::{Companions, Role, TOKENIZER, TOKENIZER_CONFIG};
use crate::error::{Context, Result};
use crate::files::{edit_json, read_json};

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
    /// Whether an embedding that every layer adds was placed, and has so many rows, too.
    pub per_layer: bool,
    /// Where the tokenizer is not that of the model that the output's config comes from: for each id of
    /// a token of that model the output's id of the same token, if it has the token.
    pub foreign: Option<HashMap<u64, u32>>,
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
        let companions = Companions::of(&self.source)?;
        let Some(json) = &self.json else {
            return companions.copy(dir, Role::is_tokenizer);
        };
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).at(&path)
        };
        write(TOKENIZER, json)?;
        companions.copy(dir, |role| role == Role::Settings)?;
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
}
