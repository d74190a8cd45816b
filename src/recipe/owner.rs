//! Whose run a folder is: a file in `stages` names the recipe.
//!
//! A recipe that was renamed, or moved together with its run, goes on where it stopped: the run
//! remembers the recipe by its place and by the way to it from the run folder, and another recipe is
//! refused only while the one that the run belongs to is still there.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::artifact::{OWNER, RunDir};
use crate::error::{Context, Error, Result};
use crate::files::atomic;
use crate::progress::note;

/// The recipe of a run.
pub(super) struct Owner<'a> {
    recipe: PathBuf,
    run: &'a RunDir,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Written {
    /// The recipe, as an absolute path.
    recipe: PathBuf,
    /// The recipe as seen from the run folder; runs from before that was kept do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from_run: Option<PathBuf>,
}

impl<'a> Owner<'a> {
    /// `recipe` in the folder `run`.
    pub fn of(recipe: &Path, run: &'a RunDir) -> Self {
        Self {
            recipe: canonical(recipe),
            run,
        }
    }

    /// Writes it down.
    pub fn write(&self) -> Result<()> {
        let path = self.run.stages().join(OWNER);
        let written = Written {
            recipe: self.recipe.clone(),
            from_run: Some(way(&canonical(self.run.root()), &self.recipe)),
        };
        let text = serde_json::to_string(&written).at(&path)?;
        atomic::write(&path, format!("{text}\n").as_bytes())
    }

    /// Fails if the folder is the run of another recipe, or something else.
    pub fn check(&self) -> Result<()> {
        let root = self.run.root();
        let path = self.run.stages().join(OWNER);
        let remedy = "choose another folder with `--run-dir`";
        let Ok(text) = fs::read_to_string(&path) else {
            return match holds_nothing(self.run)? {
                true => Ok(()),
                false => Err(
                    Error::usage(format!("`{}` is not empty and no run", root.display()))
                        .remedy(remedy),
                ),
            };
        };
        let written: Written = serde_json::from_str(&text).at(&path)?;
        let moved = written.from_run.map(|way| canonical(&root.join(way)));
        if written.recipe == self.recipe || moved.as_ref() == Some(&self.recipe) {
            return Ok(());
        }
        let still_there = |path: &PathBuf| path.is_file();
        match [Some(written.recipe), moved]
            .into_iter()
            .flatten()
            .find(still_there)
        {
            Some(other) => Err(Error::usage(format!(
                "`{}` is the run of another recipe, `{}`",
                root.display(),
                other.display()
            ))
            .remedy(remedy)),
            None => {
                note(format!(
                    "{} goes on: the recipe that it was begun with is not there any more",
                    root.display()
                ));
                Ok(())
            }
        }
    }
}

/// Whether there is nothing in the folder of a run, but for the lock of one that was just begun.
fn holds_nothing(run: &RunDir) -> Result<bool> {
    let only = |dir: &Path, name: &str| -> Result<bool> {
        match fs::read_dir(dir) {
            Ok(entries) => Ok(entries.flatten().all(|entry| entry.file_name() == name)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(Error::io(dir, error)),
        }
    };
    Ok(only(run.root(), "stages")? && only(&run.stages(), "lock")?)
}

/// The place of a file or folder, if it is there.
pub(super) fn canonical(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
}

/// The relative path from the folder `from` to `to`, both absolute.
fn way(from: &Path, to: &Path) -> PathBuf {
    let common = from.components().zip(to.components());
    let common = common.take_while(|(a, b)| a == b).count();
    let up = from.components().skip(common).map(|_| Path::new(".."));
    let down = to.components().skip(common);
    up.chain(down.map(|part| Path::new(part.as_os_str())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_lead_from_the_run_to_the_recipe() {
        let find = |from: &str, to: &str| way(Path::new(from), Path::new(to));
        assert_eq!(find("/p/runs/x", "/p/r.yml"), Path::new("../../r.yml"));
        assert_eq!(find("/p", "/p/r.yml"), Path::new("r.yml"));
        assert_eq!(find("/a/b", "/c/r.yml"), Path::new("../../c/r.yml"));
    }

    #[test]
    fn renamed_and_moved_recipes_go_on_and_others_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let project = dir.path().join("project");
        fs::create_dir_all(&project).unwrap();
        let (first, second) = (project.join("a.yml"), project.join("b.yml"));
        fs::write(&first, "").unwrap();
        let run = RunDir::new(project.join("runs/x"));
        Owner::of(&first, &run).check().unwrap();
        fs::create_dir_all(run.stages()).unwrap();
        Owner::of(&first, &run).write().unwrap();
        fs::write(&second, "").unwrap();
        let error = Owner::of(&second, &run).check().unwrap_err();
        assert!(error.to_string().contains("another recipe"), "{error}");
        fs::remove_file(&first).unwrap();
        Owner::of(&second, &run).check().unwrap();
        Owner::of(&second, &run).write().unwrap();

        let moved = dir.path().join("elsewhere");
        fs::rename(&project, &moved).unwrap();
        let run = RunDir::new(moved.join("runs/x"));
        Owner::of(&moved.join("b.yml"), &run).check().unwrap();
        // A copy of project and run, while the first is still there.
        fs::create_dir_all(&project).unwrap();
        fs::write(&second, "").unwrap();
        Owner::of(&moved.join("b.yml"), &run).check().unwrap();
        fs::write(moved.join("c.yml"), "").unwrap();
        Owner::of(&moved.join("c.yml"), &run).check().unwrap_err();

        fs::write(moved.join("runs/note"), "").unwrap();
        let other = RunDir::new(moved.join("runs"));
        Owner::of(&second, &other).check().unwrap_err();
    }
}
