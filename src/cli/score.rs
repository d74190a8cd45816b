//! `fuselm score`.

use std::path::PathBuf;

use clap::Args;
use fuselm::artifact::{Artifact, Kind, RunDir, check_name};
use fuselm::error::{Error, Result};
use fuselm::lora;
use fuselm::model;
use fuselm::score::{Score, ScoreOptions};
use fuselm::vocab::Tokenizer;

use super::paths::RunArg;
use super::{Global, WritingArgs, perform};

/// A model's top-k distributions and metrics over the corpus.
#[derive(Args)]
#[command(after_help = "Example:\n  fuselm score --run runs/demo --name math --model models/math")]
pub struct Command {
    #[command(flatten)]
    run: RunArg,
    /// Name of the model in the run
    #[arg(long)]
    name: String,
    /// Model folder, GGUF file or hub id; with a LoRA adapter: `MODEL+ADAPTER`
    #[arg(long)]
    model: String,
    /// Template of the transcripts to score [default: the only one, or the model's own]
    #[arg(long)]
    template: Option<String>,
    /// Type of weights and activations: f32, f16, bf16
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// `tokens` to read
    #[arg(long, value_name = "DIR")]
    tokens: Option<PathBuf>,
    /// `transcripts` to read
    #[arg(long, value_name = "DIR")]
    transcripts: Option<PathBuf>,
    /// `vocab` to read
    #[arg(long, value_name = "DIR")]
    vocab: Option<PathBuf>,
    /// `topk` to write
    #[arg(long, value_name = "DIR")]
    topk: Option<PathBuf>,
    /// `sequence_metrics` to write
    #[arg(long, value_name = "DIR")]
    sequence_metrics: Option<PathBuf>,
    #[command(flatten)]
    options: ScoreOptions,
    #[command(flatten)]
    writing: WritingArgs,
}

pub fn run(command: &Command, global: &Global) -> Result<()> {
    check_name("model", &command.name)?;
    let model = lora::locate(&command.model)?;
    let vocab = match (&command.vocab, &command.tokens) {
        (Some(_), Some(_)) => command.name.clone(),
        _ => {
            let found = command.run.vocabulary(&Tokenizer::of_model(&model.base)?)?;
            found.ok_or_else(|| {
                Error::usage(format!(
                    "the corpus has no tokens in the vocabulary of `{}`",
                    command.name
                ))
                .remedy("run `fuselm corpus` with this model first")
            })?
        }
    };
    let template = match (&command.transcripts, &command.tokens) {
        (Some(_), Some(_)) => String::new(),
        _ => {
            let own = command.run.run.as_ref().is_some_and(|run| {
                let run = RunDir::new(run);
                run.artifact(Kind::Transcripts, &[&command.name]).is_dir()
            });
            let template = match own {
                true => &command.template.clone().or(Some(command.name.clone())),
                false => &command.template,
            };
            command.run.only("template", template, Kind::Transcripts)?
        }
    };
    let at = &command.run;
    let name = command.name.as_str();
    let score = Score {
        name: command.name.clone(),
        model,
        tokens: at.artifact(
            "tokens",
            &command.tokens,
            Kind::Tokens,
            &[&vocab, &template],
        )?,
        transcripts: at.artifact(
            "transcripts",
            &command.transcripts,
            Kind::Transcripts,
            &[&template],
        )?,
        vocab: at.artifact("vocab", &command.vocab, Kind::Vocab, &[&vocab])?,
        topk: at.artifact("topk", &command.topk, Kind::Topk, &[name])?,
        sequence_metrics: at.artifact(
            "sequence-metrics",
            &command.sequence_metrics,
            Kind::SequenceMetrics,
            &[name],
        )?,
        dtype: model::dtype(&command.dtype)?,
        device: model::device(&global.device)?,
        options: command.options.clone(),
    };
    // With explicit paths, the tokens may be anyone's.
    let vocabulary = Tokenizer::of_model(&score.model.base)?;
    Artifact::open(&score.tokens, Kind::Tokens)?
        .check_vocabulary(&vocabulary.vocabulary().digest)?;
    perform(&score, name, command.writing.writing())?;
    command.run.register(name, &vocab, &score.model)
}
