//! Writing alone: two commands that write one artifact would remove each other's files.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::Stage;
use crate::error::{Context, Error, Result};
use crate::files::Lock;

/// The artifacts that a stage writes, as long as it does; nothing else of ours writes them meanwhile.
///
/// Each is locked by the file `.NAME.lock` beside its folder, as checkpoints are. Where that cannot be
/// made because nothing may be written there, nobody else writes there either.
#[derive(Debug)]
pub struct Exclusive {
    locks: Vec<Lock>,
    /// Folders that were made for the locks, the outermost first.
    made: Vec<PathBuf>,
}

impl Exclusive {
    /// Takes what `stage` writes.
    ///
    /// # Errors
    /// Another process writes one of them, which the message names.
    pub fn of(stage: &dyn Stage) -> Result<Self> {
        let mut held = Self {
            locks: Vec::new(),
            made: Vec::new(),
        };
        for item in stage.writes() {
            if item.kind().is_some() {
                held.add(item.path(), stage.name())?;
            }
        }
        Ok(held)
    }

    /// Removes the locks that a killed process left beside what `stage` has written.
    pub fn sweep(stage: &dyn Stage) {
        for item in stage.writes().iter().filter(|item| item.kind().is_some()) {
            if lock_of(item.path()).is_ok_and(|(_, lock)| lock.exists()) {
                // Another process that holds it will remove it itself.
                drop(Self::of(stage));
                return;
            }
        }
    }

    fn add(&mut self, dir: &Path, command: &str) -> Result<()> {
        let (parent, path) = lock_of(dir)?;
        let parent = parent.as_path();
        loop {
            let missing = parent.ancestors().take_while(|folder| !folder.exists());
            let missing: Vec<PathBuf> = missing.map(Path::to_path_buf).collect();
            let made = fs::create_dir_all(parent).at(parent);
            self.made.extend(missing.into_iter().rev());
            match made.and_then(|()| Lock::take(path.clone(), dir, command)) {
                // Another process has just given its own back, and the folder with it.
                Err(Error::Io { source, .. })
                    if source.kind() == ErrorKind::NotFound && !parent.exists() => {}
                Err(Error::Io { source, .. }) if is_forbidden(&source) => return Ok(()),
                lock => {
                    self.locks.push(lock?);
                    return Ok(());
                }
            }
        }
    }
}

/// The folder of an artifact's lock, and its file.
fn lock_of(dir: &Path) -> Result<(PathBuf, PathBuf)> {
    let absolute = std::path::absolute(dir).at(dir)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => {
            let lock = parent.join(format!(".{}.lock", name.to_string_lossy()));
            Ok((parent.to_path_buf(), lock))
        }
        _ => Err(Error::usage(format!(
            "the output `{}` has no name of its own",
            dir.display()
        ))),
    }
}

fn is_forbidden(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
    )
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        self.locks.clear();
        // What failed before it wrote anything leaves nothing behind; full folders stay.
        for folder in self.made.iter().rev() {
            let _ = fs::remove_dir(folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::{Existing, Kind};
    use crate::stage::{Item, Reads};

    struct Writes(Vec<PathBuf>);

    impl Stage for Writes {
        fn name(&self) -> &'static str {
            "score"
        }

        fn reads(&self) -> Result<Reads> {
            Ok(Reads::new())
        }

        fn writes(&self) -> Vec<Item> {
            let item = |dir: &PathBuf| Item::artifact(Kind::Topk, dir);
            self.0.iter().map(item).collect()
        }

        fn changing(&self, _: Kind) -> serde_json::Value {
            serde_json::Value::Null
        }

        fn run(&self, _: Existing) -> Result<String> {
            Ok(String::new())
        }
    }

    #[test]
    fn one_writes_an_artifact_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| dir.path().join("run/topk").join(name));
        let first = Exclusive::of(&Writes(vec![a.clone(), b.clone()])).unwrap();
        let error = Exclusive::of(&Writes(vec![b.clone()])).unwrap_err();
        assert!(
            error.to_string().contains("fuselm score, process"),
            "{error}"
        );
        assert_eq!(error.exit_code(), 2);
        drop(first);
        assert!(!dir.path().join("run").exists());

        fs::create_dir_all(&a).unwrap();
        fs::write(dir.path().join("run/topk/.a.lock"), "of a killed process").unwrap();
        Exclusive::sweep(&Writes(vec![a.clone()]));
        let left = fs::read_dir(dir.path().join("run/topk")).unwrap();
        assert_eq!(
            left.map(|entry| entry.unwrap().path()).collect::<Vec<_>>(),
            [a]
        );
    }
}
