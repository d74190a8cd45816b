//! Steps that prepare what is learnt from: models, corpus, vocabularies.

use std::rc::Rc;

use serde_json::{Value, json};

use super::{Run, action, model_item};
use crate::artifact::{Existing, Kind, RunDir};
use crate::corpus::{self, CorpusOptions};
use crate::error::{Error, Result};
use crate::recipe::models;
use crate::recipe::step::{Item, Step};
use crate::units::Count;

pub(super) fn models_step(run: &Rc<Run>) -> Step {
    let places: Vec<Value> = run
        .models
        .iter()
        .map(|model| json!([model.name(), model.path().to_string(), model.vocab]))
        .collect();
    let adapters = run.models.iter().filter_map(|model| model.adapter.clone());
    let adapters = adapters.map(Item::Adapter);
    Step {
        stage: "models",
        subject: String::new(),
        inputs: run.models.iter().map(model_item).chain(adapters).collect(),
        outputs: vec![run.artifact(Kind::Models, &[])],
        options: json!(places),
        action: action(run, |run| {
            models::write(&run.models, &run.dir.artifact(Kind::Models, &[]))?;
            Ok(format!("{} models", run.models.len()))
        }),
    }
}

pub(super) fn corpus_step(run: &Rc<Run>) -> Step {
    let outputs = vec![
        run.artifact(Kind::Samples, &[]),
        run.transcripts(0),
        run.tokens(0),
    ];
    let out = corpus::Outputs::in_run(&run.dir, run.template(), &run.pivot().vocab);
    corpus_like(run, "samples", &run.recipe.corpus, out, outputs)
}

/// The held-out file of `train.valid`, as a small corpus of its own.
pub(super) fn valid_step(run: &Rc<Run>) -> Result<Step> {
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

pub(super) fn valid_dir(run: &Run) -> RunDir {
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
            .map(|model| Item::Tokenizer(model.tokenizer_dir.clone())),
    );
    let contexts: Vec<usize> = run
        .models
        .iter()
        .map(|model| model.config.max_position_embeddings)
        .collect();
    let mut recorded = json!({
        "corpus": options, "contexts": contexts, "tokens": corpus::tokens_changing(options.special_tokens)
    });
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

/// For each distinct vocabulary: itself; for each distinct pair of vocabulary and template: the
/// transcripts, if the template is not the pivot's, and the tokens.
pub(super) fn vocabulary_steps(run: &Rc<Run>, steps: &mut Vec<Step>) {
    for (index, model) in run.models.iter().enumerate() {
        if model.vocab == model.name() {
            steps.push(vocab_step(run, index));
        }
        let reads = |other: usize| (&run.models[other].vocab, &run.templates[other]);
        if (0..index).any(|before| reads(before) == reads(index)) || index == 0 {
            continue;
        }
        let native = run.templates[index] == model.name();
        if native {
            steps.push(transcripts_step(run, index));
        }
        steps.push(tokens_step(run, index, native));
    }
}

fn vocab_step(run: &Rc<Run>, index: usize) -> Step {
    let model = &run.models[index];
    Step {
        stage: "corpus",
        subject: format!("vocab {}", model.vocab),
        inputs: vec![Item::Tokenizer(model.tokenizer_dir.clone())],
        outputs: vec![run.artifact(Kind::Vocab, &[&model.vocab])],
        options: Value::Null,
        action: action(run, move |run| {
            let model = &run.models[index];
            let vocabulary = model.tokenizer.vocabulary();
            let out = run.dir.artifact(Kind::Vocab, &[&model.vocab]);
            vocabulary.write(&out, Existing::Replace)?;
            Ok(format!("{} ids", Count(vocabulary.len() as u64)))
        }),
    }
}

/// The samples once more, by a model's own template.
fn transcripts_step(run: &Rc<Run>, index: usize) -> Step {
    let model = &run.models[index];
    Step {
        stage: "corpus",
        subject: format!("transcripts {}", model.name()),
        inputs: vec![
            run.artifact(Kind::Samples, &[]),
            Item::Tokenizer(model.tokenizer_dir.clone()),
        ],
        outputs: vec![run.transcripts(index)],
        options: json!(run.recipe.corpus.date),
        action: action(run, move |run| {
            corpus::transcribe(
                run.artifact(Kind::Samples, &[]).path(),
                &run.models[index].tokenizer,
                run.recipe.corpus.date()?,
                run.transcripts(index).path(),
                Existing::Replace,
            )?;
            Ok("by its own template".to_owned())
        }),
    }
}

fn tokens_step(run: &Rc<Run>, index: usize, native: bool) -> Step {
    let model = &run.models[index];
    let mut inputs = vec![
        run.transcripts(index),
        Item::Tokenizer(model.tokenizer_dir.clone()),
    ];
    if !native {
        inputs.push(Item::Tokenizer(run.pivot().tokenizer_dir.clone()));
    }
    Step {
        stage: "corpus",
        subject: format!("tokens {}", model.name()),
        inputs,
        outputs: vec![run.tokens(index)],
        options: corpus::tokens_changing(run.recipe.corpus.special_tokens),
        action: action(run, move |run| {
            let made_by = (!native).then_some(&*run.pivot().tokenizer);
            let summary = corpus::tokenise(
                run.transcripts(index).path(),
                &run.models[index].tokenizer,
                made_by,
                run.recipe.corpus.special_tokens,
                run.tokens(index).path(),
                Existing::Replace,
            )?;
            Ok(format!("{} tokens", Count(summary.tokens)))
        }),
    }
}
