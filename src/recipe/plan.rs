//! From a recipe to the steps of its run.

mod checkpoints;
mod distributions;
mod inputs;

use std::path::PathBuf;
use std::rc::Rc;

use candle_core::Device;

use super::models::{self, Model};
use super::schema::{Baseline, Recipe};
use super::step::{Action, Item, Step};
use crate::artifact::{Kind, RunDir};
use crate::corpus::TemplateMode;
use crate::error::{Error, Result};
use crate::fuse::{Mode, Rule};
use crate::lora::ModelPath;
use crate::score::Keep;
use crate::text::ChatTemplate;
use crate::train::TrainOptions;
use checkpoints::{eval_step, merge_step, train_step};
pub use distributions::check_reused;
use distributions::{fuse_steps, projection_steps, score_step};
use inputs::{corpus_step, models_step, valid_step, vocabulary_steps};

/// Everything that the steps of a run share.
pub struct Run {
    /// The recipe.
    pub recipe: Recipe,
    /// The run folder.
    pub dir: RunDir,
    /// The models, the pivot first.
    pub models: Rc<Vec<Model>>,
    /// For each model, the name of the template of its transcripts.
    pub templates: Vec<String>,
    /// Where to compute.
    pub device: Device,
}

/// A model that the run trains.
struct Target {
    name: String,
    /// Name of its `targets` artifact; none for continued training on the text alone.
    fusion: Option<String>,
    options: TrainOptions,
}

impl Run {
    /// Opens the models of a recipe for a run in `dir`.
    ///
    /// # Errors
    /// Models that cannot be found or do not fit together, before any work.
    pub fn open(recipe: Recipe, dir: RunDir, device: Device) -> Result<Rc<Self>> {
        let models = models::open(&recipe)?;
        Ok(Self::with_models(recipe, dir, device, Rc::new(models)))
    }

    /// The same for models that are open.
    pub(super) fn with_models(
        recipe: Recipe,
        dir: RunDir,
        device: Device,
        models: Rc<Vec<Model>>,
    ) -> Rc<Self> {
        let digest = |model: &Model| model.tokenizer.template().map(ChatTemplate::digest);
        let own = |model: &Model| {
            // The special tokens that a template writes are those of its vocabulary.
            let same = models
                .iter()
                .find(|other| other.vocab == model.vocab && digest(other) == digest(model));
            same.unwrap_or(model).name().to_owned()
        };
        let templates = match recipe.corpus.template {
            TemplateMode::Pivot => vec![models[0].name().to_owned(); models.len()],
            TemplateMode::Native => models.iter().map(own).collect(),
        };
        Rc::new(Self {
            recipe,
            dir,
            models,
            templates,
            device,
        })
    }

    fn pivot(&self) -> &Model {
        &self.models[0]
    }

    fn sources(&self) -> &[Model] {
        &self.models[1..]
    }

    /// Name of the template of the pivot's transcripts.
    fn template(&self) -> &str {
        &self.templates[0]
    }

    fn artifact(&self, kind: Kind, values: &[&str]) -> Item {
        Item::Artifact(kind, self.dir.artifact(kind, values))
    }

    /// The tokens of model `index`.
    fn tokens(&self, index: usize) -> Item {
        let vocab = &self.models[index].vocab;
        self.artifact(Kind::Tokens, &[vocab, &self.templates[index]])
    }

    /// The transcripts of model `index`.
    fn transcripts(&self, index: usize) -> Item {
        self.artifact(Kind::Transcripts, &[&self.templates[index]])
    }

    /// Whether model `index` reads the same tokens as the pivot, so that nothing is to be
    /// aligned, mapped or projected.
    fn reads_as_pivot(&self, index: usize) -> bool {
        self.models[index].vocab == self.pivot().vocab && self.templates[index] == self.template()
    }

    /// The distributions of model `index` in the pivot's vocabulary.
    fn distributions(&self, index: usize) -> (Kind, PathBuf) {
        let kind = match self.reads_as_pivot(index) {
            true => Kind::Topk,
            false => Kind::Projected,
        };
        (kind, self.dir.artifact(kind, &[self.models[index].name()]))
    }

    /// The models of the run's own that are trained, in order.
    fn targets(&self) -> Vec<Target> {
        let Some(options) = &self.recipe.train else {
            return Vec::new();
        };
        // Target n and baseline n read the corpus in the same order, so that they differ in
        // nothing but the targets.
        let nth = |n: usize, lambda: f64| TrainOptions {
            seed: options.seed.wrapping_add(n as u64),
            lambda,
            ..options.clone()
        };
        let mut targets: Vec<Target> = match self.recipe.fuse.mode {
            _ if self.sources().is_empty() => Vec::new(),
            Mode::Joint => vec![Target {
                name: "target".into(),
                fusion: Some("joint".into()),
                options: nth(0, options.lambda),
            }],
            Mode::Pairwise => self
                .sources()
                .iter()
                .enumerate()
                .map(|(n, source)| Target {
                    name: format!("target-{}", source.name()),
                    fusion: Some(source.name().to_owned()),
                    options: nth(n, options.lambda),
                })
                .collect(),
        };
        let baselines = &self.recipe.baselines;
        let count = match targets.len() {
            0 => 1,
            fused if baselines.contains(&Baseline::ClmMerged) => fused,
            _ => usize::from(baselines.contains(&Baseline::Clm)),
        };
        targets.extend((0..count).map(|n| Target {
            name: clm_name(n),
            fusion: None,
            options: nth(n, 1.0),
        }));
        targets
    }
}

/// Random draws cannot be moved to another vocabulary or averaged; said before anything is scored.
fn check_draws(run: &Run) -> Result<()> {
    let other = |model: &&Model| model.vocab != run.pivot().vocab;
    let problem = match (run.recipe.score.mode, run.recipe.fuse.rule) {
        (Keep::Top, _) => return Ok(()),
        (Keep::Sampled, Rule::Avgce) => "`rule: avgce`, whose means are no shares of draws".into(),
        (Keep::Sampled, Rule::Mince) => match run.sources().iter().find(other) {
            None => return Ok(()),
            Some(source) => format!(
                "source `{}`: projected into the pivot's vocabulary, draws are no longer unbiased",
                source.name()
            ),
        },
    };
    Err(
        Error::usage(format!("`score.mode: sampled` does not go with {problem}"))
            .remedy("use `mode: top`"),
    )
}

fn clm_name(n: usize) -> String {
    match n {
        0 => "clm".to_owned(),
        n => format!("clm-{}", n + 1),
    }
}

/// The steps of a run, in an order in which they can be done.
///
/// # Errors
/// Options of different stages that do not go together.
pub fn steps(run: &Rc<Run>) -> Result<Vec<Step>> {
    check_draws(run)?;
    let mut steps = Vec::new();
    steps.push(models_step(run));
    steps.push(corpus_step(run));
    if run
        .recipe
        .train
        .as_ref()
        .is_some_and(|train| train.valid.is_some())
    {
        steps.push(valid_step(run)?);
    }
    vocabulary_steps(run, &mut steps);
    if !run.sources().is_empty() {
        for index in 0..run.models.len() {
            steps.push(score_step(run, index));
        }
        for index in 1..run.models.len() {
            if !run.reads_as_pivot(index) {
                projection_steps(run, index, &mut steps);
            }
        }
        fuse_steps(run, &mut steps);
    }
    let targets = run.targets();
    for target in &targets {
        steps.push(train_step(run, target));
    }
    let mut evaluated: Vec<(String, ModelPath)> = Vec::new();
    for model in run.models.iter().filter(|model| model.has_weights) {
        evaluated.push((model.name().to_owned(), model.path()));
    }
    for target in &targets {
        // The other seeds of the baseline are there to be merged.
        if target.fusion.is_some() || target.name == "clm" {
            evaluated.push((target.name.clone(), run.dir.checkpoint(&target.name).into()));
        }
    }
    if let Some(section) = &run.recipe.merge {
        let fused = targets.iter().filter(|target| target.fusion.is_some());
        let mut merges = vec![("merged", fused.collect::<Vec<_>>())];
        if run.recipe.baselines.contains(&Baseline::ClmMerged) {
            let plain = targets.iter().filter(|target| target.fusion.is_none());
            merges.push(("clm-merged", plain.collect()));
        }
        for (name, members) in merges {
            let members: Vec<&str> = members.iter().map(|target| target.name.as_str()).collect();
            if !members.is_empty() {
                steps.push(merge_step(run, name, &members, section)?);
                evaluated.push((name.to_owned(), run.dir.checkpoint(name).into()));
            }
        }
    }
    if !run.recipe.eval.is_empty() {
        for (name, path) in evaluated {
            steps.push(eval_step(run, name, path));
        }
    }
    Ok(steps)
}

fn action(run: &Rc<Run>, act: impl Fn(&Run) -> Result<String> + 'static) -> Action {
    let run = Rc::clone(run);
    Box::new(move || act(&run))
}

/// What identifies a model: its weights if it has any, its configuration otherwise.
fn model_item(model: &Model) -> Item {
    match model.has_weights {
        true => Item::Model(model.dir.clone()),
        false => Item::File(model.dir.join("config.json")),
    }
}
