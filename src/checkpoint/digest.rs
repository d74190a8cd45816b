//! Digests of models and of the files beside their weights.

use std::path::Path;

use super::carried::Companions;
use super::companions::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, COMPANIONS, CONFIG, INDEX};
use super::found::Found;
use super::gguf::{gguf_files, is_gguf};
use super::weights::WeightFiles;
use crate::error::{Error, Result};
use crate::files::digest::{file, text};

/// Digest of a model folder: its `config.json`, its weights and their index, whatever else it
/// holds ([`WeightFiles`]); or of a GGUF model: all its files.
///
/// # Errors
/// No weights, or files that cannot be read.
pub fn model_digest(dir: &Path) -> Result<String> {
    if is_gguf(dir) {
        let mut all = String::new();
        for part in gguf_files(dir) {
            all += &format!("{}\n", file(&part)?);
        }
        return Ok(text(&all));
    }
    let found = WeightFiles::of(dir)?;
    if found.files.is_empty() {
        let found = Found::at(dir);
        let what = found.describe();
        let what = what.unwrap_or_else(|| "shards that are all missing".to_owned());
        let problem = format!("no `*.safetensors` file here that is a model's: {what}");
        return Err(Error::file(dir, problem).remedy(found.remedy(dir)));
    }
    let index = found.is_indexed().then(|| INDEX.to_owned());
    let mut names = found.files;
    names.extend(index);
    names.push(CONFIG.to_owned());
    names.sort();
    files_digest(dir, names.iter().map(String::as_str))
}

/// Digest of the files of a model folder that tokenisation and chat templates depend on; of a
/// GGUF model, which has them in itself, the model's.
///
/// # Errors
/// Files that cannot be read.
pub fn tokenizer_digest(dir: &Path) -> Result<String> {
    if is_gguf(dir) {
        return model_digest(dir);
    }
    let files = COMPANIONS.iter().filter(|companion| companion.tokenises);
    files_digest(dir, files.map(|companion| companion.name))
}

/// Digest of the files of a model folder that what is made from it gets copies of; of a GGUF
/// model, the model's.
///
/// # Errors
/// Files that cannot be read.
pub fn companions_digest(dir: &Path) -> Result<String> {
    if is_gguf(dir) {
        return model_digest(dir);
    }
    Companions::of(dir)?.digest()
}

/// Digest of an adapter's folder.
///
/// # Errors
/// Files that cannot be read.
pub fn adapter_digest(dir: &Path) -> Result<String> {
    files_digest(dir, [ADAPTER_CONFIG, ADAPTER_WEIGHTS])
}

/// Digest of the files of these names that are there.
fn files_digest<'a>(dir: &Path, names: impl IntoIterator<Item = &'a str>) -> Result<String> {
    let mut all = String::new();
    for name in names {
        let path = dir.join(name);
        if path.exists() {
            all += &format!("{name} {}\n", file(&path)?);
        }
    }
    Ok(text(&all))
}
