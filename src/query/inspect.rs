//! What a path is: an artifact, a checkpoint, a part of one, or a run folder.

mod artifact;
mod checkpoint;
mod origin;
mod part;
mod run;

use std::fmt;
use std::path::Path;

use serde::Serialize;

pub use artifact::ArtifactReport;
pub use checkpoint::CheckpointReport;
pub use origin::Origin;
pub use part::PartReport;
pub use run::RunReport;

use crate::artifact::Kind;
use crate::checkpoint::{CONFIG, Found, folder_of};
use crate::error::{Error, Result};

/// What a path is; prints as text and serialises as JSON.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Inspection {
    /// An artifact, or one part of it.
    Artifact(Box<ArtifactReport>),
    /// A model folder, a safetensors file or a GGUF file.
    Checkpoint(CheckpointReport),
    /// An adapter, a tokenizer, or a file of weights that are not read.
    Part(PartReport),
    /// A run folder.
    Run(RunReport),
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Inspection::Artifact(report) => report.fmt(f),
            Inspection::Checkpoint(report) => report.fmt(f),
            Inspection::Part(report) => report.fmt(f),
            Inspection::Run(report) => report.fmt(f),
        }
    }
}

/// Says what `path` is: a Parquet part, an artifact's folder, a safetensors or GGUF file, a
/// model folder, whether or not its weights can be read, an adapter, a tokenizer, or a run folder.
/// Reads footers and headers only, never rows or weights.
///
/// # Errors
/// If it is none of these, or it is damaged.
pub fn inspect(path: &Path) -> Result<Inspection> {
    if !path.exists() {
        return Err(Error::file(path, "no such file or folder"));
    }
    if path.is_file() {
        return of_file(path);
    }
    if artifact::first_part(path)?.is_some() {
        return Ok(Inspection::Artifact(Box::new(artifact::of_folder(path)?)));
    }
    let found = Found::at(path);
    match &found {
        Found::Adapter(_) if !path.join(CONFIG).is_file() => {
            return Ok(Inspection::Part(part::adapter(path, &found)?));
        }
        Found::NoWeights if !path.join(CONFIG).is_file() => {
            return Ok(Inspection::Part(part::tokenizer(path)?));
        }
        Found::Other => {}
        _ => return Ok(Inspection::Checkpoint(checkpoint::of_folder(path)?)),
    }
    let holds_kinds = Kind::ALL.iter().any(|kind| path.join(kind.name()).is_dir());
    if holds_kinds || path.join("checkpoints").is_dir() {
        return Ok(Inspection::Run(run::of_folder(path)?));
    }
    Err(unknown(path))
}

fn of_file(path: &Path) -> Result<Inspection> {
    if path.extension().is_some_and(|end| end == "parquet") {
        return Ok(Inspection::Artifact(Box::new(artifact::of_part(path)?)));
    }
    let found = Found::at(path);
    match (&found, folder_of(path)) {
        (Found::Gguf, _) => Ok(Inspection::Checkpoint(checkpoint::of_gguf(path)?)),
        (Found::Safetensors, _) => Ok(Inspection::Checkpoint(checkpoint::of_file(path)?)),
        (Found::OtherWeights(_), _) => Ok(Inspection::Part(part::weights(path, &found)?)),
        (_, Some(folder)) => inspect(&folder),
        _ => Err(unknown(path)),
    }
}

fn unknown(path: &Path) -> Error {
    Error::file(path, "is no artifact, model or run folder").remedy(
        "name a folder with `part-*.parquet` files, one with `config.json` and \
         `*.safetensors`, an adapter, a `.gguf` file, or a run folder",
    )
}
