//! What the result of a merge depends on.

use std::time::SystemTime;

use super::config::MergeConfig;
use super::inputs::Model;
use super::vocabulary::{Files, Placement};
use crate::checkpoint::Layout;
use crate::error::{Context, Error, Result};
use crate::files::Stamp;

/// A digest of configuration, inputs (by path and [`Stamp`]), vocabulary and layout, with the
/// files as they are now.
pub(super) fn fingerprint<'a>(
    config: &MergeConfig,
    models: &[Model],
    tokenizer: Option<&Files>,
    placements: impl Iterator<Item = &'a Placement>,
    layout: &Layout,
) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for placement in placements {
        placement.hash(&mut hasher);
    }
    let mut add = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    add(env!("CARGO_PKG_VERSION"));
    add(&config.source.to_string());
    if let Some(json) = tokenizer.and_then(|files| files.json.as_ref()) {
        add(json);
    }
    for model in models {
        add(&model.name);
        add(&model.config.to_string());
        if let Some(adapter) = &model.adapter {
            add(&adapter.text);
        }
        for file in model.files() {
            let meta = std::fs::metadata(file).at(file)?;
            let file = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
            add(&format!("{} {}", file.display(), Stamp::of(&meta)));
        }
    }
    for tensor in layout.tensors() {
        add(&format!(
            "{} {:?} {:?}",
            tensor.name, tensor.dtype, tensor.shape
        ));
    }
    for file in layout.files() {
        add(file);
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The size of a file and when it was last written.
pub(super) type Written = (u64, Option<SystemTime>);

/// Sizes of the inputs' files and when each was last written.
pub(super) fn written(models: &[Model]) -> Result<Vec<Written>> {
    let files = models.iter().flat_map(Model::files);
    files
        .map(|file| {
            let meta = std::fs::metadata(file).at(file)?;
            Ok((meta.len(), meta.modified().ok()))
        })
        .collect()
}

/// Fails if an input was written to since the plan was made.
pub(super) fn check_unchanged(models: &[Model], then: &[Written]) -> Result<()> {
    let files = models.iter().flat_map(Model::files);
    let now = written(models)?;
    let both = then.iter().zip(&now);
    match files.zip(both).find(|(_, (a, b))| a != b) {
        None => Ok(()),
        Some((file, _)) => Err(
            Error::file(file, "the file has changed since the merge began")
                .remedy("run the same command again"),
        ),
    }
}
