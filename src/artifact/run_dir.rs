//! Where an artifact lies in a run folder.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Kind;
use super::folder::{is_hidden, is_part, is_seal, unknown};
use crate::error::{Context, Error, Result};

/// A run folder: `RUN/<kind>/<key>=<value>/…/part-00000.parquet`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDir {
    root: PathBuf,
}

impl RunDir {
    /// The run in folder `root`, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The run in folder `root`, which must be one.
    ///
    /// # Errors
    /// There is no such folder, or it has neither an artifact's folder nor records of stages.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let run = Self::new(root);
        let root = run.root();
        if run.stages().is_dir() || Kind::ALL.iter().any(|kind| run.has(*kind)) {
            return Ok(run);
        }
        let problem = match root.is_dir() {
            true => "is no run folder: it has no folder of an artifact, and no `stages`",
            false => "no run folder here",
        };
        Err(Error::file(root, problem).remedy("name the folder that `fuselm run` wrote"))
    }

    /// Whether there is an artifact's folder of this kind, and not some other one of the same name.
    fn has(&self, kind: Kind) -> bool {
        let entries = fs::read_dir(self.root.join(kind.name())).ok();
        let mut entries = entries.into_iter().flatten().flatten();
        entries.any(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            match kind.partitions().first() {
                Some(key) => name
                    .strip_prefix(key)
                    .is_some_and(|rest| rest.starts_with('=')),
                None => is_part(&name) || is_seal(&name),
            }
        })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The artifact of `kind` with these partition values, in the order of
    /// [`Kind::partitions`].
    pub fn artifact(&self, kind: Kind, values: &[&str]) -> PathBuf {
        debug_assert_eq!(kind.partitions().len(), values.len());
        let mut path = self.root.join(kind.name());
        for (key, value) in kind.partitions().iter().zip(values) {
            path.push(format!("{key}={value}"));
        }
        path
    }

    /// The checkpoint called `name`.
    pub fn checkpoint(&self, name: &str) -> PathBuf {
        self.root.join("checkpoints").join(name)
    }

    /// Records of the stages that ran.
    pub fn stages(&self) -> PathBuf {
        self.root.join("stages")
    }

    /// The records of the stages that ran, sorted by name.
    ///
    /// # Errors
    /// A record that is damaged.
    pub fn recorded(&self) -> Result<Vec<StageRecord>> {
        let dir = self.stages();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io(dir, error)),
        };
        let mut recorded = Vec::new();
        for entry in entries {
            let path = entry.at(&dir)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if is_hidden(&name) || !name.ends_with(".json") || name == OWNER {
                continue;
            }
            let text = fs::read(&path).at(&path)?;
            let record: StageRecord = serde_json::from_slice(&text).map_err(|e| {
                Error::damaged(&path, e.to_string()).remedy("remove it; the stage then runs again")
            })?;
            recorded.push(record);
        }
        recorded.sort_by(|a, b| a.step.cmp(&b.step));
        Ok(recorded)
    }

    /// Fails if a file lies in the folder of a kind, or of a part of its name, where only folders of
    /// artifacts belong.
    ///
    /// # Errors
    /// It names the file.
    pub fn check_folders(&self, kind: Kind) -> Result<()> {
        let mut folders = vec![self.root.join(kind.name())];
        for key in kind.partitions() {
            let mut deeper = Vec::new();
            for dir in folders.into_iter().filter(|dir| dir.is_dir()) {
                for entry in fs::read_dir(&dir).at(&dir)? {
                    let path = entry.at(&dir)?.path();
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    let is_value = name.strip_prefix(key).is_some_and(|n| n.starts_with('='));
                    match is_value && path.is_dir() {
                        true => deeper.push(path),
                        false if is_hidden(&name) => {}
                        false => return Err(unknown(&path)),
                    }
                }
            }
            folders = deeper;
        }
        Ok(())
    }

    /// The partition values of every artifact of `kind` in the run, sorted.
    pub fn list(&self, kind: Kind) -> Result<Vec<Vec<String>>> {
        let mut found = vec![(self.root.join(kind.name()), Vec::new())];
        for key in kind.partitions() {
            let mut deeper = Vec::new();
            for (dir, values) in found {
                for value in partition_values(&dir, key)? {
                    let mut values: Vec<String> = values.clone();
                    let path = dir.join(format!("{key}={value}"));
                    values.push(value);
                    deeper.push((path, values));
                }
            }
            found = deeper;
        }
        let mut values: Vec<Vec<String>> = found
            .into_iter()
            .filter(|(dir, _)| dir.is_dir())
            .map(|(_, values)| values)
            .collect();
        values.sort();
        Ok(values)
    }
}

/// The file in `stages` that says whose run a folder is.
pub const OWNER: &str = "run.json";

/// What is recorded of a stage that ran: a JSON file in `stages`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageRecord {
    /// Stage and subject.
    pub step: String,
    /// Digest of everything that determined the result.
    pub fingerprint: String,
    /// Identity of each output.
    pub outputs: Vec<String>,
    /// How long it took.
    pub seconds: f64,
    /// Bytes written.
    pub bytes: u64,
    /// The line for the user.
    pub summary: String,
    /// The outputs, relative to the run folder.
    #[serde(default)]
    pub paths: Vec<PathBuf>,
    /// Whether the stage was begun again since: what it wrote need not be whole.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub begun: bool,
}

fn partition_values(dir: &Path, key: &str) -> Result<Vec<String>> {
    let mut values = Vec::new();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(values),
        Err(error) => return Err(Error::io(dir, error)),
    };
    for entry in entries {
        let name = entry.at(dir)?.file_name();
        let name = name.to_string_lossy();
        if let Some(value) = name
            .strip_prefix(key)
            .and_then(|rest| rest.strip_prefix('='))
        {
            values.push(value.to_owned());
        }
    }
    Ok(values)
}

/// Fails unless `name` can be a folder name and a partition value: letters, digits, `.`, `_`,
/// `-`, not starting with a dot.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let fits = !name.is_empty()
        && !name.starts_with('.')
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if fits {
        return Ok(());
    }
    Err(
        Error::usage(format!("{what} `{name}` cannot be a folder name"))
            .remedy("use letters, digits, `.`, `_` and `-`"),
    )
}
