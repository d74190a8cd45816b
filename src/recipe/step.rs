//! A step of a run: a stage, what it works on, and whether it has to be done.
//!
//! A step is up to date when the fingerprint of its stage (its options, and digests of what it
//! reads, wherever that lies) is the one recorded when it last ran, and what it wrote then is still
//! there. Records are JSON files in `RUN/stages/`; while a step is done again, its record says so.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::share;
use crate::artifact::{Existing, Kind, RunDir, Shard, StageRecord as Record, Writing};
use crate::error::{Context, Error, Result};
use crate::files::atomic;
use crate::progress::note;
use crate::stage::{self, Exclusive, Item, Stage};

/// One step of a run.
pub struct Step<'a> {
    /// What it works on: a model, a target; with the stage's name unique in the run.
    pub subject: String,
    /// What is done.
    pub stage: Box<dyn Stage + 'a>,
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

/// What an input is now; nothing where it will be made again.
fn identity(item: &Item) -> Result<Option<String>> {
    match item.identity() {
        // A checkpoint without its weights.
        Err(_) if item.lacks_files() => Ok(None),
        found => found,
    }
}

impl<'a> Step<'a> {
    /// A step of a run.
    pub fn new(subject: impl Into<String>, stage: impl Stage + 'a) -> Self {
        Self {
            subject: subject.into(),
            stage: Box::new(stage),
        }
    }

    /// Stage and subject: `score math`.
    pub fn name(&self) -> String {
        format!("{} {}", self.stage.name(), self.subject)
            .trim_end()
            .to_owned()
    }

    fn record_path(&self, stages: &Path) -> PathBuf {
        stages.join(format!("{}.json", self.name().replace(' ', "-")))
    }

    /// What it reads.
    ///
    /// # Errors
    /// Those of [`Stage::reads`].
    pub fn inputs(&self) -> Result<Vec<Item>> {
        Ok(self.stage.reads()?.items().cloned().collect())
    }

    /// Digest of everything that determines the result; `None` while an input is missing.
    ///
    /// # Errors
    /// An input that is damaged.
    pub fn fingerprint(&self) -> Result<Option<String>> {
        stage::key(&*self.stage, &identity)
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
        for (index, item) in self.stage.writes().iter().enumerate() {
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

    /// The fingerprint with which it last ran.
    pub fn recorded_fingerprint(&self, stages: &Path) -> Option<String> {
        self.recorded(stages).map(|record| record.fingerprint)
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

    /// Does the step, or a shard of it, and records it, once everything is there; until then the
    /// record that is returned says that it has only begun.
    pub fn perform(&self, stages: &Path, shard: Shard) -> Result<Record> {
        let started = std::time::Instant::now();
        let _exclusive = Exclusive::of(&*self.stage, shard)?;
        let path = self.record_path(stages);
        let before = (self.recorded(stages), fs::read(&path));
        self.mark(stages, true)?;
        let writing = Writing {
            existing: Existing::Replace,
            shard,
        };
        let done = share::unshare(&self.stage.writes()).and_then(|()| self.stage.run(writing));
        if let (Err(_), (Some(record), Ok(text))) = (&done, before)
            && self.is_as_recorded(&record).unwrap_or(false)
        {
            // It failed before it wrote anything. That failure is the one to report.
            let _ = atomic::write(&path, &text);
        }
        let (summary, seconds) = (done?, started.elapsed().as_secs_f64());
        if !shard.is_all() && !self.is_whole()? {
            let summary = format!("{summary}; parts of other shards are missing");
            let record = self.new_record(stages, summary, seconds);
            return Ok(Record {
                begun: true,
                ..record
            });
        }
        self.record(stages, summary, seconds)
    }

    /// Whether all that it writes is there.
    fn is_whole(&self) -> Result<bool> {
        for item in self.stage.writes() {
            if item.identity()?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether `name` is that of its stage, or its own.
    pub fn is_called(&self, name: &str) -> bool {
        name == self.stage.name() || name == self.name()
    }

    /// Takes what the same step has written in another run, if it is up to date there.
    pub fn take_over(
        &self,
        other: &Step<'_>,
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
        for (from, to) in other.stage.writes().iter().zip(&self.stage.writes()) {
            share::item(from, to)?;
        }
        let seconds = started.elapsed().as_secs_f64();
        self.record(stages, format!("shared with {whose}"), seconds)
            .map(Some)
    }

    fn record(&self, stages: &Path, summary: String, seconds: f64) -> Result<Record> {
        let writes = self.stage.writes();
        let mut outputs = Vec::new();
        for item in &writes {
            let identity = item.identity()?.ok_or_else(|| {
                let path = item.path().display();
                Error::internal(format!("`{}` did not write {path}", self.name()))
            })?;
            outputs.push(identity);
        }
        let fingerprint = self.fingerprint()?.ok_or_else(|| {
            Error::usage(format!(
                "an input of `{}` vanished while it ran",
                self.name()
            ))
        })?;
        let record = Record {
            fingerprint,
            outputs,
            ..self.new_record(stages, summary, seconds)
        };
        write_record(&self.record_path(stages), &record)?;
        Ok(record)
    }

    /// A record without what identifies the result.
    fn new_record(&self, stages: &Path, summary: String, seconds: f64) -> Record {
        let root = stages.parent().unwrap_or(stages);
        let relative = |item: &Item| item.path().strip_prefix(root).ok().map(Path::to_path_buf);
        let writes = self.stage.writes();
        Record {
            step: self.name(),
            fingerprint: String::new(),
            outputs: Vec::new(),
            seconds,
            bytes: writes.iter().map(Item::bytes).sum(),
            summary,
            paths: writes.iter().filter_map(relative).collect(),
            begun: false,
        }
    }
}

fn write_record(path: &Path, record: &Record) -> Result<()> {
    let text = serde_json::to_string_pretty(record).at(path)?;
    atomic::write(path, (text + "\n").as_bytes())
}

/// What determines the result of each step, known before any of them has run: its options, the
/// steps that make its inputs, and the digests of what lies outside the run. Equal keys mean
/// equal results.
pub fn keys(steps: &[Step<'_>]) -> Result<Vec<String>> {
    let mut made: HashMap<PathBuf, String> = HashMap::new();
    let mut keys = Vec::with_capacity(steps.len());
    for step in steps {
        let identity = |item: &Item| match made.get(&item.place()?) {
            Some(key) => Ok(Some(key.clone())),
            // What is missing is said when its step is due.
            None => Ok(Some(item.identity()?.unwrap_or_default())),
        };
        let key = stage::key(&*step.stage, &identity)?.unwrap_or_default();
        for (at, item) in step.stage.writes().iter().enumerate() {
            made.insert(item.place()?, format!("{key} {at}"));
        }
        keys.push(key);
    }
    Ok(keys)
}

/// Removes what earlier steps of the run made that no step makes any more (the tokens of a
/// source that now shares the pivot's vocabulary, the alignment of one that is gone), where it is
/// quickly made again. Distributions and checkpoints stay.
pub fn remove_orphans(steps: &[Step<'_>], run: &RunDir) -> Result<()> {
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
            let mut outputs = steps.iter().flat_map(|step| step.stage.writes());
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
    use crate::checkpoint::FolderRecord;

    type Action = Box<dyn Fn() -> Result<String>>;

    struct Act(Action, Item);

    impl Stage for Act {
        fn name(&self) -> &'static str {
            "train"
        }

        fn reads(&self) -> Result<stage::Reads> {
            Ok(stage::Reads::new())
        }

        fn writes(&self) -> Vec<Item> {
            vec![self.1.clone()]
        }

        fn changing(&self, _: Kind) -> serde_json::Value {
            serde_json::Value::Null
        }

        fn run(&self, _: Writing) -> Result<String> {
            (self.0)()
        }
    }

    fn step(action: Action, output: Item) -> Step<'static> {
        Step::new("x", Act(action, output))
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
        first.perform(&stages, Shard::ALL).unwrap();
        assert_eq!(begun(&run), Some(false));
        step(write("1", Some(true), false))
            .perform(&stages, Shard::ALL)
            .unwrap_err();
        assert_eq!(begun(&run), Some(false));
        step(write("2", Some(true), false))
            .perform(&stages, Shard::ALL)
            .unwrap_err();
        assert_eq!(begun(&run), Some(true));
        assert_eq!(first.status(&stages).unwrap(), Status::Ready);
        // As it was before: nothing to do.
        fs::write(&output, "1").unwrap();
        assert_eq!(first.status(&stages).unwrap(), Status::UpToDate);
        first.mark(&stages, false).unwrap();
        assert_eq!(begun(&run), Some(false));
        step(write("3", Some(true), true))
            .perform(&stages, Shard::ALL)
            .unwrap();
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
        let step = step(action, Item::model(&out));
        for name in ["config.json", "model.safetensors", "tokenizer.json"] {
            step.perform(&stages, Shard::ALL).unwrap();
            assert_eq!(step.status(&stages).unwrap(), Status::UpToDate);
            fs::remove_file(out.join(name)).unwrap();
            assert_eq!(step.status(&stages).unwrap(), Status::Ready, "{name}");
        }
    }
}
