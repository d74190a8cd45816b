//! Digests of models and of the files beside their weights.

use std::fs;
use std::path::Path;

use super::companions::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, COMPANIONS, CONFIG};
use super::gguf::{gguf_files, is_gguf};
use super::weights::weight_files;
use crate::error::{Context, Error, Result};
use crate::files::digest::{file, text};

/// Digest of a model folder: its `config.json`, weights and weight index, whatever else it
/// holds; or of a GGUF model: all its files.
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
    let mut names = weight_files(dir)?;
    if names.is_empty() {
        return Err(Error::file(dir, "no `*.safetensors` file here").remedy(
            "give a Hugging Face model folder with safetensors weights, or a `.gguf` file",
        ));
    }
    let entries = fs::read_dir(dir).at(dir)?;
    let entries = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.extend(entries.filter(|name| name.ends_with(".safetensors.index.json")));
    names.push(CONFIG.to_owned());
    names.sort();
    files_digest(dir, names.iter().map(String::as_str))
}

/// Whether there are weights to take a digest of.
pub fn has_weights(dir: &Path) -> bool {
    is_gguf(dir) || weight_files(dir).is_ok_and(|files| !files.is_empty())
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
    files_digest(dir, COMPANIONS.iter().map(|companion| companion.name))
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
