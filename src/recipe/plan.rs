//! From a recipe to the steps of its run.

mod checkpoints;
mod distributions;
mod inputs;

use std::path::PathBuf;

use candle_core::Device;
use serde_json::Value;

use super::models::Model;
use super::schema::{Baseline, Recipe};
use super::step::Step;
use crate::artifact::{Kind, RunDir};
use crate::corpus::TemplateMode;
use crate::error::{Error, Result};
use crate::fuse::{Mode, Rule};
use crate::lora::ModelPath;
use crate::score::Keep;
use crate::text::ChatTemplate;
use crate::train::TrainOptions;

/// Everything that the steps of a run share.
pub struct Run<'a> {
    /// The recipe.
    pub recipe: Recipe,
    /// The run folder.
    pub dir: RunDir,
    /// The models, the pivot first.
    pub models: &'a [Model],
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

/// A merge of models that the run trains.
struct Merged<'t> {
    name: String,
    members: Vec<&'t str>,
    config: &'t Value,
}

impl<'a> Run<'a> {
    /// A run in `dir`.
    pub fn new(recipe: Recipe, dir: RunDir, device: Device, models: &'a [Model]) -> Self {
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
        Self {
            recipe,
            dir,
            models,
            templates,
            device,
        }
    }

    fn pivot(&self) -> &'a Model {
        &self.models[0]
    }

    /// Where model `index` is when it is scored, trained and measured: of a pivot that is a GGUF file
    /// the folder that it is converted to.
    fn path(&self, index: usize) -> ModelPath {
        let model = &self.models[index];
        match index == 0 && model.is_gguf() {
            true => self.dir.checkpoint(model.name()).into(),
            false => model.path(),
        }
    }

    fn sources(&self) -> &'a [Model] {
        &self.models[1..]
    }

    /// The artifact `kind` of a model.
    fn of_model(&self, kind: Kind, index: usize) -> PathBuf {
        self.dir.artifact(kind, &[self.models[index].name()])
    }

    /// The vocabulary of model `index`.
    fn vocab(&self, index: usize) -> PathBuf {
        let name = &self.models[index].vocab;
        self.dir.artifact(Kind::Vocab, &[name])
    }

    /// The tokens of model `index`.
    fn tokens(&self, index: usize) -> PathBuf {
        self.tokens_in(&self.dir, index)
    }

    /// The tokens of model `index` in the folder `dir`.
    fn tokens_in(&self, dir: &RunDir, index: usize) -> PathBuf {
        let vocab = &self.models[index].vocab;
        dir.artifact(Kind::Tokens, &[vocab, &self.templates[index]])
    }

    /// The transcripts of model `index`.
    fn transcripts(&self, index: usize) -> PathBuf {
        let template = &self.templates[index];
        self.dir.artifact(Kind::Transcripts, &[template])
    }

    /// The folder of the tokens of `train.valid`.
    fn valid_dir(&self) -> RunDir {
        RunDir::new(self.dir.root().join("variants").join("valid"))
    }

    /// Whether model `index` reads the same tokens as the pivot, so that nothing is to be
    /// aligned, mapped or projected.
    fn reads_as_pivot(&self, index: usize) -> bool {
        self.models[index].vocab == self.pivot().vocab && self.templates[index] == self.templates[0]
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
fn check_draws(run: &Run<'_>) -> Result<()> {
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
pub fn steps<'a>(run: &Run<'a>) -> Result<Vec<Step<'a>>> {
    check_draws(run)?;
    let mut steps = vec![run.register_models()];
    steps.extend(run.convert_step());
    steps.extend(run.corpus_steps());
    steps.extend(run.vocabulary_steps()?);
    if !run.sources().is_empty() {
        steps.extend((0..run.models.len()).map(|index| run.score_step(index)));
        let projected = (1..run.models.len()).filter(|&index| !run.reads_as_pivot(index));
        steps.extend(projected.flat_map(|index| run.projection_steps(index)));
        steps.extend(run.fuse_steps());
    }
    let targets = run.targets();
    steps.extend(targets.iter().map(|target| run.train_step(target)));
    let merges = run.merges(&targets);
    for merge in &merges {
        steps.push(run.merge_step(merge)?);
    }
    if !run.recipe.eval.is_empty() {
        for (name, dir) in run.evaluated(&targets, &merges) {
            steps.push(run.eval_step(name, dir)?);
        }
    }
    Ok(steps)
}

impl Run<'_> {
    /// What is merged.
    fn merges<'t>(&'t self, targets: &'t [Target]) -> Vec<Merged<'t>> {
        let baseline = self.recipe.baselines.contains(&Baseline::ClmMerged);
        let mut merges = Vec::new();
        for (first, fused) in [("merged", true), ("clm-merged", false)] {
            let members = targets.iter().filter(|t| t.fusion.is_some() == fused);
            let members: Vec<&str> = members.map(|target| target.name.as_str()).collect();
            if members.is_empty() || !(fused || baseline) {
                continue;
            }
            merges.extend(self.recipe.merge.iter().map(|spec| Merged {
                name: spec.named(first),
                members: members.clone(),
                config: &spec.config,
            }));
        }
        merges
    }

    /// The models that are evaluated, and where they lie.
    fn evaluated(&self, targets: &[Target], merges: &[Merged<'_>]) -> Vec<(String, ModelPath)> {
        let given = (0..self.models.len()).filter(|index| self.models[*index].has_weights);
        let given = given.map(|index| (self.models[index].name().to_owned(), self.path(index)));
        // The other seeds of the baseline are there to be merged.
        let trained = targets
            .iter()
            .filter(|target| target.fusion.is_some() || target.name == "clm")
            .map(|target| target.name.as_str());
        let merged = merges.iter().map(|merge| merge.name.as_str());
        let made = trained.chain(merged);
        given
            .chain(made.map(|name| (name.to_owned(), self.dir.checkpoint(name).into())))
            .collect()
    }
}
