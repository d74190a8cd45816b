//! What an artifact, a checkpoint or a run folder is.

mod artifact;
mod checkpoint;
mod origin;
mod run;

use std::fmt;
use std::path::Path;

use serde::Serialize;

pub use artifact::ArtifactReport;
pub use checkpoint::CheckpointReport;
pub use origin::Origin;
pub use run::RunReport;

use crate::artifact::Kind;
use crate::checkpoint::{CONFIG, weight_files};
use crate::error::{Error, Result};

/// What a path is; prints as text and serialises as JSON.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Inspection {
    /// An artifact, or one part of it.
    Artifact(Box<ArtifactReport>),
    /// A Hugging Face model folder or a GGUF file.
    Checkpoint(CheckpointReport),
    /// A run folder.
    Run(RunReport),
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Inspection::Artifact(report) => report.fmt(f),
            Inspection::Checkpoint(report) => report.fmt(f),
            Inspection::Run(report) => report.fmt(f),
        }
    }
}

/// Says what `path` is: a Parquet part, an artifact's folder, a safetensors or GGUF file, a
/// model folder, or a run folder. Reads footers and headers only, never rows or weights.
///
/// # Errors
/// If it is none of these, or it is damaged.
pub fn inspect(path: &Path) -> Result<Inspection> {
    if !path.exists() {
        return Err(Error::file(path, "no such file or folder"));
    }
    let extension = path.extension().and_then(|e| e.to_str());
    if path.is_file() {
        return match extension {
            Some("parquet") => Ok(Inspection::Artifact(Box::new(artifact::of_part(path)?))),
            Some("gguf") => Ok(Inspection::Checkpoint(checkpoint::of_gguf(path)?)),
            Some("safetensors") => Ok(Inspection::Checkpoint(checkpoint::of_file(path)?)),
            _ => Err(unknown(path)),
        };
    }
    if artifact::first_part(path)?.is_some() {
        return Ok(Inspection::Artifact(Box::new(artifact::of_folder(path)?)));
    }
    if path.join(CONFIG).is_file() || !weight_files(path)?.is_empty() {
        return Ok(Inspection::Checkpoint(checkpoint::of_folder(path)?));
    }
    let holds_kinds = Kind::ALL.iter().any(|kind| path.join(kind.name()).is_dir());
    if holds_kinds || path.join("checkpoints").is_dir() {
        return Ok(Inspection::Run(run::of_folder(path)?));
    }
    Err(unknown(path))
}

fn unknown(path: &Path) -> Error {
    Error::file(path, "is no artifact, model or run folder").remedy(
        "name a folder with `part-*.parquet` files, one with `config.json` and \
         `*.safetensors`, a `.gguf` file, or a run folder",
    )
}
