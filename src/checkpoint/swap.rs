//! Putting a finished folder in its place.
//!
//! What is written is filled beside its place, in `.NAME.partial`, under the lock `.NAME.lock`, which is
//! held from the first byte until the folder has its name. Whether the place may be taken is decided
//! when the work is planned, and the place is looked at three times more: when the lock is there,
//! before the folders change places, and after it (the folder that was there is then in ours), so
//! that what appeared or changed meanwhile is kept, even where the file system has no locks.
//!
//! Folders change places in one step where the system can do that; elsewhere the older one is first
//! called `.NAME.old`, which is put back if the process ends just then.

use std::fs;
use std::path::{Path, PathBuf};

use super::record::FolderRecord;
use crate::error::{Context, Error, Result};
use crate::files::{Lock, Stamp, beside};

/// What lies in a place.
#[derive(Clone, Debug)]
enum Seen {
    /// Nothing, or an empty folder.
    Nothing,
    /// A folder with these files and links, by their paths in it.
    Folder(Vec<(PathBuf, Stamp)>),
    /// Something else.
    Other,
}

impl Seen {
    /// What lies at `path`; where folders change places meanwhile, one of them.
    fn of(path: &Path) -> Result<Self> {
        let folder = || path.metadata().ok().map(|meta| Stamp::of(&meta));
        loop {
            let before = folder();
            let found = Self::list(path)?;
            if before == folder() {
                return Ok(found);
            }
        }
    }

    fn list(path: &Path) -> Result<Self> {
        let Ok(meta) = path.symlink_metadata() else {
            return Ok(Self::Nothing);
        };
        // A link to a folder is replaced as the folder is.
        if !meta.is_dir() && !path.is_dir() {
            return Ok(Self::Other);
        }
        let mut found = Vec::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            let at = path.join(&folder);
            let entries = match fs::read_dir(&at) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                entries => entries.at(&at)?,
            };
            for entry in entries {
                let entry = entry.at(&at)?;
                let name = folder.join(entry.file_name());
                // One that is removed at this moment.
                let Ok(meta) = entry.metadata() else { continue };
                if meta.is_dir() {
                    folders.push(name.clone());
                }
                found.push((name, Stamp::of(&meta)));
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(match found.is_empty() {
            true => Self::Nothing,
            false => Self::Folder(found),
        })
    }

    /// Whether `later` holds the same files with the same bytes.
    fn is_same(&self, later: &Self) -> bool {
        match (self, later) {
            (Self::Nothing, Self::Nothing) => true,
            (Self::Folder(before), Self::Folder(after)) => {
                before.len() == after.len()
                    && before
                        .iter()
                        .zip(after)
                        .all(|(a, b)| a.0 == b.0 && a.1.is_same_content(&b.1))
            }
            _ => false,
        }
    }
}

/// A place for a folder, as it was when the work was planned.
#[derive(Debug)]
pub struct Target {
    out: PathBuf,
    seen: Seen,
    /// What was there before a process ended between two renames.
    older: Option<PathBuf>,
    force: bool,
}

impl Target {
    /// Looks at the place `out` and changes nothing. With `force` the folder there may be replaced
    /// by another checkpoint of ours until the work is done.
    ///
    /// # Errors
    /// `out` has no name of its own, is a file (or a link to nothing), or cannot be listed.
    pub fn look(out: &Path, force: bool) -> Result<Self> {
        let absolute = std::path::absolute(out).at(out)?;
        if out.file_name().is_none() || absolute.file_name().is_none() {
            let problem = format!("the output `{}` has no name of its own", out.display());
            return Err(Error::usage(problem).remedy("give the path of a folder"));
        }
        let mut target = Self {
            out: out.to_path_buf(),
            seen: Seen::of(&absolute)?,
            older: None,
            force,
        };
        if let Seen::Other = target.seen {
            let problem = format!("the output `{}` is a file", out.display());
            return Err(Error::usage(problem).remedy("give the path of a folder"));
        }
        if is_mount_point(&absolute) {
            let problem = format!("the output `{}` is a mount point", out.display());
            return Err(Error::usage(problem).remedy("give the path of a folder in it"));
        }
        let older = target.beside("old");
        if matches!(target.seen, Seen::Nothing) && older.is_dir() {
            target.seen = Seen::of(&older)?;
            target.older = Some(older);
        }
        Ok(target)
    }

    /// The folder that is in the place, for messages.
    pub fn taken(&self) -> &Path {
        self.older.as_deref().unwrap_or(&self.out)
    }

    /// The place.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// Whether there is something in it.
    pub fn is_taken(&self) -> bool {
        matches!(self.seen, Seen::Folder(_))
    }

    /// Whether there is a file of this name in it.
    pub fn holds(&self, name: &str) -> bool {
        matches!(&self.seen, Seen::Folder(files) if files.iter().any(|f| f.0 == Path::new(name)))
    }

    /// The folder or file `.NAME.END` beside the place.
    pub fn beside(&self, end: &str) -> PathBuf {
        // `look` refuses paths without a name.
        beside(&self.out, end).unwrap_or_else(|| self.out.with_extension(end))
    }

    /// Takes the lock for `command` and looks at the place again.
    ///
    /// # Errors
    /// Another process has the lock; what lies in the place is not what was planned for.
    pub fn begin(&self, command: &str) -> Result<Place<'_>> {
        let lock = self.beside("lock");
        let parent = lock.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).at(parent)?;
        let lock = Lock::take(lock, &self.out, command)?;
        let older = self.beside("old");
        if older.is_dir() {
            // From a process that ended between two renames, or after them.
            match Seen::of(&self.out)? {
                Seen::Nothing => rename(&older, &self.out)?,
                _ => remove(&older)?,
            }
        }
        self.check()?;
        Ok(Place {
            target: self,
            _lock: lock,
        })
    }

    /// Fails if what lies in the place is not what was planned for.
    fn check(&self) -> Result<()> {
        self.check_at(&self.out)
    }

    /// The same for what was in the place and is at `path` now.
    fn check_at(&self, path: &Path) -> Result<()> {
        let now = Seen::of(path)?;
        let free = matches!(now, Seen::Nothing) || self.seen.is_same(&now);
        if free || self.force && matches!(FolderRecord::read(path), Ok(Some(_))) {
            return Ok(());
        }
        let what = match &self.seen {
            Seen::Nothing => "appeared",
            _ => "changed",
        };
        let problem = format!("`{}` {what} after the work was planned", self.out.display());
        Err(Error::usage(problem)
            .remedy("it is kept as it is; run the same command again, or choose another folder"))
    }
}

/// A place whose lock we have.
#[derive(Debug)]
pub struct Place<'a> {
    target: &'a Target,
    _lock: Lock,
}

impl Place<'_> {
    /// Fills a new folder with `write`, which returns what it wrote, adds the record and gives the
    /// folder its place. After an error nothing is left of it.
    ///
    /// # Errors
    /// Those of `write` and of [`Place::publish`].
    pub fn fill(self, write: impl FnOnce(&Path) -> Result<FolderRecord>) -> Result<()> {
        let dir = self.target.beside("partial");
        remove(&dir)?;
        fs::create_dir(&dir).at(&dir)?;
        let number = || fs::metadata(&dir).ok().and_then(|m| Stamp::of(&m).file());
        let ours = number();
        let done = write(&dir)
            .and_then(|record| record.write(&dir, &[]))
            .and_then(|()| self.publish(&dir, &[]));
        // The first failure is the one to report; what was in the place may be here now.
        if done.is_err() && number() == ours {
            let _ = remove(&dir);
        }
        done
    }

    /// Gives the finished folder `dir`, which lies beside the place, its place. The files `passing`
    /// are removed from it; after an error they are there again.
    ///
    /// # Errors
    /// What lies in the place is not what was planned for: it is kept. Failed renames.
    pub fn publish(self, dir: &Path, passing: &[&str]) -> Result<()> {
        let out = std::path::absolute(&self.target.out).at(&self.target.out)?;
        self.target.check()?;
        let mut passed = Vec::with_capacity(passing.len());
        for name in passing {
            let path = dir.join(name);
            passed.push((fs::read(&path).at(&path)?, path.clone()));
            fs::remove_file(&path).at(&path)?;
        }
        let placed = self.put(dir, out);
        if placed.is_err() {
            for (bytes, path) in passed {
                let _ = fs::write(path, bytes);
            }
        }
        placed
    }

    fn put(&self, dir: &Path, out: PathBuf) -> Result<()> {
        // An empty folder is replaced by this, any other is not.
        let Err(refused) = fs::rename(dir, &out) else {
            return Ok(());
        };
        match Seen::of(&out)? {
            // Systems that do not rename onto empty folders.
            Seen::Nothing if fs::remove_dir(&out).is_ok() => return rename(dir, &out),
            Seen::Nothing if !out.is_symlink() => return Err(Error::io(out, refused)),
            _ => {}
        }
        match exchange(dir, &out) {
            Ok(()) => {
                if let Err(error) = self.target.check_at(dir) {
                    exchange(dir, &out).at(&out)?;
                    return Err(error);
                }
                remove(dir)
            }
            Err(_) => self.replace(dir, &out),
        }
    }

    /// Lets the folder take the place of the one there in two steps.
    fn replace(&self, dir: &Path, out: &Path) -> Result<()> {
        let older = self.target.beside("old");
        rename(out, &older)?;
        let replaced = self.target.check_at(&older).and_then(|()| rename(dir, out));
        if let Err(error) = replaced {
            rename(&older, out)?;
            return Err(error);
        }
        remove(&older)
    }
}

/// Lets two folders change places in one step.
#[cfg(target_os = "linux")]
fn exchange(a: &Path, b: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Whether another file system begins at a folder, which cannot be renamed then.
#[cfg(unix)]
fn is_mount_point(dir: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| path.symlink_metadata().ok().map(|meta| meta.dev());
    let parent = dir.parent().and_then(device);
    device(dir).is_some_and(|own| parent.is_some_and(|parent| parent != own))
}

#[cfg(not(unix))]
fn is_mount_point(_: &Path) -> bool {
    false
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).at(to)
}

/// Removes a folder, or the link to one, if it is there.
fn remove(dir: &Path) -> Result<()> {
    let removed = match dir.is_symlink() {
        true => fs::remove_file(dir),
        false => fs::remove_dir_all(dir),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(dir, error)),
        _ => Ok(()),
    }
}
