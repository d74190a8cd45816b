//! A step of a run: what it reads, what it writes, and whether it has to be done.
//!
//! A step is up to date when the digest of everything that determines its result (its options
//! and the identities of what it reads) is the one recorded when it last ran, and what it wrote
//! then is still there. Records are JSON files in `RUN/stages/`; while a step is done again, its
//! record says so.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::share;
use crate::artifact::{self, Artifact, Kind, RunDir, StageRecord as Record};
use crate::checkpoint::{
    FolderRecord, adapter_digest, companions_digest, gguf_files, is_gguf, model_digest,
    tokenizer_digest,
};
use crate::error::{Context, Error, Result};
use crate::files::{atomic, digest};
use crate::progress::note;

/// Something that a step reads or writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An artifact of the run.
    Artifact(Kind, PathBuf),
    /// A model folder (configuration and weights) or a GGUF file.
    Model(PathBuf),
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
    /// Where it lies.
    pub fn path(&self) -> &Path {
        match self {
            Item::Artifact(_, path)
            | Item::Model(path)
            | Item::Tokenizer(path)
            | Item::Companions(path)
            | Item::Adapter(path)
            | Item::File(path) => path,
        }
    }

    /// Digest of what it is, or `None` if it is not there (or not whole).
    pub fn identity(&self) -> Result<Option<String>> {
        match self {
            Item::Artifact(kind, dir) => {
                // Damage is made good, what others put there is not removed.
                artifact::check_files(dir)?;
                let artifact = Artifact::open(dir, *kind).ok();
                Ok(artifact.map(|artifact| artifact.identity().to_owned()))
            }
            Item::Model(dir) if !dir.join("config.json").exists() && !is_gguf(dir) => Ok(None),
            Item::Model(dir) => model_digest(dir).map(Some),
            Item::Tokenizer(dir) => tokenizer_digest(dir).map(Some),
            Item::Companions(dir) => companions_digest(dir).map(Some),
            Item::Adapter(dir) if !dir.is_dir() => Ok(None),
            Item::Adapter(dir) => adapter_digest(dir).map(Some),
            Item::File(path) if !path.exists() => Ok(None),
            Item::File(path) => digest::file(path).map(Some),
        }
    }

    /// Where it lies, however that was written.
    pub fn place(&self) -> Result<PathBuf> {
        std::path::absolute(self.path()).at(self.path())
    }

    /// Whether it is a checkpoint of ours that lacks a file that was written.
    pub fn lacks_files(&self) -> bool {
        match self {
            Item::Model(dir) => match FolderRecord::read(dir) {
                Ok(Some(record)) => record.lacks_files(dir),
                _ => false,
            },
            _ => false,
        }
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        match self {
            Item::File(path) => file_bytes(path),
            Item::Model(path) if is_gguf(path) => {
                gguf_files(path).iter().map(|p| file_bytes(p)).sum()
            }
            Item::Tokenizer(_) | Item::Companions(_) | Item::Adapter(_) => 0,
            Item::Artifact(_, dir) | Item::Model(dir) => fs::read_dir(dir).map_or(0, |entries| {
                let sizes = entries.flatten().filter_map(|entry| entry.metadata().ok());
                sizes.filter(fs::Metadata::is_file).map(|m| m.len()).sum()
            }),
        }
    }
}

fn file_bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

/// What a step does, and returns as a line for the user.
pub type Action = Box<dyn Fn() -> Result<String>>;

/// One step of a run.
pub struct Step {
    /// The stage, as its command is called.
    pub stage: &'static str,
    /// What it works on: a model, a target; with `stage` unique in the run.
    pub subject: String,
    /// What it reads.
    pub inputs: Vec<Item>,
    /// What it writes.
    pub outputs: Vec<Item>,
    /// Whatever else determines the result.
    pub options: serde_json::Value,
    /// Does it.
    pub action: Action,
}

/// Where a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Nothing to do.
    UpToDate,
    /// Everything it reads is there.
    Ready,
    /// It reads what an earlier step will write.
    Waiting,
}

impl Step {
    /// Stage and subject: `score math`.
    pub fn name(&self) -> String {
        format!("{} {}", self.stage, self.subject)
            .trim_end()
            .to_owned()
    }

    fn record_path(&self, stages: &Path) -> PathBuf {
        stages.join(format!("{}.json", self.name().replace(' ', "-")))
    }

    /// Digest of everything that determines the result; `None` while an input is missing.
    pub fn fingerprint(&self) -> Result<Option<String>> {
        let mut inputs = Vec::new();
        for item in &self.inputs {
            match item.identity() {
                Ok(Some(identity)) => inputs.push(identity),
                Ok(None) => return Ok(None),
                // A checkpoint without its weights, which is made again.
                Err(_) if item.lacks_files() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let all = serde_json::json!([self.name(), inputs, self.options]);
        Ok(Some(digest::text(&all.to_string())))
    }

    /// Where the step stands.
    pub fn status(&self, stages: &Path) -> Result<Status> {
        let Some(fingerprint) = self.fingerprint()? else {
            return Ok(Status::Waiting);
        };
        let Some(record) = self
            .recorded(stages)
            .filter(|record| record.fingerprint == fingerprint)
        else {
            return Ok(Status::Ready);
        };
        match self.is_as_recorded(&record)? {
            true => Ok(Status::UpToDate),
            false => Ok(Status::Ready),
        }
    }

    /// Whether all outputs are those that were recorded.
    fn is_as_recorded(&self, record: &Record) -> Result<bool> {
        for (index, item) in self.outputs.iter().enumerate() {
            let found = match (item, item.identity()) {
                _ if item.lacks_files() => None,
                // A folder of ours without weights is one to be written again.
                (Item::Model(_), Err(Error::Input { .. } | Error::Damaged { .. })) => None,
                (_, found) => found?,
            };
            if found.as_ref() != record.outputs.get(index) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn recorded(&self, stages: &Path) -> Option<Record> {
        let text = fs::read_to_string(self.record_path(stages)).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Says in the record, if there is one, whether the step is being done again. Until it is done
    /// nobody is to rely on what it wrote before.
    pub fn mark(&self, stages: &Path, begun: bool) -> Result<()> {
        match self.recorded(stages) {
            Some(record) if record.begun != begun => {
                write_record(&self.record_path(stages), &Record { begun, ..record })
            }
            _ => Ok(()),
        }
    }

    /// Does the step and records it.
    pub fn perform(&self, stages: &Path) -> Result<Record> {
        let started = std::time::Instant::now();
        let path = self.record_path(stages);
        let before = (self.recorded(stages), fs::read(&path));
        self.mark(stages, true)?;
        let done = share::unshare(&self.outputs).and_then(|()| (self.action)());
        if let (Err(_), (Some(record), Ok(text))) = (&done, before)
            && self.is_as_recorded(&record).unwrap_or(false)
        {
            // It failed before it wrote anything. That failure is the one to report.
            let _ = atomic::write(&path, &text);
        }
        self.record(stages, done?, started.elapsed().as_secs_f64())
    }

    /// Takes what the same step has written in another run, if it is up to date there.
    pub fn take_over(
        &self,
        other: &Step,
        their_stages: &Path,
        stages: &Path,
        whose: &str,
    ) -> Result<Option<Record>> {
        let usable = other.status(their_stages)? == Status::UpToDate
            && other.fingerprint()? == self.fingerprint()?;
        if !usable {
            return Ok(None);
        }
        let started = std::time::Instant::now();
        self.mark(stages, true)?;
        for (from, to) in other.outputs.iter().zip(&self.outputs) {
            share::item(from, to)?;
        }
        let seconds = started.elapsed().as_secs_f64();
        self.record(stages, format!("shared with {whose}"), seconds)
            .map(Some)
    }

    fn record(&self, stages: &Path, summary: String, seconds: f64) -> Result<Record> {
        let mut outputs = Vec::new();
        for item in &self.outputs {
            let identity = item.identity()?.ok_or_else(|| {
                Error::file(item.path(), format!("`{}` did not write this", self.name()))
            })?;
            outputs.push(identity);
        }
        let fingerprint = self.fingerprint()?.ok_or_else(|| {
            Error::usage(format!(
                "an input of `{}` vanished while it ran",
                self.name()
            ))
        })?;
        let root = stages.parent().unwrap_or(stages);
        let relative = |item: &Item| item.path().strip_prefix(root).ok().map(Path::to_path_buf);
        let record = Record {
            step: self.name(),
            fingerprint,
            outputs,
            seconds,
            bytes: self.outputs.iter().map(Item::bytes).sum(),
            summary,
            paths: self.outputs.iter().filter_map(relative).collect(),
            begun: false,
        };
        write_record(&self.record_path(stages), &record)?;
        Ok(record)
    }
}

fn write_record(path: &Path, record: &Record) -> Result<()> {
    let text = serde_json::to_string_pretty(record).at(path)?;
    atomic::write(path, (text + "\n").as_bytes())
}

/// What determines the result of each step, known before any of them has run: its options, the
/// steps that make its inputs, and the digests of what lies outside the run. Equal keys mean
/// equal results.
pub fn keys(steps: &[Step]) -> Result<Vec<String>> {
    let mut made: HashMap<PathBuf, String> = HashMap::new();
    let mut keys = Vec::with_capacity(steps.len());
    for step in steps {
        let mut inputs = Vec::with_capacity(step.inputs.len());
        for item in &step.inputs {
            inputs.push(match made.get(&item.place()?) {
                Some(key) => Some(key.clone()),
                None => item.identity()?,
            });
        }
        let all = serde_json::json!([step.name(), inputs, step.options]);
        let key = digest::text(&all.to_string());
        for (at, item) in step.outputs.iter().enumerate() {
            made.insert(item.place()?, format!("{key} {at}"));
        }
        keys.push(key);
    }
    Ok(keys)
}

/// Removes what earlier steps of the run made that no step makes any more (the tokens of a
/// source that now shares the pivot's vocabulary, the alignment of one that is gone), where it is
/// quickly made again. Distributions and checkpoints stay.
pub fn remove_orphans(steps: &[Step], run: &RunDir) -> Result<()> {
    const QUICK: [Kind; 7] = [
        Kind::Transcripts,
        Kind::Vocab,
        Kind::Tokens,
        Kind::Alignment,
        Kind::TokenMap,
        Kind::Projected,
        Kind::Targets,
    ];
    let stages = run.stages();
    let Ok(entries) = fs::read_dir(&stages) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let Ok(record) = serde_json::from_str::<Record>(&text) else {
            continue;
        };
        if steps.iter().any(|step| step.name() == record.step) {
            continue;
        }
        for path in &record.paths {
            let dir = run.root().join(path);
            let is_quick = QUICK.iter().any(|kind| path.starts_with(kind.name()));
            let mut outputs = steps.iter().flat_map(|step| &step.outputs);
            if is_quick && dir.is_dir() && !outputs.any(|item| item.path() == dir) {
                note(format!(
                    "removing {}: no step of the recipe makes it",
                    dir.display()
                ));
                fs::remove_dir_all(&dir).at(&dir)?;
            }
        }
        fs::remove_file(entry.path()).at(&entry.path())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(action: Action, output: Item) -> Step {
        Step {
            stage: "train",
            subject: "x".to_owned(),
            inputs: Vec::new(),
            outputs: vec![output],
            options: serde_json::Value::Null,
            action,
        }
    }

    #[test]
    fn a_step_that_is_done_again_says_so_until_it_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::new(dir.path());
        let stages = run.stages();
        let output = dir.path().join("out");
        let begun = |run: &RunDir| run.recorded().unwrap().first().map(|record| record.begun);
        let write = |text: &'static str, expected: Option<bool>, works: bool| -> Action {
            let (run, output) = (run.clone(), output.clone());
            Box::new(move || {
                assert_eq!(begun(&run), expected);
                fs::write(&output, text).at(&output)?;
                match works {
                    true => Ok(String::new()),
                    false => Err(Error::Interrupted),
                }
            })
        };
        let step = |action| step(action, Item::File(output.clone()));
        let first = step(write("1", None, true));
        first.perform(&stages).unwrap();
        assert_eq!(begun(&run), Some(false));
        step(write("1", Some(true), false))
            .perform(&stages)
            .unwrap_err();
        assert_eq!(begun(&run), Some(false));
        step(write("2", Some(true), false))
            .perform(&stages)
            .unwrap_err();
        assert_eq!(begun(&run), Some(true));
        assert_eq!(first.status(&stages).unwrap(), Status::Ready);
        // As it was before: nothing to do.
        fs::write(&output, "1").unwrap();
        assert_eq!(first.status(&stages).unwrap(), Status::UpToDate);
        first.mark(&stages, false).unwrap();
        assert_eq!(begun(&run), Some(false));
        step(write("3", Some(true), true)).perform(&stages).unwrap();
        assert_eq!(begun(&run), Some(false));
    }

    #[test]
    fn a_checkpoint_that_lacks_any_of_its_files_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let stages = dir.path().join("stages");
        let out = dir.path().join("out");
        let folder = out.clone();
        let action = Box::new(move || {
            fs::create_dir_all(&folder).at(&folder)?;
            for name in ["config.json", "model.safetensors", "tokenizer.json"] {
                fs::write(folder.join(name), name).at(&folder)?;
            }
            FolderRecord::default().write(&folder, &[])?;
            Ok(String::new())
        });
        let step = step(action, Item::Model(out.clone()));
        for name in ["config.json", "model.safetensors", "tokenizer.json"] {
            step.perform(&stages).unwrap();
            assert_eq!(step.status(&stages).unwrap(), Status::UpToDate);
            fs::remove_file(out.join(name)).unwrap();
            assert_eq!(step.status(&stages).unwrap(), Status::Ready, "{name}");
        }
    }

    #[test]
    fn places_do_not_depend_on_how_paths_are_written() {
        let here = std::env::current_dir().unwrap();
        let place = |path: PathBuf| Item::File(path).place().unwrap();
        assert_eq!(place("run/x".into()), place(here.join("run/./x")));
    }
}
