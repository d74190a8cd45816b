//! From a recipe to the steps of its run.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use candle_core::Device;
use serde_json::{Value, json};

use super::models::{self, Model};
use super::schema::{Baseline, Recipe};
use super::step::{Action, Item, Step};
use crate::align;
use crate::artifact::{Existing, Kind, RunDir};
use crate::corpus::{self, CorpusOptions, TemplateMode};
use crate::error::{Error, Result};
use crate::eval::{self, EvalInputs};
use crate::fuse::{self, Member, Mode};
use crate::mapping::{self, MapInputs};
use crate::merge::{self, MergeConfig, MergeOptions};
use crate::progress::warn;
use crate::project::{self, ProjectInputs};
use crate::score::{self, ScoreInputs};
use crate::train::{self, Init, TrainInputs, TrainOptions};
use crate::units::{Bytes, Count, bits_per_byte};
use crate::vocab::Tokenizer;

/// Everything that the steps of a run share.
pub struct Run {
    /// The recipe.
    pub recipe: Recipe,
    /// The run folder.
    pub dir: RunDir,
    /// The models, the pivot first.
    pub models: Vec<Model>,
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
        if recipe.corpus.template == TemplateMode::Native && models.len() > 1 {
            return Err(Error::usage(
                "`template: native` gives every model a transcript of its own, which `align` cannot pair",
            )
            .remedy("use `template: pivot`"));
        }
        Ok(Rc::new(Self {
            recipe,
            dir,
            models,
            device,
        }))
    }

    fn pivot(&self) -> &Model {
        &self.models[0]
    }

    fn sources(&self) -> &[Model] {
        &self.models[1..]
    }

    /// Name of the template of the transcripts.
    fn template(&self) -> &str {
        self.pivot().name()
    }

    fn artifact(&self, kind: Kind, values: &[&str]) -> Item {
        Item::Artifact(kind, self.dir.artifact(kind, values))
    }

    fn tokens(&self, vocab: &str) -> Item {
        self.artifact(Kind::Tokens, &[vocab, self.template()])
    }

    fn transcripts(&self) -> Item {
        self.artifact(Kind::Transcripts, &[self.template()])
    }

    /// The distributions of a model in the pivot's vocabulary.
    fn distributions(&self, model: &Model) -> (Kind, PathBuf) {
        let kind = match model.vocab == self.pivot().vocab {
            true => Kind::Topk,
            false => Kind::Projected,
        };
        (kind, self.dir.artifact(kind, &[model.name()]))
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

fn clm_name(n: usize) -> String {
    match n {
        0 => "clm".to_owned(),
        n => format!("clm-{}", n + 1),
    }
}

/// The steps of a run, in an order in which they can be done.
pub fn steps(run: &Rc<Run>) -> Result<Vec<Step>> {
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
            if run.models[index].vocab != run.pivot().vocab {
                projection_steps(run, index, &mut steps);
            }
        }
        fuse_steps(run, &mut steps);
    }
    let targets = run.targets();
    for target in &targets {
        steps.push(train_step(run, target));
    }
    let mut evaluated: Vec<(String, PathBuf)> = Vec::new();
    for model in run.models.iter().filter(|model| model.has_weights) {
        evaluated.push((model.name().to_owned(), model.dir.clone()));
    }
    for target in &targets {
        // The other seeds of the baseline are there to be merged.
        if target.fusion.is_some() || target.name == "clm" {
            evaluated.push((target.name.clone(), run.dir.checkpoint(&target.name)));
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
                evaluated.push((name.to_owned(), run.dir.checkpoint(name)));
            }
        }
    }
    if !run.recipe.eval.is_empty() {
        for (name, dir) in evaluated {
            steps.push(eval_step(run, name, dir));
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

fn models_step(run: &Rc<Run>) -> Step {
    let places: Vec<Value> = run
        .models
        .iter()
        .map(|model| json!([model.name(), model.dir, model.vocab]))
        .collect();
    Step {
        stage: "models",
        subject: String::new(),
        inputs: run.models.iter().map(model_item).collect(),
        outputs: vec![run.artifact(Kind::Models, &[])],
        options: json!(places),
        action: action(run, |run| {
            models::write(&run.models, &run.dir.artifact(Kind::Models, &[]))?;
            Ok(format!("{} models", run.models.len()))
        }),
    }
}

fn corpus_step(run: &Rc<Run>) -> Step {
    let outputs = vec![
        run.artifact(Kind::Samples, &[]),
        run.transcripts(),
        run.tokens(&run.pivot().vocab),
    ];
    let out = corpus::Outputs::in_run(&run.dir, run.template(), &run.pivot().vocab);
    corpus_like(run, "samples", &run.recipe.corpus, out, outputs)
}

/// The held-out file of `train.valid`, as a small corpus of its own.
fn valid_step(run: &Rc<Run>) -> Result<Step> {
    let valid = run
        .recipe
        .train
        .as_ref()
        .and_then(|train| train.valid.clone());
    let valid = valid.ok_or_else(|| Error::usage("`train.valid` is not set"))?;
    let options = CorpusOptions {
        inputs: vec![valid],
        split: "valid".to_owned(),
        ..run.recipe.corpus.clone()
    };
    let dir = valid_dir(run);
    let out = corpus::Outputs::in_run(&dir, run.template(), &run.pivot().vocab);
    let outputs = vec![
        Item::Artifact(Kind::Samples, out.samples.clone()),
        Item::Artifact(Kind::Transcripts, out.transcripts.clone()),
        Item::Artifact(Kind::Tokens, out.tokens.clone()),
    ];
    Ok(corpus_like(run, "valid", &options, out, outputs))
}

fn valid_dir(run: &Run) -> RunDir {
    RunDir::new(run.dir.root().join("variants").join("valid"))
}

fn corpus_like(
    run: &Rc<Run>,
    subject: &str,
    options: &CorpusOptions,
    out: corpus::Outputs,
    outputs: Vec<Item>,
) -> Step {
    let mut inputs: Vec<Item> = options.inputs.iter().cloned().map(Item::File).collect();
    inputs.extend(
        run.models
            .iter()
            .map(|model| Item::Tokenizer(model.dir.clone())),
    );
    let contexts: Vec<usize> = run
        .models
        .iter()
        .map(|model| model.config.max_position_embeddings)
        .collect();
    let mut recorded = json!({ "corpus": options, "contexts": contexts });
    recorded["corpus"]["inputs"] = Value::Null;
    let options = options.clone();
    Step {
        stage: "corpus",
        subject: subject.to_owned(),
        inputs,
        outputs,
        options: recorded,
        action: action(run, move |run| {
            let models: Vec<corpus::Model<'_>> = run
                .models
                .iter()
                .map(|model| corpus::Model {
                    name: model.name(),
                    tokenizer: &model.tokenizer,
                    context: Some(model.config.max_position_embeddings),
                    rows: model.config.vocab_size,
                })
                .collect();
            let summary = corpus::run(&options, &models[0], &models[1..], &out, Existing::Replace)?;
            Ok(format!(
                "{} samples, {} tokens, {} supervised",
                Count(summary.samples),
                Count(summary.tokens),
                Count(summary.supervised)
            ))
        }),
    }
}

/// For each distinct vocabulary: itself, and the tokens of the corpus in it.
fn vocabulary_steps(run: &Rc<Run>, steps: &mut Vec<Step>) {
    for (index, model) in run.models.iter().enumerate() {
        if model.vocab != model.name() {
            continue;
        }
        let vocab = model.vocab.clone();
        steps.push(Step {
            stage: "corpus",
            subject: format!("vocab {vocab}"),
            inputs: vec![Item::Tokenizer(model.dir.clone())],
            outputs: vec![run.artifact(Kind::Vocab, &[&vocab])],
            options: Value::Null,
            action: action(run, move |run| {
                let model = &run.models[index];
                let vocabulary = model.tokenizer.vocabulary();
                vocabulary.write(
                    &run.dir.artifact(Kind::Vocab, &[&model.vocab]),
                    Existing::Replace,
                )?;
                Ok(format!("{} ids", Count(vocabulary.len() as u64)))
            }),
        });
        if index == 0 {
            continue;
        }
        steps.push(Step {
            stage: "corpus",
            subject: format!("tokens {vocab}"),
            inputs: vec![
                run.transcripts(),
                Item::Tokenizer(model.dir.clone()),
                Item::Tokenizer(run.pivot().dir.clone()),
            ],
            outputs: vec![run.tokens(&vocab)],
            options: Value::Null,
            action: action(run, move |run| {
                let model = &run.models[index];
                let summary = corpus::tokenise(
                    run.transcripts().path(),
                    &model.tokenizer,
                    Some(&run.pivot().tokenizer),
                    run.tokens(&model.vocab).path(),
                    Existing::Replace,
                )?;
                Ok(format!("{} tokens", Count(summary.tokens)))
            }),
        });
    }
}

fn score_step(run: &Rc<Run>, index: usize) -> Step {
    let model = &run.models[index];
    let inputs = ScoreInputs {
        name: model.name().to_owned(),
        model: model.dir.clone(),
        tokens: run.tokens(&model.vocab).path().to_path_buf(),
        transcripts: run.transcripts().path().to_path_buf(),
        vocab: run.dir.artifact(Kind::Vocab, &[&model.vocab]),
        topk: run.dir.artifact(Kind::Topk, &[model.name()]),
        sequence_metrics: run.dir.artifact(Kind::SequenceMetrics, &[model.name()]),
        dtype: model.spec.dtype.into(),
        device: run.device.clone(),
    };
    Step {
        stage: "score",
        subject: model.name().to_owned(),
        inputs: vec![
            Item::Model(model.dir.clone()),
            run.tokens(&model.vocab),
            run.transcripts(),
            run.artifact(Kind::Vocab, &[&model.vocab]),
        ],
        outputs: vec![
            Item::Artifact(Kind::Topk, inputs.topk.clone()),
            Item::Artifact(Kind::SequenceMetrics, inputs.sequence_metrics.clone()),
        ],
        options: json!([run.recipe.score.top_k, inputs.dtype.as_str()]),
        action: action(run, move |run| {
            let summary = score::run(&inputs, &run.recipe.score, Existing::Replace)?;
            Ok(format!(
                "{} distributions, {:.4} bits per byte",
                Count(summary.rows),
                bits_per_byte(summary.nll, summary.bytes)
            ))
        }),
    }
}

/// A source whose vocabulary is not the pivot's: align, map, project.
fn projection_steps(run: &Rc<Run>, index: usize, steps: &mut Vec<Step>) {
    let model = &run.models[index];
    let name = model.name();
    let alignment = run.artifact(Kind::Alignment, &[name]);
    let token_map = run.artifact(Kind::TokenMap, &[name]);
    let vocabs = [
        run.artifact(Kind::Vocab, &[&model.vocab]),
        run.artifact(Kind::Vocab, &[&run.pivot().vocab]),
    ];
    let pivot_tokens = run.tokens(&run.pivot().vocab);
    steps.push(Step {
        stage: "align",
        subject: name.to_owned(),
        inputs: vec![pivot_tokens.clone(), run.tokens(&model.vocab)],
        outputs: vec![alignment.clone()],
        options: json!(run.recipe.align),
        action: action(run, move |run| {
            let model = &run.models[index];
            let summary = align::run(
                run.tokens(&run.pivot().vocab).path(),
                run.tokens(&model.vocab).path(),
                &run.dir.artifact(Kind::Alignment, &[model.name()]),
                &run.recipe.align,
                Existing::Replace,
            )?;
            let share = 100.0 * summary.same_end as f64 / summary.pivot_tokens.max(1) as f64;
            Ok(format!(
                "{} pivot tokens, {share:.1} % end with a source token",
                Count(summary.pivot_tokens)
            ))
        }),
    });
    let mut inputs = vec![alignment.clone(), Item::Tokenizer(run.pivot().dir.clone())];
    inputs.extend(vocabs.iter().cloned());
    steps.push(Step {
        stage: "map",
        subject: name.to_owned(),
        inputs,
        outputs: vec![token_map.clone()],
        options: json!(run.recipe.map),
        action: action(run, move |run| {
            let model = &run.models[index];
            let pivot: &Tokenizer = &run.pivot().tokenizer;
            let alignment = run.dir.artifact(Kind::Alignment, &[model.name()]);
            let inputs = MapInputs {
                source: model.tokenizer.vocabulary(),
                pivot: pivot.vocabulary(),
                first_token: &|bytes| pivot.first_token(bytes),
                alignment: Some(&alignment),
            };
            let out = run.dir.artifact(Kind::TokenMap, &[model.name()]);
            let summary = mapping::run(&inputs, &out, &run.recipe.map, Existing::Replace)?;
            Ok(format!(
                "{} ids, {} without a counterpart",
                Count(summary.tokens),
                Count(summary.unmapped)
            ))
        }),
    });
    let mut inputs = vec![
        run.artifact(Kind::Topk, &[name]),
        run.artifact(Kind::Topk, &[run.pivot().name()]),
        alignment,
        token_map,
        pivot_tokens,
        run.tokens(&model.vocab),
    ];
    inputs.extend(vocabs);
    steps.push(Step {
        stage: "project",
        subject: name.to_owned(),
        inputs,
        outputs: vec![run.artifact(Kind::Projected, &[name])],
        options: json!(run.recipe.project),
        action: action(run, move |run| project_source(run, index)),
    });
}

fn project_source(run: &Run, index: usize) -> Result<String> {
    let (model, pivot) = (&run.models[index], run.pivot());
    let tokenizer: &Tokenizer = &pivot.tokenizer;
    let summary = project::run(
        &ProjectInputs {
            topk: &run.dir.artifact(Kind::Topk, &[model.name()]),
            alignment: &run.dir.artifact(Kind::Alignment, &[model.name()]),
            token_map: &run.dir.artifact(Kind::TokenMap, &[model.name()]),
            pivot_tokens: run.tokens(&pivot.vocab).path(),
            source: model.tokenizer.vocabulary(),
            pivot: pivot.tokenizer.vocabulary(),
            first_token: &|bytes| tokenizer.first_token(bytes),
            pivot_topk: Some(&run.dir.artifact(Kind::Topk, &[pivot.name()])),
        },
        &run.dir.artifact(Kind::Projected, &[model.name()]),
        &run.recipe.project,
        Existing::Replace,
    )?;
    Ok(match summary.cross_entropies() {
        Some((projected, own)) => format!(
            "{} positions, cross-entropy {projected:.3} nats, the pivot's own {own:.3}",
            Count(summary.positions)
        ),
        None => format!("{} positions", Count(summary.positions)),
    })
}

/// One set of targets for each source, or one for all.
fn fuse_steps(run: &Rc<Run>, steps: &mut Vec<Step>) {
    let all: Vec<usize> = (1..run.models.len()).collect();
    let groups: Vec<(String, Vec<usize>)> = match run.recipe.fuse.mode {
        Mode::Joint => vec![("joint".to_owned(), all)],
        Mode::Pairwise => all
            .into_iter()
            .map(|n| (run.models[n].name().to_owned(), vec![n]))
            .collect(),
    };
    for (name, sources) in groups {
        let pivot = run.recipe.fuse.use_pivot.then_some(0);
        let members: Vec<Member> = pivot
            .into_iter()
            .chain(sources)
            .map(|index| {
                let model = &run.models[index];
                let (kind, distributions) = run.distributions(model);
                Member {
                    name: model.name().to_owned(),
                    distributions,
                    kind,
                    metrics: run.dir.artifact(Kind::SequenceMetrics, &[model.name()]),
                }
            })
            .collect();
        let inputs = members.iter().flat_map(|member| {
            [
                Item::Artifact(member.kind, member.distributions.clone()),
                Item::Artifact(Kind::SequenceMetrics, member.metrics.clone()),
            ]
        });
        let out = run.dir.artifact(Kind::Targets, &[&name]);
        steps.push(Step {
            stage: "fuse",
            subject: name,
            inputs: inputs.collect(),
            outputs: vec![Item::Artifact(Kind::Targets, out.clone())],
            options: json!(run.recipe.fuse),
            action: action(run, move |run| {
                let summary = fuse::run(&members, &out, &run.recipe.fuse, Existing::Replace)?;
                let wins: Vec<String> = summary
                    .wins
                    .iter()
                    .map(|win| format!("{} {}", win.name, Count(win.sequences)))
                    .collect();
                Ok(format!(
                    "{} targets; samples won: {}",
                    Count(summary.rows),
                    wins.join(", ")
                ))
            }),
        });
    }
}

fn train_step(run: &Rc<Run>, target: &Target) -> Step {
    let pivot = run.pivot();
    let init = match pivot.has_weights {
        true => Init::Model(pivot.dir.clone()),
        false => Init::Random {
            config: pivot.config.raw.clone(),
            tokenizer: pivot.dir.clone(),
        },
    };
    let valid = target
        .options
        .valid
        .as_ref()
        .map(|_| valid_dir(run).artifact(Kind::Tokens, &[&pivot.vocab, run.template()]));
    let targets = target
        .fusion
        .as_ref()
        .map(|fusion| run.dir.artifact(Kind::Targets, &[fusion]));
    let inputs = TrainInputs {
        pivot: init,
        tokens: run.tokens(&pivot.vocab).path().to_path_buf(),
        targets: targets.clone(),
        valid_tokens: valid.clone(),
        out: run.dir.checkpoint(&target.name),
        steps_out: run.dir.artifact(Kind::Steps, &[&target.name]),
        name: target.name.clone(),
        device: run.device.clone(),
        overwrite: true,
    };
    let mut read = vec![model_item(pivot), run.tokens(&pivot.vocab)];
    read.extend(targets.map(|dir| Item::Artifact(Kind::Targets, dir)));
    read.extend(valid.map(|dir| Item::Artifact(Kind::Tokens, dir)));
    let options = target.options.clone();
    Step {
        stage: "train",
        subject: target.name.clone(),
        inputs: read,
        outputs: vec![
            Item::Model(inputs.out.clone()),
            Item::Artifact(Kind::Steps, inputs.steps_out.clone()),
        ],
        options: json!(options),
        action: action(run, move |_| {
            let summary = train::run(&inputs, &options)?;
            Ok(format!(
                "{} steps, loss {:.4}, {:.0} tokens/s{}",
                Count(summary.steps),
                summary.loss,
                summary.tokens_per_second,
                if summary.resumed { ", continued" } else { "" }
            ))
        }),
    }
}

fn merge_step(run: &Rc<Run>, name: &str, members: &[&str], section: &Value) -> Result<Step> {
    let members: Vec<PathBuf> = members
        .iter()
        .map(|name| run.dir.checkpoint(name))
        .collect();
    let base = run.pivot().dir.clone();
    let config = MergeConfig::from_recipe(section, &members, &base, Path::new(""))?;
    let out = run.dir.checkpoint(name);
    let stats = run.dir.artifact(Kind::MergeStats, &[name]);
    let mut inputs = vec![Item::Model(base)];
    inputs.extend(members.into_iter().map(Item::Model));
    Ok(Step {
        stage: "merge",
        subject: name.to_owned(),
        inputs,
        outputs: vec![
            Item::Model(out.clone()),
            Item::Artifact(Kind::MergeStats, stats.clone()),
        ],
        options: section.clone(),
        action: action(run, move |_| {
            let options = MergeOptions {
                force: true,
                ..MergeOptions::default()
            };
            let plan = merge::plan(&config, &out, &options)?;
            let summary = merge::run(&plan)?;
            for warning in &summary.warnings {
                warn(warning);
            }
            merge::write_stats(
                &summary.stats,
                &stats,
                plan.provenance()?,
                Existing::Replace,
            )?;
            Ok(format!(
                "{} tensors, {} written",
                Count(summary.tensors as u64),
                Bytes(summary.bytes_written)
            ))
        }),
    })
}

fn eval_step(run: &Rc<Run>, name: String, dir: PathBuf) -> Step {
    let out = run.dir.artifact(Kind::EvalItems, &[&name]);
    let mut inputs = vec![Item::Model(dir.clone()), Item::Tokenizer(dir.clone())];
    inputs.extend(
        run.recipe
            .eval
            .iter()
            .map(|task| Item::File(task.data.clone())),
    );
    let dtype = run
        .models
        .iter()
        .find(|model| model.name() == name)
        .map_or(run.pivot().spec.dtype, |model| model.spec.dtype);
    let mut tasks = json!(run.recipe.eval);
    for task in tasks.as_array_mut().into_iter().flatten() {
        task["data"] = Value::Null;
    }
    Step {
        stage: "eval",
        subject: name.clone(),
        inputs,
        outputs: vec![Item::Artifact(Kind::EvalItems, out.clone())],
        options: json!([tasks, run.recipe.corpus.date]),
        action: action(run, move |run| {
            let inputs = EvalInputs {
                name: name.clone(),
                model: dir.clone(),
                tasks: run.recipe.eval.clone(),
                out: out.clone(),
                batch_tokens: run.recipe.score.batch_tokens,
                dtype: dtype.into(),
                device: run.device.clone(),
                date: Some(run.recipe.corpus.date()?),
            };
            let results = eval::run(&inputs, Existing::Replace)?;
            let shown: Vec<String> = results
                .iter()
                .map(|result| format!("{} {:.4}", result.name, result.bits_per_byte()))
                .collect();
            Ok(format!("bits per byte: {}", shown.join(", ")))
        }),
    }
}
