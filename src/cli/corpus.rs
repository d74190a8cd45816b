//! `fuselm corpus`.

use std::path::{Path, PathBuf};

use clap::Args;
use fuselm::artifact::{Kind, RunDir, check_name, models};
use fuselm::corpus::{self, Corpus, CorpusOptions, TemplateMode, Tokenise, Transcribe, WriteVocab};
use fuselm::error::{Error, Result};
use fuselm::lora::{ModelPath, locate};
use fuselm::model::Outline;
use fuselm::vocab::Tokenizer;

use super::paths::model_row;
use super::{FieldArgs, Force, perform, run_alone};

/// Chat and text files to samples, transcripts and tokens.
///
/// The first model is the pivot: its chat template makes the transcripts and its tokenizer
/// splits long samples. The others get tokens in their own vocabularies.
#[derive(Args)]
#[command(
    after_help = "Example:\n  fuselm corpus --run runs/demo --input train.jsonl --model pivot=models/pivot --model math=models/math"
)]
pub struct Command {
    /// Run folder
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// A model whose vocabulary the corpus is needed in, with its name in the run; the pivot first
    #[arg(long = "model", value_name = "NAME=MODEL", required = true)]
    models: Vec<String>,
    #[command(flatten)]
    options: CorpusOptions,
    #[command(flatten)]
    fields: FieldArgs,
    #[command(flatten)]
    force: Force,
}

struct Opened {
    name: String,
    path: ModelPath,
    tokenizer: Tokenizer,
    outline: Outline,
}

fn open(argument: &str) -> Result<Opened> {
    let (name, model) = argument
        .split_once('=')
        .ok_or_else(|| Error::usage(format!("`--model {argument}`: expected NAME=MODEL")))?;
    check_name("model", name)?;
    let path = locate(model)?;
    Ok(Opened {
        name: name.to_owned(),
        tokenizer: Tokenizer::of_model(&path.base)?,
        outline: Outline::of(&path.base)?,
        path,
    })
}

pub fn run(command: &Command) -> Result<()> {
    let options = CorpusOptions {
        inputs: corpus::files_of(&command.options.inputs, Path::new(""))?,
        fields: command.fields.fields()?,
        ..command.options.clone()
    };
    let opened: Vec<Opened> = command
        .models
        .iter()
        .map(|argument| open(argument))
        .collect::<Result<_>>()?;
    let models: Vec<corpus::Model<'_>> = opened
        .iter()
        .map(|model| corpus::Model {
            name: &model.name,
            tokenizer: &model.tokenizer,
            context: model.outline.context,
            rows: model
                .outline
                .rows
                .unwrap_or(model.tokenizer.vocabulary().len()),
        })
        .collect();
    let Some(pivot) = models.first() else {
        return Err(Error::usage("no `--model`"));
    };
    let (dir, existing) = (RunDir::new(&command.run), command.force.existing());
    let corpus = Corpus {
        options: options.clone(),
        models: models.clone(),
        samples: dir.artifact(Kind::Samples, &[]),
        transcripts: dir.artifact(Kind::Transcripts, &[pivot.name]),
    };
    perform(&corpus, "samples", existing)?;
    register(&dir, &opened, &models)?;
    let native = options.template == TemplateMode::Native;
    for (index, model) in models.iter().enumerate() {
        let vocabulary = model.tokenizer.vocabulary();
        let vocab = first_with(&vocabulary.digest, &models).unwrap_or(model.name);
        if vocab == model.name {
            let out = dir.artifact(Kind::Vocab, &[vocab]);
            run_alone(&WriteVocab { vocabulary, out }, existing)?;
        }
        let own = native || index == 0;
        if !own && vocab != model.name {
            continue;
        }
        let template = if own { model.name } else { pivot.name };
        let transcripts = dir.artifact(Kind::Transcripts, &[template]);
        if own && index > 0 {
            let transcribe = Transcribe {
                samples: corpus.samples.clone(),
                tokenizer: model.tokenizer,
                date: options.date()?,
                out: transcripts.clone(),
            };
            run_alone(&transcribe, existing)?;
        }
        let tokenise = Tokenise {
            transcripts,
            tokenizer: model.tokenizer,
            made_by: (!own).then_some(pivot.tokenizer),
            special_tokens: options.special_tokens,
            out: dir.artifact(Kind::Tokens, &[vocab, template]),
        };
        perform(&tokenise, &format!("tokens {}", model.name), existing)?;
    }
    Ok(())
}

/// Notes in `models` who takes part, the pivot first.
fn register(run: &RunDir, opened: &[Opened], models: &[corpus::Model<'_>]) -> Result<()> {
    let rows = opened.iter().enumerate().map(|(index, model)| {
        let digest = &model.tokenizer.vocabulary().digest;
        let vocabulary = first_with(digest, models).unwrap_or(&model.name);
        model_row(&model.name, index == 0, vocabulary, &model.path)
    });
    let rows = rows.collect::<Result<_>>()?;
    let pivot = opened.first().map(|model| model.name.as_str());
    models::register(&run.artifact(Kind::Models, &[]), rows, pivot)
}

/// The first model with this vocabulary, whose name the run knows it by.
fn first_with<'a>(digest: &str, models: &[corpus::Model<'a>]) -> Option<&'a str> {
    let mut models = models.iter();
    models
        .find(|model| model.tokenizer.vocabulary().digest == digest)
        .map(|model| model.name)
}
