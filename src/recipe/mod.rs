//! Runs: from a recipe to its steps, which are done in order unless they are up to date.
//!
//! The recipe calls the stages; they never call it. `schema` reads the YAML, `models` opens the
//! models, `plan` lays out the steps, `step` decides what is up to date and keeps the records.

mod models;
mod plan;
mod schema;
mod scoreboard;
mod step;

use std::fmt::Write as _;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use candle_core::Device;

pub use models::Model;
pub use plan::Run;
pub use schema::{Baseline, Dtype, ModelSpec, Recipe};
pub use scoreboard::scoreboard;
pub use step::{Item, Record, Status, Step};

use crate::artifact::{RunDir, atomic};
use crate::error::{Context, Error, Result};
use crate::progress::{check_interrupt, note, warn};
use crate::text;
use crate::units::{Bytes, Count, Elapsed};

/// A run that is ready to start: models opened, steps laid out.
pub struct Plan {
    run: Rc<Run>,
    steps: Vec<Step>,
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunSummary {
    /// Steps that were done.
    pub done: usize,
    /// Steps that were up to date.
    pub skipped: usize,
    /// Seconds that the steps took.
    pub seconds: f64,
}

/// Lays out the run of a recipe in `dir`.
///
/// # Errors
/// Whatever is wrong with the recipe, its models or the run folder, before any work.
pub fn plan(recipe: Recipe, dir: RunDir, device: Device) -> Result<Plan> {
    check_folder(&recipe, &dir)?;
    for path in &recipe.corpus.inputs {
        std::fs::metadata(path).at(path)?;
    }
    for task in &recipe.eval {
        std::fs::metadata(&task.data).at(&task.data)?;
    }
    if let Some(valid) = recipe.train.as_ref().and_then(|train| train.valid.as_ref()) {
        std::fs::metadata(valid).at(valid)?;
    }
    let run = Run::open(recipe, dir, device)?;
    check_tasks(&run)?;
    let steps = plan::steps(&run)?;
    Ok(Plan { run, steps })
}

/// Reads what the models will be evaluated on, so that a mistake in it shows before any work.
fn check_tasks(run: &Run) -> Result<()> {
    let mut models = run.models.iter();
    let plain = models.find(|model| model.tokenizer.template().is_none());
    for task in &run.recipe.eval {
        for record in text::read(&task.data, task.format)? {
            let record = record?;
            if let (Some(model), false) = (plain, record.is_text()) {
                let problem = format!("a chat, but `{}` has no chat template", model.name());
                return Err(Error::input(&record.place, problem).remedy(
                    "add a `chat_template.jinja` to the model's folder, or evaluate on plain `text`",
                ));
            }
        }
    }
    Ok(())
}

/// The file that says whose run a folder is.
const OWNER: &str = "run.json";

/// Fails if `dir` is the run of another recipe, or something else.
fn check_folder(recipe: &Recipe, dir: &RunDir) -> Result<()> {
    let root = dir.root();
    let owner = dir.stages().join(OWNER);
    let remedy = "choose another folder with `--run-dir`";
    if let Ok(text) = std::fs::read_to_string(&owner) {
        let found: serde_json::Value = serde_json::from_str(&text).at(&owner)?;
        let found = found["recipe"].as_str().unwrap_or_default();
        let expected = canonical(&recipe.path);
        if found != expected {
            return Err(Error::usage(format!(
                "`{}` is the run of another recipe, `{found}`",
                root.display()
            ))
            .remedy(remedy));
        }
        return Ok(());
    }
    let mut entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io(root, error)),
    };
    if entries.next().is_some() {
        return Err(
            Error::usage(format!("`{}` is not empty and no run", root.display())).remedy(remedy),
        );
    }
    Ok(())
}

/// Holds a run folder until the file is dropped; two runs would remove each other's files.
fn lock(stages: &Path) -> Result<File> {
    let path = stages.join("lock");
    let file = File::create(&path).at(&path)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            Err(Error::file(&path, "another process works on this run")
                .remedy("wait for it, or choose another folder with `--run-dir`"))
        }
        // File systems without locks: go on without.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

fn canonical(path: &Path) -> String {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    path.to_string_lossy().into_owned()
}

impl Plan {
    /// The run folder.
    pub fn dir(&self) -> &RunDir {
        &self.run.dir
    }

    /// The recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.run.recipe
    }

    /// Models, sizes and steps as text. `only` leaves out the steps of other stages.
    pub fn describe(&self, only: Option<&str>) -> Result<String> {
        let mut text = format!("run {}\n\nmodels\n", self.run.dir.root().display());
        let width = self
            .run
            .models
            .iter()
            .map(|model| model.name().len())
            .max()
            .unwrap_or(0);
        for (index, model) in self.run.models.iter().enumerate() {
            let _ = writeln!(
                text,
                "  {:width$}  {:<6}  {:<8}  {:>13} parameters  {:>10} on disk  {:>8} ids ({})",
                model.name(),
                if index == 0 { "pivot" } else { "source" },
                model.config.architecture.name(),
                Count(model.config.parameters()),
                Bytes(Item::Model(model.dir.clone()).bytes()).to_string(),
                Count(model.tokenizer.vocabulary().len() as u64),
                if model.vocab == model.name() {
                    "own"
                } else {
                    &model.vocab
                },
            );
        }
        let text_bytes: u64 = self
            .recipe()
            .corpus
            .inputs
            .iter()
            .map(|path| Item::File(path.clone()).bytes())
            .sum();
        // About 4 bytes of text a token, and 4 bytes an entry plus 8 fixed for a stored row.
        let row = 6 + 3 * self.recipe().score.top_k as u64;
        let _ = writeln!(
            text,
            "\ncorpus\n  {} files, {}; distributions of one model about {}\n\nsteps",
            self.recipe().corpus.inputs.len(),
            Bytes(text_bytes),
            Bytes(text_bytes / 4 * row),
        );
        let stages = self.run.dir.stages();
        let names: Vec<String> = self.steps.iter().map(Step::name).collect();
        let width = names.iter().map(String::len).max().unwrap_or(0);
        let mut ahead = false;
        for (step, name) in self.steps.iter().zip(names) {
            if only.is_some_and(|only| only != step.stage) {
                continue;
            }
            let status = step.status(&stages)?;
            let word = match status {
                Status::UpToDate => "up to date",
                Status::Ready => "to do",
                Status::Waiting => "to do, after the above",
            };
            ahead |= status != Status::UpToDate;
            let _ = writeln!(text, "  {name:width$}  {word}");
        }
        if !ahead {
            text += "\nnothing to do\n";
        }
        Ok(text)
    }

    /// Does the steps that are not up to date, in order.
    ///
    /// # Errors
    /// The first error of a stage; what is complete is kept, and running again continues.
    pub fn run(&self, only: Option<&str>) -> Result<RunSummary> {
        if let Some(only) = only
            && !self.steps.iter().any(|step| step.stage == only)
        {
            let mut known: Vec<&str> = self.steps.iter().map(|step| step.stage).collect();
            known.dedup();
            return Err(Error::usage(format!("this run has no stage `{only}`"))
                .remedy(format!("known are `{}`", known.join("`, `"))));
        }
        let stages = self.run.dir.stages();
        let owner = serde_json::json!({ "recipe": canonical(&self.recipe().path) });
        atomic::write(&stages.join(OWNER), format!("{owner}\n").as_bytes())?;
        let _lock = lock(&stages)?;
        let started = Instant::now();
        let mut summary = RunSummary::default();
        let width = self
            .steps
            .iter()
            .map(|step| step.name().len())
            .max()
            .unwrap_or(0);
        // Whether a source teaches anything is known, and said, before the long training.
        let mut projected = false;
        for step in &self.steps {
            if only.is_some_and(|only| only != step.stage) {
                continue;
            }
            check_interrupt()?;
            if projected && step.stage != "project" && step.stage != "align" && step.stage != "map"
            {
                projected = false;
                for warning in scoreboard::projection_warnings(&self.run.dir)? {
                    warn(warning);
                }
            }
            match step.status(&stages)? {
                Status::UpToDate => summary.skipped += 1,
                Status::Ready => {
                    let record = step.perform(&stages)?;
                    summary.done += 1;
                    projected |= step.stage == "project";
                    note(format!(
                        "{:width$}  {:>9}  {:>10}  {}",
                        step.name(),
                        Elapsed(Duration::from_secs_f64(record.seconds)).to_string(),
                        Bytes(record.bytes).to_string(),
                        record.summary
                    ));
                }
                Status::Waiting => {
                    let missing = step
                        .inputs
                        .iter()
                        .find(|item| item.identity().is_ok_and(|identity| identity.is_none()));
                    let path = missing.map_or(self.run.dir.root(), Item::path);
                    return Err(Error::file(
                        path,
                        format!("`{}` needs this, it is not there", step.name()),
                    )
                    .remedy("run the earlier stages first, without `--only`"));
                }
            }
        }
        summary.seconds = started.elapsed().as_secs_f64();
        Ok(summary)
    }
}
