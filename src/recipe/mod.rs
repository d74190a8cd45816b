//! Runs: from a recipe to its steps, which are done in order unless they are up to date.
//!
//! The recipe calls the stages; they never call it. `schema` reads the YAML, `models` opens the
//! models, `plan` lays out the steps, `step` decides what is up to date and keeps the records.

mod models;
mod plan;
mod schema;
mod scoreboard;
mod share;
mod step;
mod variants;

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use candle_core::Device;

pub use models::Model;
pub use plan::Run;
pub use schema::{Baseline, Dtype, ModelSpec, Recipe, Reused, Variant};
pub use scoreboard::{comparison, scoreboard};
pub use step::{Item, Status, Step};

pub use crate::artifact::StageRecord as Record;
use crate::artifact::{Kind, OWNER, RunDir};
use crate::error::{Context, Error, Result};
use crate::files::atomic;
use crate::progress::{check_interrupt, note, warn};
use crate::query::RunFiles;
use crate::text;
use crate::units::{Bytes, Count, Elapsed};

/// A run that is ready to start: models opened, steps laid out; the recipe's own and its
/// variants'.
pub struct Plan {
    /// The recipe's own comes first.
    runs: Vec<SubRun>,
}

/// The steps of a recipe or of one of its variants.
struct SubRun {
    /// The variant; empty for the recipe itself.
    name: String,
    run: Rc<Run>,
    steps: Vec<Step>,
    /// For each step the run, and the step there, that has the same result and comes first.
    same: Vec<Option<(usize, usize)>>,
}

impl SubRun {
    fn title(&self) -> String {
        match self.name.as_str() {
            "" => "the recipe".to_owned(),
            name => format!("variant {name}"),
        }
    }
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

/// Lays out the run of a recipe in `dir`.
///
/// # Errors
/// Whatever is wrong with the recipe, its models or the run folder, before any work.
pub fn plan(mut recipe: Recipe, dir: RunDir, device: Device) -> Result<Plan> {
    check_folder(&recipe, &dir)?;
    let variants = std::mem::take(&mut recipe.variants);
    for recipe in std::iter::once(&recipe).chain(variants.iter().map(|v| &v.recipe)) {
        check_files(recipe)?;
    }
    let mut runs = vec![(String::new(), Run::open(recipe, dir.clone(), device)?)];
    let base = Rc::clone(&runs[0].1);
    check_reuse(&base)?;
    for variant in variants {
        let dir = RunDir::new(dir.root().join("variants").join(&variant.name));
        let (device, models) = (base.device.clone(), Rc::clone(&base.models));
        let run = Run::with_models(variant.recipe, dir, device, models);
        runs.push((variant.name, run));
    }
    let mut known: HashMap<String, (usize, usize)> = HashMap::new();
    let mut planned = Vec::with_capacity(runs.len());
    for (at, (name, run)) in runs.into_iter().enumerate() {
        if at == 0 || run.recipe.eval != base.recipe.eval {
            check_tasks(&run)?;
        }
        let steps = plan::steps(&run)?;
        let mut same = Vec::with_capacity(steps.len());
        for (index, key) in step::keys(&steps)?.into_iter().enumerate() {
            let first = *known.entry(key).or_insert((at, index));
            same.push((first.0 != at).then_some(first));
        }
        planned.push(SubRun {
            name,
            run,
            steps,
            same,
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
fn check_reuse(run: &Run) -> Result<()> {
    for model in run.models.iter() {
        let Some(reused) = &model.spec.topk else {
            continue;
        };
        if canonical(&reused.from) == canonical(run.dir.root()) {
            return Err(Error::usage(format!(
                "`topk` of `{}` names this run itself",
                model.name()
            ))
            .remedy("name another run, or leave it out"));
        }
        for kind in [Kind::Topk, Kind::SequenceMetrics] {
            plan::check_reused(model, reused, kind)?;
        }
    }
    Ok(())
}

/// Reads what the models will be evaluated on, so that a mistake in it shows before any work.
fn check_tasks(run: &Run) -> Result<()> {
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

    fn base(&self) -> &SubRun {
        &self.runs[0]
    }

    /// Models, sizes and steps as text. `only` leaves out the steps of other stages.
    pub fn describe(&self, only: Option<&str>) -> Result<String> {
        let base = self.base();
        let mut text = format!("run {}\n\nmodels\n", base.run.dir.root().display());
        let models = &base.run.models;
        let names = models.iter().map(|model| model.name().len());
        let width = names.max().unwrap_or(0);
        for (index, model) in models.iter().enumerate() {
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
        let inputs = &self.recipe().corpus.inputs;
        let sizes = inputs.iter().map(|path| Item::File(path.clone()).bytes());
        let text_bytes: u64 = sizes.sum();
        // About 4 bytes of text a token, and 4 bytes an entry plus 8 fixed for a stored row.
        let row = 6 + 3 * self.recipe().score.top_k as u64;
        let _ = writeln!(
            text,
            "\ncorpus\n  {} files, {}; distributions of one model about {}\n\nsteps",
            inputs.len(),
            Bytes(text_bytes),
            Bytes(text_bytes / 4 * row),
        );
        let mut ahead = false;
        for sub in &self.runs {
            ahead |= self.describe_steps(sub, only, &mut text)?;
        }
        if !ahead {
            text += "\nnothing to do\n";
        }
        Ok(text)
    }

    /// Appends the steps of a run; of a variant, only those that it does not share. Returns
    /// whether anything is to be done.
    fn describe_steps(&self, sub: &SubRun, only: Option<&str>, text: &mut String) -> Result<bool> {
        let stages = sub.run.dir.stages();
        let wanted = |step: &Step| only.is_none_or(|only| only == step.stage);
        let shown: Vec<&Step> = sub
            .steps
            .iter()
            .zip(&sub.same)
            .filter(|(step, same)| same.is_none() && wanted(step))
            .map(|(step, _)| step)
            .collect();
        if !sub.name.is_empty() {
            let shared = sub.steps.iter().filter(|step| wanted(step)).count() - shown.len();
            let _ = writeln!(text, "\n{}, {shared} steps shared", sub.title());
        }
        let width = shown
            .iter()
            .map(|step| step.name().len())
            .max()
            .unwrap_or(0);
        let mut ahead = false;
        // What steps that are to be done will write; what reads it may have to be done as well.
        let mut changing: HashSet<PathBuf> = HashSet::new();
        let places = |items: &[Item]| items.iter().map(Item::place).collect::<Result<Vec<_>>>();
        for step in shown {
            let status = step.status(&stages)?;
            let mut inputs = places(&step.inputs)?.into_iter();
            let follows = inputs.any(|input| changing.contains(&input));
            let word = match status {
                Status::UpToDate if follows => "again, if the above changes",
                Status::UpToDate => "up to date",
                Status::Ready => "to do",
                Status::Waiting => "to do, after the above",
            };
            if follows || status != Status::UpToDate {
                ahead = true;
                changing.extend(places(&step.outputs)?);
            }
            let _ = writeln!(text, "  {:width$}  {word}", step.name());
        }
        Ok(ahead)
    }

    /// Reads all files of the run, its variants included, and compares them with what was written to
    /// them; returns how many bytes these are.
    ///
    /// # Errors
    /// Files that are damaged; those that are missing are not, if [`Plan::run`] writes them.
    pub fn verify(&self) -> Result<u64> {
        let files = RunFiles::of(self.dir())?;
        let steps = self.runs.iter().flat_map(|sub| &sub.steps);
        let made: HashSet<&Path> = steps
            .flat_map(|step| &step.outputs)
            .map(Item::path)
            .collect();
        files.check_written(|path| made.contains(path))?;
        Ok(files.bytes())
    }

    /// Does the steps that are not up to date, in order, variant after variant.
    ///
    /// # Errors
    /// The first error of a stage; what is complete is kept, and running again continues.
    pub fn run(&self, only: Option<&str>) -> Result<RunSummary> {
        let steps = &self.base().steps;
        if let Some(only) = only
            && !steps.iter().any(|step| step.stage == only)
        {
            let mut known: Vec<&str> = steps.iter().map(|step| step.stage).collect();
            known.dedup();
            return Err(Error::usage(format!("this run has no stage `{only}`"))
                .remedy(format!("known are `{}`", known.join("`, `"))));
        }
        let owner = serde_json::json!({ "recipe": canonical(&self.recipe().path) });
        let mut locks = Vec::new();
        for sub in &self.runs {
            let stages = sub.run.dir.stages();
            atomic::write(&stages.join(OWNER), format!("{owner}\n").as_bytes())?;
            locks.push(lock(&stages)?);
        }
        let started = Instant::now();
        let mut summary = RunSummary::default();
        for sub in &self.runs {
            if !sub.name.is_empty() {
                note(sub.title());
            }
            if only.is_none() {
                step::remove_orphans(&sub.steps, &sub.run.dir)?;
            }
            self.run_steps(sub, only, &mut summary)?;
        }
        summary.seconds = started.elapsed().as_secs_f64();
        Ok(summary)
    }

    fn run_steps(&self, sub: &SubRun, only: Option<&str>, summary: &mut RunSummary) -> Result<()> {
        let stages = sub.run.dir.stages();
        let names = sub.steps.iter().map(|step| step.name().len());
        let width = names.max().unwrap_or(0);
        // Whether a source teaches anything is known, and said, before the long training.
        let mut projected = false;
        for (step, same) in sub.steps.iter().zip(&sub.same) {
            if only.is_some_and(|only| only != step.stage) {
                continue;
            }
            check_interrupt()?;
            if projected && !["project", "align", "map"].contains(&step.stage) {
                projected = false;
                for warning in scoreboard::projection_warnings(&sub.run.dir)? {
                    warn(warning);
                }
            }
            match step.status(&stages)? {
                Status::UpToDate => {
                    step.mark(&stages, false)?;
                    summary.skipped += 1;
                }
                Status::Ready => {
                    if let Some((run, index)) = *same {
                        let other = &self.runs[run];
                        let (theirs, whose) = (other.run.dir.stages(), other.title());
                        let taken =
                            step.take_over(&other.steps[index], &theirs, &stages, &whose)?;
                        if taken.is_some() {
                            summary.shared += 1;
                            continue;
                        }
                    }
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
                    let is_missing = |item: &&Item| {
                        item.lacks_files() || item.identity().is_ok_and(|found| found.is_none())
                    };
                    let missing = step.inputs.iter().find(is_missing);
                    let path = missing.map_or(sub.run.dir.root(), Item::path);
                    return Err(Error::file(
                        path,
                        format!("`{}` needs this, it is not there", step.name()),
                    )
                    .remedy("run the earlier stages first, without `--only`"));
                }
            }
        }
        Ok(())
    }
}
