//! Things that stages read and write.

use std::fs;
use std::path::{Path, PathBuf};

use crate::artifact::{self, Artifact, Kind};
use crate::checkpoint::{
    FolderRecord, adapter_digest, companions_digest, gguf_files, is_gguf, tokenizer_digest,
};
use crate::error::{Context, Error, Result};
use crate::files::digest;
use crate::lora::ModelPath;

/// Something that a stage reads or writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An artifact.
    Artifact(Kind, PathBuf),
    /// A model folder (configuration and weights) or a GGUF file, with an adapter or without.
    Model(ModelPath),
    /// The files that determine tokenisation and chat template in a model folder.
    Tokenizer(PathBuf),
    /// The files of a model folder that a checkpoint made from it takes over.
    Companions(PathBuf),
    /// The folder of a LoRA adapter.
    Adapter(PathBuf),
    /// Any other file.
    File(PathBuf),
}

impl Item {
    /// An artifact of this kind.
    pub fn artifact(kind: Kind, dir: impl Into<PathBuf>) -> Self {
        Item::Artifact(kind, dir.into())
    }

    /// A model folder.
    pub fn model(model: impl Into<ModelPath>) -> Self {
        Item::Model(model.into())
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        match self {
            Item::Model(model) => &model.base,
            Item::Artifact(_, path)
            | Item::Tokenizer(path)
            | Item::Companions(path)
            | Item::Adapter(path)
            | Item::File(path) => path,
        }
    }

    /// Of an artifact, its kind.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Item::Artifact(kind, _) => Some(*kind),
            _ => None,
        }
    }

    /// Opens an artifact.
    ///
    /// # Errors
    /// It is not there, not whole, damaged, or no artifact.
    pub fn open(&self) -> Result<Artifact> {
        match self {
            Item::Artifact(kind, dir) => Artifact::open(dir, *kind),
            other => Err(Error::file(other.path(), "is no artifact")),
        }
    }

    /// Digest of what it is.
    ///
    /// # Errors
    /// It is not there, not whole, or damaged.
    pub fn digest(&self) -> Result<String> {
        match self {
            Item::Artifact(..) => Ok(self.open()?.content()),
            Item::Model(model) => model.digest(),
            Item::Tokenizer(dir) => tokenizer_digest(dir),
            Item::Companions(dir) => companions_digest(dir),
            Item::Adapter(dir) => adapter_digest(dir),
            Item::File(path) => digest::file(path),
        }
    }

    /// Digest of what it is, or `None` if it is not there (or not whole).
    ///
    /// # Errors
    /// It is damaged, or cannot be looked at.
    pub fn identity(&self) -> Result<Option<String>> {
        match self {
            Item::Artifact(_, dir) => {
                // Damage is made good, what others put there is not removed.
                artifact::check_files(dir)?;
                match self.digest() {
                    Ok(digest) => Ok(Some(digest)),
                    Err(error) if error.is_of_the_system() => Err(error),
                    Err(_) => Ok(None),
                }
            }
            Item::Model(model) if !model.is_there() => Ok(None),
            Item::Adapter(dir) if !dir.is_dir() => Ok(None),
            Item::File(path) if !path.exists() => Ok(None),
            _ => self.digest().map(Some),
        }
    }

    /// Where it lies, however that was written.
    ///
    /// # Errors
    /// There is no current folder.
    pub fn place(&self) -> Result<PathBuf> {
        std::path::absolute(self.path()).at(self.path())
    }

    /// Whether it is a checkpoint of ours that lacks a file that was written.
    pub fn lacks_files(&self) -> bool {
        match self {
            Item::Model(model) => match FolderRecord::read(&model.base) {
                Ok(Some(record)) => record.lacks_files(&model.base),
                _ => false,
            },
            _ => false,
        }
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        match self {
            Item::File(path) => file_bytes(path),
            Item::Model(model) if is_gguf(&model.base) => {
                gguf_files(&model.base).iter().map(|p| file_bytes(p)).sum()
            }
            Item::Tokenizer(_) | Item::Companions(_) | Item::Adapter(_) => 0,
            Item::Artifact(_, dir) => folder_bytes(dir),
            Item::Model(model) => {
                let adapter = model.adapter.as_deref().map_or(0, folder_bytes);
                folder_bytes(&model.base) + adapter
            }
        }
    }
}

fn folder_bytes(dir: &Path) -> u64 {
    fs::read_dir(dir).map_or(0, |entries| {
        let sizes = entries.flatten().filter_map(|entry| entry.metadata().ok());
        sizes.filter(fs::Metadata::is_file).map(|m| m.len()).sum()
    })
}

fn file_bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_do_not_depend_on_how_paths_are_written() {
        let here = std::env::current_dir().unwrap();
        let place = |path: PathBuf| Item::File(path).place().unwrap();
        assert_eq!(place("run/x".into()), place(here.join("run/./x")));
    }
}
