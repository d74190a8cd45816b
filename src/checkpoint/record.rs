//! The record of a checkpoint folder: a JSON file with an entry for each of its other files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::cells;
use crate::error::{Context, Error, Result};
use crate::files::{Claim, FileRecord, Of, atomic, check_length, digest_of_file, digest_of_path};

/// The record's name in its folder.
pub const RECORD: &str = "fuselm-digests.json";

/// What to do about a damaged checkpoint.
const REMEDY: &str = "remove the checkpoint's folder and run its stage again";

/// What was written to the files of a folder, and of the folders in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FolderRecord {
    /// By path in the folder, with `/`.
    files: BTreeMap<String, FileRecord>,
}

impl FolderRecord {
    /// Adds a file whose record was taken while it was written.
    pub fn insert(&mut self, name: impl Into<String>, record: FileRecord) {
        self.files.insert(name.into(), record);
    }

    /// The same, for files that lie in the folder `folder` of this one.
    #[must_use]
    pub fn within(self, folder: &str) -> Self {
        let names = self.files.into_iter();
        Self {
            files: names
                .map(|(name, record)| (format!("{folder}/{name}"), record))
                .collect(),
        }
    }

    /// All entries of another record.
    pub fn extend(&mut self, other: Self) {
        self.files.extend(other.files);
    }

    /// Adds what is in `dir` besides (configuration, tokenizer: small files), but for those named
    /// in `passing`, which will not stay, and writes the record.
    ///
    /// # Errors
    /// Files that cannot be read or written.
    pub fn write(mut self, dir: &Path, passing: &[&str]) -> Result<()> {
        for name in names(dir)? {
            if passing.contains(&name.as_str()) || self.files.contains_key(&name) {
                continue;
            }
            let path = dir.join(&name);
            let mut file = File::open(&path).at(&path)?;
            let record = FileRecord {
                bytes: file.metadata().at(&path)?.len(),
                digest: digest_of_file(&mut file, &path)?,
                of: Of::Bytes,
            };
            self.files.insert(name, record);
        }
        let path = dir.join(RECORD);
        let text = serde_json::to_string_pretty(&self).at(&path)?;
        atomic::write(&path, (text + "\n").as_bytes())
    }

    /// The record of `dir`, if it has one.
    ///
    /// # Errors
    /// It is damaged.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(RECORD);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(path, error)),
        };
        let damaged = |problem: String| Error::damaged(&path, problem).remedy(REMEDY);
        let record: Self = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
        let plain = |name: &str| {
            let mut parts = Path::new(name).components();
            parts.all(|part| matches!(part, Component::Normal(_)))
        };
        match record.files.keys().find(|name| !plain(name)) {
            None => Ok(Some(record)),
            Some(name) => Err(damaged(format!("`{name}` is no file in it"))),
        }
    }

    /// What is wrong with the files of `dir` as far as it shows without reading them: some are
    /// missing, of another length, or unknown.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub fn problems(&self, dir: &Path) -> Result<Vec<Error>> {
        let mut problems = Vec::new();
        for (name, record) in &self.files {
            let path = dir.join(name);
            let length = fs::metadata(&path).at(&path).map(|meta| meta.len());
            match length.and_then(|length| check_length(&path, record.bytes, length)) {
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    let missing = Error::file(&path, "is missing, it was written");
                    problems.push(missing.remedy(
                        "run the recipe again, it writes the checkpoint anew, or put the file back",
                    ));
                }
                Err(error) => problems.push(error.remedy(REMEDY)),
                Ok(()) => {}
            }
        }
        let unknown = names(dir)?;
        let unknown = unknown
            .iter()
            .filter(|name| !self.files.contains_key(*name));
        problems.extend(unknown.map(|name| {
            Error::damaged(
                &dir.join(name),
                format!("is not in `{RECORD}`, which names all files of the checkpoint"),
            )
            .remedy("move it out of this folder")
        }));
        Ok(problems)
    }

    /// Whether `dir` lacks a file that was written.
    pub fn lacks_files(&self, dir: &Path) -> bool {
        self.files.keys().any(|name| !dir.join(name).exists())
    }

    /// What the files of `dir` should hold.
    pub fn claims(&self, dir: &Path) -> Vec<Claim> {
        let files = self.files.iter();
        files
            .map(|(name, expected)| Claim {
                path: dir.join(name),
                expected: expected.clone(),
                digest: match expected.of {
                    Of::Bytes => digest_of_path,
                    Of::Tensors => cells::digest_of_path,
                },
                remedy: REMEDY,
            })
            .collect()
    }
}

/// Every file below `dir` by its path in it, but the record and what is hidden. Links are files,
/// wherever they lead: what is in folders of others, or around in a circle, is not ours.
fn names(dir: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let at = dir.join(&folder);
        for entry in fs::read_dir(&at).at(&at)? {
            let entry = entry.at(&at)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            let path = match folder.is_empty() {
                true => name,
                false => format!("{folder}/{name}"),
            };
            match entry.file_type().at(&at)?.is_dir() {
                true => folders.push(path),
                false if path == RECORD => {}
                false => found.push(path),
            }
        }
    }
    found.sort();
    Ok(found)
}
