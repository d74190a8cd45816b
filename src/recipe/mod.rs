//! Runs: from a recipe to its steps, which are done in order unless they are up to date.
//!
//! The recipe calls the stages; they never call it. `schema` reads the YAML, `models` opens the
//! models, `plan` lays out the steps as values of the stages, `step` decides what is up to date and
//! keeps the records.

mod describe;
mod file;
mod models;
mod owner;
mod plan;
mod reuse;
mod schema;
mod scoreboard;
mod share;
mod step;
mod variants;

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use candle_core::Device;

use owner::Owner;

pub use models::{Model, open as open_models};
pub use plan::Run;
pub use schema::{Baseline, Dtype, ModelSpec, Recipe, Reused, Variant};
pub use scoreboard::{comparison, scoreboard};
pub use step::{Status, Step};

pub use crate::artifact::StageRecord as Record;
use crate::artifact::{Kind, RunDir, Shard};
use crate::error::{Context, Error, Result};
use crate::files::Lock;
use crate::progress::{check_interrupt, note, warn};
use crate::query::RunFiles;
use crate::stage::{Exclusive, Item};
use crate::text;
use crate::units::{Bytes, Elapsed};

/// A run that is ready to start: models opened, steps laid out; the recipe's own and its
/// variants'.
pub struct Plan<'a> {
    /// The recipe's own comes first.
    runs: Vec<SubRun<'a>>,
}

/// The steps of a recipe or of one of its variants.
struct SubRun<'a> {
    /// The variant; empty for the recipe itself.
    name: String,
    run: Run<'a>,
    steps: Vec<Step<'a>>,
    /// Whether a step of a run before has the same result, as far as is known before it is done.
    shared: Vec<bool>,
}

impl SubRun<'_> {
    fn title(&self) -> String {
        match self.name.as_str() {
            "" => "the recipe".to_owned(),
            name => format!("variant {name}"),
        }
    }
}

/// Which steps of a run are done, and how much of them.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// The steps of this stage, or the step of this name; all if not set.
    pub only: Option<String>,
    /// The parts of each step; less than all only together with `only`.
    pub shard: Shard,
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunSummary {
    /// Steps that were done.
    pub done: usize,
    /// Steps that were up to date.
    pub skipped: usize,
    /// Steps of variants whose results are those of another.
    pub shared: usize,
    /// Seconds that the steps took.
    pub seconds: f64,
}

/// Lays out the run of a recipe in `dir`, with its models as [`open_models`] opens them.
///
/// # Errors
/// Whatever is wrong with the recipe, its models or the run folder, before any work.
pub fn plan<'a>(
    mut recipe: Recipe,
    models: &'a [Model],
    dir: RunDir,
    device: Device,
) -> Result<Plan<'a>> {
    Owner::of(&recipe.path, &dir).check()?;
    let variants = std::mem::take(&mut recipe.variants);
    for recipe in std::iter::once(&recipe).chain(variants.iter().map(|v| &v.recipe)) {
        check_files(recipe)?;
    }
    let below = dir.root().join("variants");
    let mut runs = vec![(String::new(), Run::new(recipe, dir, device.clone(), models))];
    check_reuse(&runs[0].1)?;
    for Variant { name, recipe } in variants {
        let dir = RunDir::new(below.join(&name));
        runs.push((name, Run::new(recipe, dir, device.clone(), models)));
    }
    let mut known: HashSet<String> = HashSet::new();
    let mut planned: Vec<SubRun<'a>> = Vec::with_capacity(runs.len());
    for (name, run) in runs {
        let base = planned.first().map(|base| &base.run);
        if base.is_none_or(|base| base.recipe.eval != run.recipe.eval) {
            check_tasks(&run)?;
        }
        let steps = plan::steps(&run)?;
        let keys = step::keys(&steps)?;
        let shared = keys.iter().map(|key| known.contains(key)).collect();
        known.extend(keys);
        planned.push(SubRun {
            name,
            run,
            steps,
            shared,
        });
    }
    Ok(Plan { runs: planned })
}

fn check_files(recipe: &Recipe) -> Result<()> {
    for path in &recipe.corpus.inputs {
        std::fs::metadata(path).at(path)?;
    }
    for task in &recipe.eval {
        std::fs::metadata(&task.data).at(&task.data)?;
    }
    if let Some(valid) = recipe.train.as_ref().and_then(|train| train.valid.as_ref()) {
        std::fs::metadata(valid).at(valid)?;
    }
    Ok(())
}

/// Fails if distributions that are to be reused are not there or of other models.
fn check_reuse(run: &Run<'_>) -> Result<()> {
    for model in run.models.iter() {
        let Some(reused) = &model.spec.topk else {
            continue;
        };
        if owner::canonical(&reused.from) == owner::canonical(run.dir.root()) {
            return Err(Error::usage(format!(
                "`topk` of `{}` names this run itself",
                model.name()
            ))
            .remedy("name another run, or leave it out"));
        }
        for kind in [Kind::Topk, Kind::SequenceMetrics] {
            reuse::check_reused(model, reused, kind)?;
        }
    }
    Ok(())
}

/// Reads what the models will be evaluated on, so that a mistake in it shows before any work.
fn check_tasks(run: &Run<'_>) -> Result<()> {
    let mut models = run.models.iter();
    let plain = models.find(|model| model.tokenizer.template().is_none());
    for task in &run.recipe.eval {
        for record in text::read_as(&task.data, &task.reading())? {
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

/// Holds a run folder; two runs would remove each other's files. Shards hold it together.
fn lock(run: &RunDir, shard: Shard) -> Result<Lock> {
    let stages = run.stages();
    fs::create_dir_all(&stages).at(&stages)?;
    let (path, what) = (stages.join("lock"), run.root());
    let lock = match shard.is_all() {
        true => Lock::take(path, what, "run"),
        false => Lock::share(path, what, "run"),
    };
    lock.map_err(|error| error.remedy("wait for it, or choose another folder with `--run-dir`"))
}

impl<'a> Plan<'a> {
    /// The run folder.
    pub fn dir(&self) -> &RunDir {
        &self.base().run.dir
    }

    /// The recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.base().run.recipe
    }

    /// Whether the recipe has variants.
    pub fn has_variants(&self) -> bool {
        self.runs.len() > 1
    }

    fn base(&self) -> &SubRun<'a> {
        &self.runs[0]
    }

    /// Reads all files of the run, its variants included, and compares them with what was written to
    /// them; returns how many bytes these are.
    ///
    /// # Errors
    /// Files that are damaged; those that are missing are not, if [`Plan::run`] writes them.
    pub fn verify(&self) -> Result<u64> {
        let files = RunFiles::of(self.dir())?;
        let steps = self.runs.iter().flat_map(|sub| &sub.steps);
        let made: HashSet<PathBuf> = steps
            .flat_map(|step| step.stage.writes())
            .map(|item| item.path().to_path_buf())
            .collect();
        files.check_written(|path| made.contains(path))?;
        Ok(files.bytes())
    }

    /// Does the steps that are not up to date, in order, variant after variant.
    ///
    /// # Errors
    /// The first error of a stage; what is complete is kept, and running again continues.
    pub fn run(&self, selected: &Selection) -> Result<RunSummary> {
        self.check_selection(selected)?;
        let mut locks = Vec::new();
        for sub in &self.runs {
            locks.push(lock(&sub.run.dir, selected.shard)?);
            let owner = Owner::of(&self.recipe().path, &sub.run.dir);
            // Another recipe may have come before us since the plan was made.
            owner.check()?;
            owner.write()?;
        }
        let started = Instant::now();
        let mut summary = RunSummary::default();
        for (at, sub) in self.runs.iter().enumerate() {
            if !sub.name.is_empty() {
                note(sub.title());
            }
            if selected.only.is_none() {
                step::remove_orphans(&sub.steps, &sub.run.dir)?;
            }
            self.run_steps(at, selected, &mut summary)?;
        }
        summary.seconds = started.elapsed().as_secs_f64();
        Ok(summary)
    }

    /// Fails if there is no such step, or if it cannot be done in shards.
    fn check_selection(&self, selected: &Selection) -> Result<()> {
        let Some(only) = selected.only.as_deref() else {
            return match selected.shard.is_all() {
                true => Ok(()),
                false => Err(
                    Error::usage("a shard is one of a stage or a step, not of a run")
                        .remedy("name it with `--only`, as in `--only score`"),
                ),
            };
        };
        let mut steps = self.runs.iter().flat_map(|sub| &sub.steps);
        if steps.any(|step| step.is_called(only)) {
            return Ok(());
        }
        let mut known: Vec<&str> = Vec::new();
        for stage in self.base().steps.iter().map(|step| step.stage.name()) {
            if !known.contains(&stage) {
                known.push(stage);
            }
        }
        Err(
            Error::usage(format!("this run has no stage or step `{only}`")).remedy(format!(
                "known are `{}`, and the steps that `--dry-run` lists",
                known.join("`, `")
            )),
        )
    }

    /// Does the steps of one of the runs.
    fn run_steps(&self, at: usize, selected: &Selection, summary: &mut RunSummary) -> Result<()> {
        let sub = &self.runs[at];
        let names = sub.steps.iter().map(|step| step.name().len());
        let width = names.max().unwrap_or(0);
        // Whether a source teaches anything is known, and said, before the long training.
        let mut projected = false;
        for step in &sub.steps {
            let stage = step.stage.name();
            let only = selected.only.as_deref();
            if only.is_some_and(|only| !step.is_called(only)) {
                continue;
            }
            check_interrupt()?;
            if projected && !["project", "align", "map"].contains(&stage) {
                projected = false;
                for warning in scoreboard::projection_warnings(&sub.run.dir)? {
                    warn(warning);
                }
            }
            let stages = sub.run.dir.stages();
            match step.status(&stages)? {
                Status::UpToDate => {
                    step.mark(&stages, false)?;
                    Exclusive::sweep(&*step.stage);
                    summary.skipped += 1;
                }
                Status::Ready if self.take_over(at, step, selected.shard)? => summary.shared += 1,
                Status::Ready => {
                    let record = step.perform(&stages, selected.shard)?;
                    summary.done += 1;
                    projected |= stage == "project";
                    note(format!(
                        "{:width$}  {:>9}  {:>10}  {}",
                        step.name(),
                        Elapsed(Duration::from_secs_f64(record.seconds)).to_string(),
                        Bytes(record.bytes).to_string(),
                        record.summary
                    ));
                }
                Status::Waiting => return Err(missing_input(step, &sub.run.dir)?),
            }
        }
        Ok(())
    }

    /// Takes the result of a step that a run before run `at` has, if its inputs and options are the
    /// same; whatever its own inputs were made from. It is taken whole: by one of several shards, once
    /// all of them are there, so that shards leave such a step even before that.
    fn take_over(&self, at: usize, step: &Step<'_>, shard: Shard) -> Result<bool> {
        if shard.is_all() {
            return self.take_over_now(at, step);
        }
        let fingerprint = step.fingerprint()?;
        for other in &self.runs[..at] {
            for theirs in &other.steps {
                if theirs.stage.name() == step.stage.name() && theirs.fingerprint()? == fingerprint
                {
                    // Another shard that holds it takes it over just now.
                    if let Ok(_alone) = Exclusive::of(&*step.stage, Shard::ALL)
                        && step.status(&self.runs[at].run.dir.stages())? == Status::Ready
                    {
                        self.take_over_now(at, step)?;
                    }
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn take_over_now(&self, at: usize, step: &Step<'_>) -> Result<bool> {
        let stages = self.runs[at].run.dir.stages();
        let fingerprint = step.fingerprint()?;
        for other in &self.runs[..at] {
            let dir = other.run.dir.stages();
            let same = |theirs: &&Step<'_>| theirs.recorded_fingerprint(&dir) == fingerprint;
            for theirs in other.steps.iter().filter(same) {
                let taken = step.take_over(theirs, &dir, &stages, &other.title())?;
                if taken.is_some() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// The error for a step that cannot be done yet.
fn missing_input(step: &Step<'_>, run: &RunDir) -> Result<Error> {
    let is_missing =
        |item: &&Item| item.lacks_files() || item.identity().is_ok_and(|found| found.is_none());
    let inputs = step.inputs()?;
    let path = inputs
        .iter()
        .find(is_missing)
        .map_or(run.root(), Item::path);
    let problem = format!("`{}` needs this, it is not there", step.name());
    Ok(Error::file(path, problem).remedy("run the earlier stages first, without `--only`"))
}
