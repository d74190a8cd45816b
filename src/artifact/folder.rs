//! The files of an artifact's folder: parts and their seals, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::seal::Seal;
use crate::error::{Context, Error, Result};

/// What some systems leave in every folder that is looked at.
const HARMLESS: [&str; 2] = ["Thumbs.db", "desktop.ini"];

/// What lies in the folder of an artifact.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// The parts, by name.
    pub parts: Vec<PathBuf>,
    /// Seals of parts that are not there.
    pub lone_seals: Vec<PathBuf>,
}

impl Files {
    /// The files in `dir`; none if the folder does not exist.
    ///
    /// # Errors
    /// A file that is neither a part nor its seal: other programs, and SQL, might read it. What is
    /// hidden is passed over, half-written files among it.
    pub fn of(dir: &Path) -> Result<Self> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(Error::io(dir, error)),
        };
        let mut parts = BTreeSet::new();
        let mut seals = BTreeSet::new();
        for entry in entries {
            let path = entry.at(dir)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if is_part(&name) {
                parts.insert(path);
            } else if is_seal(&name) {
                seals.insert(path);
            } else if !is_hidden(&name) {
                return Err(unknown(&path));
            }
        }
        for part in &parts {
            seals.remove(&Seal::path_of(part));
        }
        Ok(Self {
            parts: parts.into_iter().collect(),
            lone_seals: seals.into_iter().collect(),
        })
    }
}

/// Fails if a file lies in `dir` that does not belong to an artifact.
///
/// # Errors
/// It names the file.
pub fn check_files(dir: &Path) -> Result<()> {
    Files::of(dir).map(drop)
}

/// The error for a file where only artifacts belong.
pub(super) fn unknown(path: &Path) -> Error {
    Error::damaged(path, "does not belong to the artifact in its folder")
        .remedy("move it somewhere else")
}

/// Whether a file is passed over by its name.
pub(super) fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || HARMLESS.contains(&name)
}

/// The file name of part `index`.
pub(super) fn part_name(index: u32) -> String {
    format!("part-{index:05}.parquet")
}

/// The name of the file that says who makes part `index`.
pub(super) fn lease_name(index: u32) -> String {
    format!(".part-{index:05}.lease")
}

/// The ordinal in the name of such a file.
pub(super) fn lease_index(path: &Path) -> Option<u32> {
    index_in(path.file_name()?.to_str()?, ".part-", ".lease")
}

/// The ordinal in the name of a part.
pub(super) fn part_index(path: &Path) -> Option<u32> {
    index_in(path.file_name()?.to_str()?, "part-", ".parquet")
}

/// Whether a file is a part, by its name.
pub fn is_part(name: &str) -> bool {
    index_in(name, "part-", ".parquet").is_some()
}

/// Whether a file is the seal of a part, by its name.
pub fn is_seal(name: &str) -> bool {
    index_in(name, "_part-", ".json").is_some()
}

/// The ordinal between `before` and `after`, if its digits are as [`part_name`] writes them.
fn index_in(name: &str, before: &str, after: &str) -> Option<u32> {
    let digits = name.strip_prefix(before)?.strip_suffix(after)?;
    let index: u32 = digits.parse().ok()?;
    (format!("{index:05}") == digits).then_some(index)
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, error)),
        _ => Ok(()),
    }
}
