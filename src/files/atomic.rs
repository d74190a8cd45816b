//! Whole files or none: write beside the final name, then rename.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};

/// A file that appears under its final name only when [`Pending::commit`] is called; dropped
/// before that, it leaves nothing behind, nor a folder that was made for it.
#[derive(Debug)]
pub struct Pending {
    temporary: PathBuf,
    destination: PathBuf,
    committed: bool,
    /// Whether the folder was made for the file.
    made_folder: bool,
}

impl Pending {
    /// Creates the missing folders and an empty file beside `destination`.
    pub fn create(destination: &Path) -> Result<(Self, File)> {
        let (Some(dir), Some(name)) = (destination.parent(), destination.file_name()) else {
            return Err(Error::usage(format!(
                "`{}` is no path of a file",
                destination.display()
            )));
        };
        let made_folder = !dir.exists();
        fs::create_dir_all(dir).at(dir)?;
        let name = name.to_string_lossy();
        remove_leftovers(dir, &name);
        let temporary = dir.join(format!(".{name}.tmp-{}", std::process::id()));
        let file = File::create(&temporary).at(&temporary)?;
        let pending = Self {
            temporary,
            destination: destination.to_path_buf(),
            committed: false,
            made_folder,
        };
        Ok((pending, file))
    }

    /// Where the bytes lie for now.
    pub(crate) fn path(&self) -> &Path {
        &self.temporary
    }

    /// Flushes to disk and gives the file its final name, replacing what was there.
    pub fn commit(mut self, file: &File) -> Result<()> {
        file.sync_all().at(&self.temporary)?;
        fs::rename(&self.temporary, &self.destination).at(&self.destination)?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_file(&self.temporary);
            // Empty, it would look like a result that was lost.
            if let (true, Some(dir)) = (self.made_folder, self.temporary.parent()) {
                let _ = fs::remove_dir(dir);
            }
        }
    }
}

/// Writes `bytes` to `path`, whole or not at all.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let (pending, mut file) = Pending::create(path)?;
    file.write_all(bytes).at(path)?;
    pending.commit(&file)
}

/// Removes what a killed process left of the same file.
fn remove_leftovers(dir: &Path, name: &str) {
    let prefix = format!(".{name}.tmp-");
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
