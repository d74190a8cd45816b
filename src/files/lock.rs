//! Locks that end with their process: files that the system locks.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Stamp;
use crate::error::{Context, Error, Result};

/// Longest file of a lock that is read.
const MOST_BYTES: u64 = 200;

/// A lock that is held until it is dropped, alone or with others that share it. Its file says who
/// holds it and is removed at the end; one that a killed process left behind locks nobody out.
///
/// On file systems without locks everyone gets it: whoever replaces something looks at it again as
/// well.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// Takes the lock whose file is `path`, to write `what` by the command `command`.
    ///
    /// # Errors
    /// Another process (or thread) holds it, which the message names; the file cannot be made.
    pub fn take(path: PathBuf, what: &Path, command: &str) -> Result<Self> {
        Self::take_by(File::try_lock, path, what, command)
    }

    /// The same with others that share it, which keep out everyone who wants it alone.
    ///
    /// # Errors
    /// Another process (or thread) holds it alone, which the message names; the file cannot be made.
    pub fn share(path: PathBuf, what: &Path, command: &str) -> Result<Self> {
        Self::take_by(File::try_lock_shared, path, what, command)
    }

    fn take_by(
        lock: impl Fn(&File) -> std::result::Result<(), TryLockError>,
        path: PathBuf,
        what: &Path,
        command: &str,
    ) -> Result<Self> {
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            // A link would have us write to another file, a pipe would have us wait.
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::custom_flags(
                &mut options,
                libc::O_NOFOLLOW | libc::O_NONBLOCK,
            );
            let mut file = options.open(&path).at(&path)?;
            if !file.metadata().at(&path)?.is_file() {
                return Err(Error::file(&path, "a lock is wanted here, this is no file"));
            }
            match lock(&file) {
                Err(TryLockError::WouldBlock) => return Err(held(&mut file, what)),
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            // The one who held it may have removed the file between our opening and locking it:
            // then the next one opens another file, and ours locks nobody out.
            let ours = Stamp::of(&file.metadata().at(&path)?).file();
            if ours != fs::metadata(&path).ok().and_then(|m| Stamp::of(&m).file()) {
                continue;
            }
            // Who holds it is said for people only.
            let holder = format!("fuselm {command}, process {}\n", std::process::id());
            let _ = file
                .set_len(0)
                .and_then(|()| file.write_all(holder.as_bytes()));
            return Ok(Self { path, file });
        }
    }
}

/// The hidden file `.NAME.END` beside the file or folder `path`; with `lock` its lock, whatever it is.
/// `None` if the path has no name of its own.
pub fn beside(path: &Path, end: &str) -> Option<PathBuf> {
    let absolute = std::path::absolute(path).ok()?;
    let name = absolute.file_name()?.to_string_lossy();
    Some(absolute.with_file_name(format!(".{name}.{end}")))
}

/// Who holds the lock whose file is `path`, as the file says it; `None` if nobody does, or the file
/// system has no locks.
pub fn lock_holder(path: &Path) -> Option<String> {
    // A pipe would have us wait.
    let is_file = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
    let file = is_file.then(|| File::open(path).ok())??;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.take(MOST_BYTES).read_to_string(&mut holder).ok()?;
            Some(holder.trim().escape_debug().to_string())
        }
        _ => None,
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is locked: a file under this name is ours. The last of those that share it
        // removes it.
        if !matches!(self.file.try_lock(), Err(TryLockError::WouldBlock)) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Locks a file that was just made and that nobody but us writes to. Another process that looks
/// whether it is locked has it for a moment; file systems without locks go without.
pub(super) fn lock_new(file: &File) {
    for _ in 0..1000 {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
            _ => return,
        }
    }
}

/// Whether an error says that nothing may be written.
pub fn is_forbidden(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
    )
}

/// The error for a lock whose `file` another process has.
fn held(file: &mut File, what: &Path) -> Error {
    let mut holder = String::new();
    let _ = file.rewind();
    let _ = file.take(MOST_BYTES).read_to_string(&mut holder);
    let holder = match holder.trim() {
        "" => String::new(),
        holder => format!(" ({})", holder.escape_debug()),
    };
    Error::usage(format!(
        "another process is writing `{}`{holder}",
        what.display()
    ))
    .remedy("wait for it, or choose another output folder")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_it_others_are_told_who_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".out.lock");
        let take = |command| Lock::take(path.clone(), Path::new("out"), command);
        let first = take("merge").unwrap();
        let error = take("train").unwrap_err();
        let holder = format!("`out` (fuselm merge, process {})", std::process::id());
        assert!(error.to_string().contains(&holder), "{error}");
        assert_eq!(error.exit_code(), 2);
        drop(first);
        assert!(!path.exists());
        // What a killed process left behind.
        fs::write(&path, "fuselm merge, process 1").unwrap();
        let second = take("train").unwrap();
        assert!(
            take("merge")
                .unwrap_err()
                .to_string()
                .contains("fuselm train")
        );
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn those_that_share_it_keep_others_out_until_the_last_has_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".out.lock");
        let share = || Lock::share(path.clone(), Path::new("out"), "score");
        let alone = || Lock::take(path.clone(), Path::new("out"), "score");
        let (first, second) = (share().unwrap(), share().unwrap());
        assert!(alone().is_err());
        drop(first);
        assert!(alone().is_err());
        drop(second);
        assert!(!path.exists());
        let held = alone().unwrap();
        assert!(share().is_err());
        drop(held);
        assert!(!path.exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("lock"), dir.path().join("victim"));
        fs::write(&victim, "text").unwrap();
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert!(Lock::take(path, Path::new("out"), "merge").is_err());
        assert_eq!(fs::read_to_string(victim).unwrap(), "text");
    }

    #[test]
    fn of_many_at_once_only_one_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let Ok(lock) = Lock::take(path.clone(), Path::new("x"), "test") else {
                            continue;
                        };
                        assert_eq!(held.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        held.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
    }
}
