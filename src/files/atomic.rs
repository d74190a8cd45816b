//! Whole files or none: write beside the final name, then rename.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::host;
use super::lock::lock_new;
use crate::error::{Context, Error, Result};

/// How long a file of another machine must not have been written to before it counts as left behind.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

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
    /// Creates the missing folders and an empty file beside `destination`, which is locked as long
    /// as it is open.
    pub fn create(destination: &Path) -> Result<(Self, File)> {
        let (Some(dir), Some(name)) = (destination.parent(), destination.file_name()) else {
            return Err(Error::usage(format!(
                "`{}` is no path of a file",
                destination.display()
            )));
        };
        let name = name.to_string_lossy();
        let mut made_folder = false;
        loop {
            made_folder |= !dir.exists();
            fs::create_dir_all(dir).at(dir)?;
            let temporary = dir.join(format!(
                "{}{}-{}",
                prefix(&name),
                host::boot(),
                host::nonce()?
            ));
            let file = match File::create_new(&temporary) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                // Another process that failed has just removed the folder that it had made.
                Err(error) if error.kind() == ErrorKind::NotFound && !dir.exists() => continue,
                Err(error) => return Err(Error::io(temporary, error)),
            };
            lock_new(&file);
            // Another process may have taken it for a leftover before we locked it.
            if !temporary.exists() {
                continue;
            }
            remove_leftovers(dir, &name, &file);
            let pending = Self {
                temporary,
                destination: destination.to_path_buf(),
                committed: false,
                made_folder,
            };
            return Ok((pending, file));
        }
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

/// What the names of unfinished files of the name `name` begin with.
fn prefix(name: &str) -> String {
    format!(".{name}.tmp-")
}

/// Removes what killed processes left of the same file, and nothing that a living one writes: on
/// this machine those are locked; of other machines (and where there are no locks) only those go
/// that nobody has written to for a day, by the clock that has just dated `ours`.
fn remove_leftovers(dir: &Path, name: &str, ours: &File) {
    let prefix = prefix(name);
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    let now = ours.metadata().and_then(|ours| ours.modified()).ok();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(maker) = name.to_str().and_then(|name| name.strip_prefix(&prefix)) else {
            continue;
        };
        if is_leftover(&entry.path(), maker, now).unwrap_or(false) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether nobody writes to an unfinished file any more; `maker` says on which machine it was made,
/// or only by which process, as earlier versions have it.
fn is_leftover(path: &Path, maker: &str, now: Option<SystemTime>) -> std::io::Result<bool> {
    let near = maker
        .split_once('-')
        .is_none_or(|(boot, _)| boot == host::boot());
    if !fs::symlink_metadata(path)?.is_file() {
        return Ok(false);
    }
    let file = File::open(path)?;
    match file.try_lock_shared() {
        Ok(()) if near => return Ok(true),
        Err(TryLockError::WouldBlock) => return Ok(false),
        _ => {}
    }
    let written = file.metadata()?.modified()?;
    let age = now.and_then(|now| now.duration_since(written).ok());
    Ok(age.is_some_and(|age| age >= DAY))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_being_written_stays_and_what_a_killed_process_left_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part");
        let (first, file) = Pending::create(&path).unwrap();
        let left = format!(".part.tmp-{}-0", host::boot());
        let other = ".part.tmp-another-0";
        for name in [left.as_str(), ".part.tmp-77", other, ".other.tmp-77"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        let (second, _file) = Pending::create(&path).unwrap();
        let name = |pending: &Pending| {
            let name = pending.path().file_name().unwrap();
            name.to_str().unwrap().to_owned()
        };
        // Of another machine nobody can tell yet.
        let mut expected = vec![
            ".other.tmp-77".to_owned(),
            other.to_owned(),
            name(&first),
            name(&second),
        ];
        expected.sort();
        assert_eq!(names(dir.path()), expected);
        drop(second);
        first.commit(&file).unwrap();
        assert_eq!(names(dir.path()), [".other.tmp-77", other, "part"]);
    }

    #[test]
    fn what_another_machine_left_goes_after_a_day() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".part.tmp-another-0");
        let file = File::create(&path).unwrap();
        let written = file.metadata().unwrap().modified().unwrap();
        let is_leftover = |later: Duration| {
            let now = Some(written + later);
            super::is_leftover(&path, "another-0", now).unwrap()
        };
        assert!(!is_leftover(DAY / 2));
        assert!(is_leftover(DAY));
        assert!(!super::is_leftover(&path, "another-0", None).unwrap());
    }
}
