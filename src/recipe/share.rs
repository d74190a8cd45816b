//! Results of one run in the folder of another, without a second copy on disk.
//!
//! Finished files are never written again: they are replaced by new ones of the same name. So a
//! hard link is as good as a copy; where the file system has none, files are copied.

use std::fs;
use std::path::Path;

use super::step::Item;
use crate::artifact::{is_part, is_seal};
use crate::error::{Context, Result};
use crate::files::digest;

/// Puts the parts of the artifact in `from`, and what was recorded of them, into `to`, in the place
/// of what is there.
pub(super) fn artifact(from: &Path, to: &Path) -> Result<()> {
    files(from, to, &|name| is_part(name) || is_seal(name))
}

/// Puts what a step has written in another run in the place of what it would write here.
pub(super) fn item(from: &Item, to: &Item) -> Result<()> {
    match from {
        Item::Artifact(..) => artifact(from.path(), to.path()),
        _ => files(from.path(), to.path(), &|name| !name.starts_with('.')),
    }
}

fn files(from: &Path, to: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
    match fs::remove_dir_all(to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).at(to),
        _ => fs::create_dir_all(to).at(to)?,
    }
    for entry in fs::read_dir(from).at(from)? {
        let entry = entry.at(from)?;
        let name = entry.file_name();
        if !wanted(&name.to_string_lossy()) {
            continue;
        }
        let (source, target) = (entry.path(), to.join(&name));
        // An adapter lies in a folder of its checkpoint.
        if entry.file_type().at(from)?.is_dir() {
            files(&source, &target, wanted)?;
        } else if digest::link(&source, &target).is_err() {
            fs::copy(&source, &target).at(&target)?;
        }
    }
    Ok(())
}

/// Removes files of a step's outputs that other runs share, before it writes them anew: not every
/// writer replaces a file by a new one.
pub(super) fn unshare(outputs: &[Item]) -> Result<()> {
    for item in outputs {
        if matches!(item, Item::Model(_)) {
            remove_files(item.path(), is_shared)?;
        }
    }
    Ok(())
}

#[cfg(unix)]
fn is_shared(metadata: &fs::Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(metadata) > 1
}

#[cfg(not(unix))]
fn is_shared(_: &fs::Metadata) -> bool {
    true
}

fn remove_files(dir: &Path, wanted: impl Fn(&fs::Metadata) -> bool) -> Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).at(dir),
    };
    for entry in entries {
        let path = entry.at(dir)?.path();
        let metadata = fs::symlink_metadata(&path).at(&path)?;
        if metadata.is_file() && wanted(&metadata) {
            fs::remove_file(&path).at(&path)?;
        }
    }
    Ok(())
}
