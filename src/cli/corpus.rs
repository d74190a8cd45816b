//! `fuselm corpus`.

use std::path::PathBuf;

use clap::Args;
use fuselm::artifact::{Kind, RunDir, check_name, models};
use fuselm::checkpoint::locate;
use fuselm::corpus::{self, CorpusOptions, TemplateMode};
use fuselm::error::{Error, Result};
use fuselm::model::Config;
use fuselm::progress::note;
use fuselm::units::Count;
use fuselm::vocab::Tokenizer;

use super::paths::model_row;
use super::{FieldArgs, Force};

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
    dir: PathBuf,
    tokenizer: Tokenizer,
    config: Config,
}

fn open(argument: &str) -> Result<Opened> {
    let (name, model) = argument
        .split_once('=')
        .ok_or_else(|| Error::usage(format!("`--model {argument}`: expected NAME=MODEL")))?;
    check_name("model", name)?;
    let dir = locate(model)?;
    Ok(Opened {
        name: name.to_owned(),
        tokenizer: Tokenizer::of_model(&dir)?,
        config: Config::load(&dir)?,
        dir,
    })
}

pub fn run(command: &Command) -> Result<()> {
    let options = CorpusOptions {
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
            context: Some(model.config.max_position_embeddings),
            rows: model.config.vocab_size,
        })
        .collect();
    let (Some(pivot), others) = (models.first(), models.get(1..).unwrap_or_default()) else {
        return Err(Error::usage("no `--model`"));
    };
    let dir = RunDir::new(&command.run);
    let existing = command.force.existing();
    let outputs = corpus::Outputs::in_run(&dir, pivot.name, pivot.name);
    let summary = corpus::run(&options, pivot, others, &outputs, existing)?;
    note(format!(
        "{} samples from {} records, {} tokens",
        Count(summary.samples),
        Count(summary.records),
        Count(summary.tokens)
    ));
    register(&dir, &opened, &models)?;
    let native = options.template == TemplateMode::Native;
    let mut known: Vec<&str> = Vec::new();
    for model in &models {
        let vocabulary = model.tokenizer.vocabulary();
        let shared = known.contains(&vocabulary.digest.as_str());
        if !shared {
            known.push(&vocabulary.digest);
            vocabulary.write(&dir.artifact(Kind::Vocab, &[model.name]), existing)?;
        }
        if model.name == pivot.name || (shared && !native) {
            continue;
        }
        let (transcripts, made_by) = match native {
            false => (outputs.transcripts.clone(), Some(pivot.tokenizer)),
            true => {
                let own = dir.artifact(Kind::Transcripts, &[model.name]);
                let date = options.date()?;
                corpus::transcribe(&outputs.samples, model.tokenizer, date, &own, existing)?;
                (own, None)
            }
        };
        let template = if native { model.name } else { pivot.name };
        let vocab = first_with(&vocabulary.digest, &models).unwrap_or(model.name);
        let out = dir.artifact(Kind::Tokens, &[vocab, template]);
        let tokens = corpus::tokenise(
            &transcripts,
            model.tokenizer,
            made_by,
            options.special_tokens,
            &out,
            existing,
        )?;
        note(format!("{}: {} tokens", model.name, Count(tokens.tokens)));
    }
    Ok(())
}

/// Notes in `models` who takes part, the pivot first.
fn register(run: &RunDir, opened: &[Opened], models: &[corpus::Model<'_>]) -> Result<()> {
    let rows = opened.iter().enumerate().map(|(index, model)| {
        let digest = &model.tokenizer.vocabulary().digest;
        let vocabulary = first_with(digest, models).unwrap_or(&model.name);
        model_row(&model.name, index == 0, vocabulary, &model.dir)
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
