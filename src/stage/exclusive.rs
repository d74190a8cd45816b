//! Writing alone: two commands that write one artifact would remove each other's files.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::Stage;
use crate::artifact::{Shard, parts};
use crate::error::{Context, Error, Result};
use crate::files::{Lock, beside, is_forbidden};

/// The artifacts that a stage writes, as long as it does; nothing else of ours writes them meanwhile.
/// Shards of one stage write side by side: they share the locks, and keep out who wants all parts.
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
    /// Takes what `stage` writes, or the parts of a shard of it.
    ///
    /// # Errors
    /// Another process writes one of them, which the message names; a shard of a stage that has none.
    pub fn of(stage: &dyn Stage, shard: Shard) -> Result<Self> {
        if !shard.is_all() && !stage.is_by_part() {
            let name = stage.name();
            return Err(Error::usage(format!("`{name}` cannot be done in shards"))
                .remedy("leave `--shard` out: it is done whole"));
        }
        let mut held = Self {
            locks: Vec::new(),
            made: Vec::new(),
        };
        for item in stage.writes() {
            if item.kind().is_some() {
                held.add(item.path(), stage.name(), shard)?;
            }
        }
        Ok(held)
    }

    /// Removes the locks and leases that killed processes left at what `stage` has written.
    pub fn sweep(stage: &dyn Stage) {
        if stage.is_by_part() {
            let writes = stage.writes();
            writes.iter().for_each(|item| parts::sweep(item.path()));
        }
        for item in stage.writes().iter().filter(|item| item.kind().is_some()) {
            if lock_of(item.path()).is_ok_and(|lock| lock.exists()) {
                // Another process that holds it will remove it itself.
                drop(Self::of(stage, Shard::ALL));
                return;
            }
        }
    }

    fn add(&mut self, dir: &Path, command: &str, shard: Shard) -> Result<()> {
        let path = lock_of(dir)?;
        let parent = path.parent().unwrap_or(Path::new("."));
        loop {
            let missing = parent.ancestors().take_while(|folder| !folder.exists());
            let missing: Vec<PathBuf> = missing.map(Path::to_path_buf).collect();
            let made = fs::create_dir_all(parent).at(parent);
            self.made.extend(missing.into_iter().rev());
            let lock = |()| match shard.is_all() {
                true => Lock::take(path.clone(), dir, command),
                false => Lock::share(path.clone(), dir, command),
            };
            match made.and_then(lock) {
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

/// The file of an artifact's lock.
fn lock_of(dir: &Path) -> Result<PathBuf> {
    beside(dir, "lock").ok_or_else(|| {
        Error::usage(format!(
            "the output `{}` has no name of its own",
            dir.display()
        ))
    })
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
    use crate::artifact::{Kind, Writing};
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

        fn is_by_part(&self) -> bool {
            true
        }

        fn run(&self, _: Writing) -> Result<String> {
            Ok(String::new())
        }
    }

    #[test]
    fn one_writes_an_artifact_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| dir.path().join("run/topk").join(name));
        let all = Shard::ALL;
        let first = Exclusive::of(&Writes(vec![a.clone(), b.clone()]), all).unwrap();
        let error = Exclusive::of(&Writes(vec![b.clone()]), all).unwrap_err();
        assert!(
            error.to_string().contains("fuselm score, process"),
            "{error}"
        );
        assert_eq!(error.exit_code(), 2);
        drop(first);
        assert!(!dir.path().join("run").exists());

        // Shards go side by side, and keep out who wants all parts.
        let shard = Shard::new(1, 2).unwrap();
        let shards = [0, 1].map(|_| Exclusive::of(&Writes(vec![a.clone()]), shard).unwrap());
        assert!(Exclusive::of(&Writes(vec![a.clone()]), all).is_err());
        drop(shards);
        assert!(!dir.path().join("run/topk/.a.lock").exists());

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
