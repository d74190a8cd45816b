//! The files of a run: whether all are there that its stages have written, and are what was
//! written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::check::{Finding, Level};
use crate::artifact::{Artifact, Kind, Part, RunDir, StageRecord};
use crate::checkpoint::FolderRecord;
use crate::error::{Context, Error, Result};
use crate::files::{Claim, verify};
use crate::progress::check_interrupt;

/// What a run folder holds, and what is wrong with it as far as that shows without reading rows or
/// weights. Variants are part of it.
pub struct RunFiles {
    root: PathBuf,
    /// Artifacts of the run itself that are whole.
    artifacts: Vec<(Kind, Artifact)>,
    problems: Vec<Problem>,
    claims: Vec<Claim>,
    /// Parts and checkpoints without a record of what was written.
    unrecorded: Vec<PathBuf>,
}

/// A folder or file that is not what it should be.
struct Problem {
    /// The kind of artifact of the run itself that it is about.
    kind: Option<Kind>,
    /// Whether it was complete, or should be, as far as is recorded.
    recorded: bool,
    path: PathBuf,
    error: Error,
}

impl RunFiles {
    /// Looks at all folders of a run. Reads footers and lengths only.
    ///
    /// # Errors
    /// Folders that cannot be listed; the user's wish to stop.
    pub fn of(run: &RunDir) -> Result<Self> {
        let mut files = Self {
            root: run.root().to_path_buf(),
            artifacts: Vec::new(),
            problems: Vec::new(),
            claims: Vec::new(),
            unrecorded: Vec::new(),
        };
        files.look_at(run, true)?;
        for dir in folders(&run.root().join("variants"))? {
            match RunDir::open(&dir) {
                Ok(variant) => files.look_at(&variant, false)?,
                Err(error) => {
                    let error = error.remedy("run the recipe again, or remove the folder");
                    files.add_problem(None, true, dir, error);
                }
            }
        }
        Ok(files)
    }

    fn look_at(&mut self, run: &RunDir, own: bool) -> Result<()> {
        let recorded = match run.recorded() {
            Ok(recorded) => recorded,
            Err(error) => {
                self.add_problem(None, true, run.stages(), error);
                Vec::new()
            }
        };
        // What a stage wrote was whole, unless the stage was begun again since.
        let mut again = BTreeMap::new();
        for StageRecord {
            step, paths, begun, ..
        } in recorded
        {
            for path in paths.into_iter().map(|path| run.root().join(path)) {
                if !path.is_dir() {
                    let error = Error::file(&path, format!("is missing, `{step}` wrote it"));
                    let kind = kind_of(run, &path).filter(|_| own);
                    let error = error.remedy("run the recipe again, it writes what is missing");
                    self.add_problem(kind, !begun, path.clone(), error);
                }
                again.insert(path, begun);
            }
        }
        let mut found: Vec<(Kind, PathBuf)> = Vec::new();
        for kind in Kind::ALL {
            if let Err(error) = run.check_folders(kind) {
                let path = run.root().join(kind.name());
                self.add_problem(own.then_some(kind), true, path, error);
            }
            for values in run.list(kind)? {
                let values: Vec<&str> = values.iter().map(String::as_str).collect();
                found.push((kind, run.artifact(kind, &values)));
            }
        }
        let opened: Vec<_> = found
            .into_par_iter()
            .map(|(kind, dir)| {
                check_interrupt()?;
                let artifact = Artifact::open(&dir, kind);
                Ok((kind, dir, artifact))
            })
            .collect::<Result<_>>()?;
        for (kind, dir, artifact) in opened {
            match artifact {
                Ok(artifact) => self.add_artifact(kind, artifact, own)?,
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => {
                    // What is there of it will be used when the stage goes on.
                    for part in Part::readable(&dir, kind).unwrap_or_default() {
                        self.claims.extend(part.claim()?);
                    }
                    let was_complete = again.get(&dir) == Some(&false);
                    self.add_problem(own.then_some(kind), was_complete, dir, error);
                }
            }
        }
        for dir in folders(&run.root().join("checkpoints"))? {
            let is_state = dir.extension().is_some_and(|end| end == "state");
            if !is_state {
                let was_complete = again.get(&dir) != Some(&true);
                self.look_at_checkpoint(&dir, was_complete)?;
            }
        }
        Ok(())
    }

    fn add_artifact(&mut self, kind: Kind, artifact: Artifact, own: bool) -> Result<()> {
        for part in artifact.parts() {
            match part.claim()? {
                Some(claim) => self.claims.push(claim),
                None => self.unrecorded.push(part.path().to_path_buf()),
            }
        }
        if own {
            self.artifacts.push((kind, artifact));
        }
        Ok(())
    }

    fn look_at_checkpoint(&mut self, dir: &Path, was_complete: bool) -> Result<()> {
        match FolderRecord::read(dir) {
            Ok(Some(record)) => {
                let problems = record.problems(dir)?;
                if problems.is_empty() {
                    self.claims.extend(record.claims(dir));
                }
                for error in problems {
                    self.add_problem(None, was_complete, dir.to_path_buf(), error);
                }
            }
            Ok(None) => {
                let mut names = fs::read_dir(dir).at(dir)?.flatten();
                let is_weights = |name: &str| name.ends_with(".safetensors");
                match names.any(|entry| is_weights(&entry.file_name().to_string_lossy())) {
                    true => self.unrecorded.push(dir.to_path_buf()),
                    false => {
                        let error = Error::file(dir, "has no `*.safetensors` file")
                            .remedy("run the recipe again, or remove the folder");
                        self.add_problem(None, was_complete, dir.to_path_buf(), error);
                    }
                }
            }
            Err(error) => self.add_problem(None, was_complete, dir.to_path_buf(), error),
        }
        Ok(())
    }

    fn add_problem(&mut self, kind: Option<Kind>, recorded: bool, path: PathBuf, error: Error) {
        self.problems.push(Problem {
            kind,
            recorded,
            path,
            error,
        });
    }

    /// Kinds of artifacts that a statement must not read, and why: a stage is, or was, still
    /// writing them.
    ///
    /// # Errors
    /// Something that was complete is not any more.
    pub fn unusable(self) -> Result<BTreeMap<Kind, Error>> {
        let mut unusable = BTreeMap::new();
        for problem in self.problems {
            match problem.kind {
                _ if problem.recorded => return Err(problem.error),
                Some(kind) => drop(unusable.entry(kind).or_insert(problem.error)),
                None => {}
            }
        }
        Ok(unusable)
    }

    /// Reads all files, and returns what is wrong with them.
    ///
    /// # Errors
    /// The user's wish to stop.
    ///
    /// # Memory
    /// That of [`verify`].
    pub fn verify(&self) -> Result<Vec<Finding>> {
        let mut findings: Vec<Finding> = self
            .problems
            .iter()
            .map(|problem| self.finding(&problem.path, &problem.error))
            .collect();
        for (path, error) in verify(&self.claims)? {
            findings.push(self.finding(&path, &error));
        }
        if let Some(first) = self.unrecorded.first() {
            let count = self.unrecorded.len();
            findings.push(Finding {
                check: "files".to_owned(),
                level: Level::Warning,
                artifact: self.inside(first),
                sample_id: None,
                detail: format!(
                    "{count} parts or checkpoints are from before digests were kept, this is the \
                     first: whether they are damaged cannot be told"
                ),
                value: Some(count as f64),
            });
        }
        Ok(findings)
    }

    /// Reads all files, and fails if one is not what was written. What is missing will be written
    /// again; of checkpoints only those that a step makes (`is_made`).
    ///
    /// # Errors
    /// It names all of them. The user's wish to stop.
    pub fn check_written(&self, is_made: impl Fn(&Path) -> bool) -> Result<()> {
        let is_checkpoint = |path: &Path| {
            let folder = path.parent().and_then(Path::file_name);
            folder.is_some_and(|name| name == "checkpoints") && path.is_dir()
        };
        let is_wrong = |problem: &&Problem| match problem.error {
            Error::Damaged { .. } => true,
            _ => is_checkpoint(&problem.path) && !is_made(&problem.path),
        };
        let wrong = self.problems.iter().filter(is_wrong);
        let mut wrong: Vec<String> = wrong.map(|problem| problem.error.to_string()).collect();
        let found = verify(&self.claims)?;
        wrong.extend(found.iter().map(|(_, error)| error.to_string()));
        if wrong.is_empty() {
            return Ok(());
        }
        let count = wrong.len();
        let list = wrong.join("\n  ");
        let problem = format!(
            "{count} files are not what was written:\n  {list}\nThe same command then writes again \
             what was removed"
        );
        Err(Error::damaged(&self.root, problem))
    }

    /// Bytes that [`RunFiles::verify`] reads.
    pub fn bytes(&self) -> u64 {
        self.claims.iter().map(|claim| claim.expected.bytes).sum()
    }

    /// Whether there is anything to check.
    pub fn is_empty(&self) -> bool {
        self.artifacts.is_empty()
            && self.problems.is_empty()
            && self.claims.is_empty()
            && self.unrecorded.is_empty()
    }

    /// Rows that are not in order, come twice or belong to another part, and samples that are
    /// missing.
    ///
    /// # Errors
    /// The user's wish to stop.
    pub fn order(&self) -> Result<Vec<Finding>> {
        let each_sample = [Kind::Samples, Kind::Transcripts, Kind::Tokens];
        let mut findings = Vec::new();
        for (kind, artifact) in self.artifacts.iter().filter(|(kind, _)| kind.per_sample()) {
            check_interrupt()?;
            let check = |part: &Part| match part.check_order() {
                Ok(()) if each_sample.contains(kind) && part.rows() != part.info().samples => {
                    let (rows, samples) = (part.rows(), part.info().samples);
                    let problem = format!("has {rows} rows for {samples} samples");
                    Some((
                        part.path().to_path_buf(),
                        Error::damaged(part.path(), problem),
                    ))
                }
                Ok(()) => None,
                Err(error) => Some((part.path().to_path_buf(), error)),
            };
            let found: Vec<_> = artifact.parts().par_iter().filter_map(check).collect();
            for (path, error) in found {
                let check = "rows_in_order".to_owned();
                findings.push(Finding {
                    check,
                    ..self.finding(&path, &error)
                });
            }
        }
        Ok(findings)
    }

    fn finding(&self, path: &Path, error: &Error) -> Finding {
        let (place, detail) = match error {
            Error::Damaged {
                subject,
                problem,
                remedy,
            }
            | Error::Input {
                subject,
                problem,
                remedy,
            } => {
                let remedy = remedy
                    .as_ref()
                    .map_or(String::new(), |what| format!("; {what}"));
                (PathBuf::from(subject), format!("{problem}{remedy}"))
            }
            other => (path.to_path_buf(), other.to_string()),
        };
        Finding {
            check: "files".to_owned(),
            level: Level::Error,
            artifact: self.inside(&place),
            sample_id: None,
            detail,
            value: None,
        }
    }

    /// A path as it is within the run.
    fn inside(&self, path: &Path) -> String {
        path.strip_prefix(&self.root)
            .unwrap_or(path)
            .display()
            .to_string()
    }
}

/// The kind of artifact that a path in a run is.
fn kind_of(run: &RunDir, path: &Path) -> Option<Kind> {
    let inside = path.strip_prefix(run.root()).ok()?;
    Kind::ALL
        .into_iter()
        .find(|kind| inside.starts_with(kind.name()))
}

/// The folders in `dir` that are not hidden, sorted; none if there is no such folder.
fn folders(dir: &Path) -> Result<BTreeSet<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(Error::io(dir, error)),
    };
    let mut found = BTreeSet::new();
    for entry in entries {
        let entry = entry.at(dir)?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        if !hidden && entry.path().is_dir() {
            found.insert(entry.path());
        }
    }
    Ok(found)
}
