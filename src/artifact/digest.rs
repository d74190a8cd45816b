//! Digests of files and model folders, computed once.
//!
//! A digest is cached by path, size and modification time under `$FUSELM_CACHE`,
//! `$XDG_CACHE_HOME/fuselm` or `~/.cache/fuselm`, one small file each; where none of these can
//! be written, it is computed again.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::atomic;
use crate::error::{Context, Error, Result};
use crate::model::{gguf_files, is_gguf};

/// Files below this size are not worth a cache entry.
const CACHE_FROM: u64 = 1 << 20;

/// Digest of a file's bytes: 32 hexadecimal digits.
pub fn file(path: &Path) -> Result<String> {
    let mut opened = File::open(path).at(path)?;
    let metadata = opened.metadata().at(path)?;
    let modified = metadata.modified().at(path)?;
    let modified = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    let stamp = format!("{} {}", metadata.len(), modified.as_nanos());
    let cached = (metadata.len() >= CACHE_FROM)
        .then(|| cache_entry(path))
        .flatten();
    if let Some(entry) = &cached
        && let Ok(text) = fs::read_to_string(entry)
        && let Some(digest) = text.strip_prefix(&format!("{stamp} "))
        && digest.len() == 32
    {
        return Ok(digest.to_owned());
    }
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = opened.read(&mut buffer).at(path)?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        crate::progress::check_interrupt()?;
    }
    let digest = hex(&hasher.finalize());
    if let Some(entry) = cached {
        // Without a cache everything still works, only slower.
        let _ = atomic::write(&entry, format!("{stamp} {digest}").as_bytes());
    }
    Ok(digest)
}

/// Digest of a model folder: its `config.json`, weights and weight index, whatever else it
/// holds; or of a GGUF model: all its files.
pub fn model(dir: &Path) -> Result<String> {
    if is_gguf(dir) {
        let mut all = String::new();
        for part in gguf_files(dir) {
            all += &format!("{}\n", file(&part)?);
        }
        return Ok(text(&all));
    }
    let mut names: Vec<String> = fs::read_dir(dir)
        .at(dir)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| {
            name == "config.json"
                || name.ends_with(".safetensors")
                || name.ends_with(".safetensors.index.json")
        })
        .collect();
    names.sort();
    if !names.iter().any(|name| name.ends_with(".safetensors")) {
        return Err(Error::file(dir, "no `*.safetensors` file here").remedy(
            "give a Hugging Face model folder with safetensors weights, or a `.gguf` file",
        ));
    }
    let mut all = String::new();
    for name in names {
        all += &format!("{name} {}\n", file(&dir.join(&name))?);
    }
    Ok(text(&all))
}

/// Digest of a text.
pub fn text(text: &str) -> String {
    hex(&blake3::hash(text.as_bytes()))
}

fn hex(hash: &blake3::Hash) -> String {
    hash.to_hex().as_str()[..32].to_owned()
}

fn cache_entry(path: &Path) -> Option<PathBuf> {
    let absolute = fs::canonicalize(path).ok()?;
    let root = match std::env::var_os("FUSELM_CACHE") {
        Some(dir) => PathBuf::from(dir),
        None => match std::env::var_os("XDG_CACHE_HOME") {
            Some(dir) => PathBuf::from(dir).join("fuselm"),
            None => PathBuf::from(std::env::var_os("HOME")?).join(".cache/fuselm"),
        },
    };
    Some(root.join("digests").join(text(&absolute.to_string_lossy())))
}
