//! Steps from scoring to the targets.

use std::path::PathBuf;
use std::rc::Rc;

use serde_json::json;

use super::{Run, action};
use crate::align::{self, AlignInputs, Spans};
use crate::artifact::{Artifact, Existing, Kind, RunDir};
use crate::checkpoint::model_digest;
use crate::error::{Error, Result};
use crate::fuse::{self, Member, Mode};
use crate::mapping::{self, MapInputs};
use crate::progress::warn;
use crate::project::{self, ProjectInputs, Short};
use crate::recipe::models::Model;
use crate::recipe::schema::Reused;
use crate::recipe::share;
use crate::recipe::step::{Item, Step};
use crate::score::{self, ScoreInputs};
use crate::units::{Count, bits_per_byte};
use crate::vocab::Tokenizer;

pub(super) fn score_step(run: &Rc<Run>, index: usize) -> Step {
    let model = &run.models[index];
    if let Some(reused) = &model.spec.topk {
        return reuse_step(run, index, reused);
    }
    let inputs = ScoreInputs {
        name: model.name().to_owned(),
        model: model.dir.clone(),
        tokens: run.tokens(index).path().to_path_buf(),
        transcripts: run.transcripts(index).path().to_path_buf(),
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
            run.tokens(index),
            run.transcripts(index),
            run.artifact(Kind::Vocab, &[&model.vocab]),
        ],
        outputs: vec![
            Item::Artifact(Kind::Topk, inputs.topk.clone()),
            Item::Artifact(Kind::SequenceMetrics, inputs.sequence_metrics.clone()),
        ],
        options: json!([
            run.recipe.score.changing(inputs.dtype),
            score::metrics_changing(inputs.dtype),
        ]),
        action: action(run, move |run| {
            let summary = score::run(&inputs, &run.recipe.score, Existing::Replace)?;
            if summary.samples == 0 {
                return Ok("was complete".to_owned());
            }
            Ok(format!(
                "{} distributions, {:.4} bits per byte",
                Count(summary.rows),
                bits_per_byte(summary.nll, summary.bytes)
            ))
        }),
    }
}

/// The kinds of artifact that scoring makes.
const SCORED: [Kind; 2] = [Kind::Topk, Kind::SequenceMetrics];

/// Where the reused artifacts of a kind lie in the other run.
fn donor(model: &Model, reused: &Reused, kind: Kind) -> PathBuf {
    let name = reused.name.as_deref().unwrap_or(model.name());
    RunDir::new(&reused.from).artifact(kind, &[name])
}

/// The distributions of another run in the place of scoring.
fn reuse_step(run: &Rc<Run>, index: usize, reused: &Reused) -> Step {
    let model = &run.models[index];
    let mut inputs = vec![run.tokens(index), run.transcripts(index)];
    let theirs = SCORED.map(|kind| Item::Artifact(kind, donor(model, reused, kind)));
    inputs.extend(theirs);
    let outputs = SCORED.map(|kind| run.artifact(kind, &[model.name()]));
    let reused = reused.clone();
    Step {
        stage: "score",
        subject: model.name().to_owned(),
        inputs,
        outputs: outputs.to_vec(),
        options: json!("reused"),
        action: action(run, move |run| {
            let model = &run.models[index];
            let mut rows = 0;
            for kind in SCORED {
                let dir = donor(model, &reused, kind);
                let artifact = check_reused(model, &reused, kind)?;
                let made_from = &artifact.provenance().inputs;
                let ours = [
                    ("tokens", run.tokens(index)),
                    ("transcripts", run.transcripts(index)),
                ];
                for (what, item) in ours {
                    if made_from.get(what) != item.identity()?.as_ref() {
                        return Err(Error::file(
                            &dir,
                            format!(
                                "was scored on other {what} than this run's `{}`",
                                item.path().display()
                            ),
                        )
                        .remedy(
                            "inputs, template, tokenizer, `max_tokens` and `part_samples` of both \
                             runs must be the same; or leave out `topk` to score the model here",
                        ));
                    }
                }
                share::artifact(&dir, &run.dir.artifact(kind, &[model.name()]))?;
                rows = rows.max(artifact.rows());
            }
            Ok(format!(
                "{} distributions of {}",
                Count(rows),
                reused.from.display()
            ))
        }),
    }
}

/// Opens the artifact of a kind that a model reuses, if it is of this model and vocabulary.
///
/// # Errors
/// It is not there, or of another model or vocabulary.
pub fn check_reused(model: &Model, reused: &Reused, kind: Kind) -> Result<Artifact> {
    let dir = donor(model, reused, kind);
    let artifact = Artifact::open(&dir, kind).map_err(|error| match error {
        Error::Input {
            subject, problem, ..
        } => Error::input(subject, problem).remedy(format!(
            "`topk` of source `{}` names the run folder `{}`",
            model.name(),
            reused.from.display()
        )),
        other => other,
    })?;
    artifact.check_vocabulary(&model.tokenizer.vocabulary().digest)?;
    if model.has_weights {
        let expected = model_digest(&model.dir)?;
        let found = artifact.provenance().model.as_deref().unwrap_or("unknown");
        if found != expected {
            return Err(Error::file(
                &dir,
                format!(
                    "holds the distributions of model `{found}`, `{}` is `{expected}`",
                    model.dir.display()
                ),
            )
            .remedy(format!(
                "leave out `topk` of `{}` to score the model here",
                model.name()
            )));
        }
    }
    Ok(artifact)
}

/// A source whose vocabulary is not the pivot's: align, map, project.
pub(super) fn projection_steps(run: &Rc<Run>, index: usize, steps: &mut Vec<Step>) {
    let model = &run.models[index];
    let name = model.name();
    let alignment = run.artifact(Kind::Alignment, &[name]);
    let token_map = run.artifact(Kind::TokenMap, &[name]);
    let vocabs = [
        run.artifact(Kind::Vocab, &[&model.vocab]),
        run.artifact(Kind::Vocab, &[&run.pivot().vocab]),
    ];
    let pivot_tokens = run.tokens(0);
    let mut inputs = vec![pivot_tokens.clone(), run.tokens(index)];
    if run.templates[index] != run.template() {
        inputs.extend([run.transcripts(0), run.transcripts(index)]);
    }
    if run.recipe.align.spans == Spans::Dtw {
        inputs.extend(vocabs.iter().cloned());
    }
    steps.push(Step {
        stage: "align",
        subject: name.to_owned(),
        inputs,
        outputs: vec![alignment.clone()],
        options: run.recipe.align.changing(),
        action: action(run, move |run| align_source(run, index)),
    });
    let method = run.recipe.map.method;
    let mut inputs = vocabs.to_vec();
    if method.counts() {
        inputs.push(alignment.clone());
    }
    if method.tokenises() {
        inputs.push(Item::Tokenizer(run.pivot().tokenizer_dir.clone()));
    }
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
        alignment,
        token_map,
        pivot_tokens,
        run.tokens(index),
        run.transcripts(0),
        Item::Tokenizer(run.pivot().tokenizer_dir.clone()),
    ];
    inputs.extend(vocabs);
    let warped = run.recipe.align.spans == Spans::Dtw;
    if !warped && run.recipe.project.short(true) == Short::Pivot {
        inputs.push(run.artifact(Kind::Topk, &[run.pivot().name()]));
    }
    steps.push(Step {
        stage: "project",
        subject: name.to_owned(),
        inputs,
        outputs: vec![run.artifact(Kind::Projected, &[name])],
        options: run.recipe.project.changing(warped, true),
        action: action(run, move |run| project_source(run, index)),
    });
}

fn align_source(run: &Run, index: usize) -> Result<String> {
    let (model, pivot) = (&run.models[index], run.pivot());
    let summary = align::run(
        &AlignInputs {
            pivot_tokens: run.tokens(0).path(),
            source_tokens: run.tokens(index).path(),
            vocabularies: Some((pivot.tokenizer.vocabulary(), model.tokenizer.vocabulary())),
            transcripts: Some((run.transcripts(0).path(), run.transcripts(index).path())),
        },
        &run.dir.artifact(Kind::Alignment, &[model.name()]),
        &run.recipe.align,
        Existing::Replace,
    )?;
    if summary.unmatched > 0 {
        warn(format!(
            "{} messages are not in the transcripts by the template of `{}`",
            Count(summary.unmatched),
            model.name()
        ));
    }
    let share = 100.0 * summary.same_end as f64 / summary.pivot_tokens.max(1) as f64;
    let what = match run.recipe.align.spans {
        Spans::Offsets => "end with a source token",
        Spans::Dtw => "have one source token",
    };
    Ok(format!(
        "{} pivot tokens, {share:.1} % {what}",
        Count(summary.pivot_tokens)
    ))
}

fn project_source(run: &Run, index: usize) -> Result<String> {
    let (model, pivot) = (&run.models[index], run.pivot());
    let tokenizer: &Tokenizer = &pivot.tokenizer;
    let summary = project::run(
        &ProjectInputs {
            topk: &run.dir.artifact(Kind::Topk, &[model.name()]),
            alignment: &run.dir.artifact(Kind::Alignment, &[model.name()]),
            token_map: &run.dir.artifact(Kind::TokenMap, &[model.name()]),
            pivot_tokens: run.tokens(0).path(),
            source_tokens: run.tokens(index).path(),
            transcripts: run.transcripts(0).path(),
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
pub(super) fn fuse_steps(run: &Rc<Run>, steps: &mut Vec<Step>) {
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
                let (kind, distributions) = run.distributions(index);
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
            options: run.recipe.fuse.changing(),
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
