//! What a run folder holds.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::artifact::{Artifact, Kind, RunDir};
use crate::error::{Context, Error, Result};
use crate::units::{Bytes, Count};

/// One artifact of a run.
#[derive(Clone, Debug, Serialize)]
pub struct RunEntry {
    /// Its folder in the run.
    pub artifact: String,
    /// Parts.
    pub parts: usize,
    /// Rows.
    pub rows: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Why it cannot be used, if it cannot.
    pub problem: Option<String>,
}

impl RunEntry {
    fn unusable(artifact: String, why: &Error) -> Self {
        Self {
            artifact,
            parts: 0,
            rows: 0,
            bytes: 0,
            problem: Some(why.to_string()),
        }
    }
}

/// What a run folder holds.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// The folder.
    pub path: PathBuf,
    /// Its artifacts.
    pub artifacts: Vec<RunEntry>,
    /// Names of its checkpoints.
    pub checkpoints: Vec<String>,
}

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "run  {}", self.path.display())?;
        let width = self
            .artifacts
            .iter()
            .map(|a| a.artifact.len())
            .max()
            .unwrap_or(0)
            .max(8);
        writeln!(
            f,
            "{:<width$}  {:>14}  {:>10}  {:>5}",
            "artifact", "rows", "size", "parts"
        )?;
        for entry in &self.artifacts {
            match &entry.problem {
                Some(problem) => writeln!(f, "{:<width$}  {problem}", entry.artifact)?,
                None => writeln!(
                    f,
                    "{:<width$}  {:>14}  {:>10}  {:>5}",
                    entry.artifact,
                    Count(entry.rows),
                    Bytes(entry.bytes).to_string(),
                    entry.parts
                )?,
            }
        }
        for name in &self.checkpoints {
            writeln!(f, "checkpoints/{name}")?;
        }
        Ok(())
    }
}

pub(super) fn of_folder(path: &Path) -> Result<RunReport> {
    let run = RunDir::new(path);
    let mut artifacts = Vec::new();
    for kind in Kind::ALL {
        if let Err(error) = run.check_folders(kind) {
            artifacts.push(RunEntry::unusable(kind.name().to_owned(), &error));
        }
        for values in run.list(kind)? {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let dir = run.artifact(kind, &values);
            let name = dir.strip_prefix(path).unwrap_or(&dir).display().to_string();
            artifacts.push(match Artifact::open(&dir, kind) {
                Ok(artifact) => RunEntry {
                    artifact: name,
                    parts: artifact.parts().len(),
                    rows: artifact.rows(),
                    bytes: artifact.bytes(),
                    problem: None,
                },
                Err(error) => RunEntry::unusable(name, &error),
            });
        }
    }
    let mut checkpoints = Vec::new();
    let dir = path.join("checkpoints");
    if dir.is_dir() {
        for entry in fs::read_dir(&dir).at(&dir)? {
            let name = entry.at(&dir)?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') {
                checkpoints.push(name);
            }
        }
    }
    checkpoints.sort();
    Ok(RunReport {
        path: path.to_path_buf(),
        artifacts,
        checkpoints,
    })
}
