//! Steps from scoring to the targets.

use std::rc::Rc;

use serde_json::json;

use super::{Run, action};
use crate::align;
use crate::artifact::{Existing, Kind};
use crate::error::Result;
use crate::fuse::{self, Member, Mode};
use crate::mapping::{self, MapInputs};
use crate::project::{self, ProjectInputs};
use crate::recipe::step::{Item, Step};
use crate::score::{self, ScoreInputs};
use crate::units::{Count, bits_per_byte};
use crate::vocab::Tokenizer;

pub(super) fn score_step(run: &Rc<Run>, index: usize) -> Step {
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
    let mut inputs = vec![
        alignment.clone(),
        Item::Tokenizer(run.pivot().tokenizer_dir.clone()),
    ];
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
