//! Where an artifact lies in a run folder.

use std::fs;
use std::path::{Path, PathBuf};

use super::Kind;
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
