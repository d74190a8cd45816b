//! `fuselm score`.

use std::path::PathBuf;

use clap::Args;
use fuselm::artifact::{Artifact, Kind, RunDir, check_name};
use fuselm::checkpoint::locate;
use fuselm::error::{Error, Result};
use fuselm::model;
use fuselm::progress::note;
use fuselm::score::{ScoreInputs, ScoreOptions, run as score};
use fuselm::units::{Count, bits_per_byte};
use fuselm::vocab::Tokenizer;

use super::paths::RunArg;
use super::{Force, Global};

/// A model's top-k distributions and metrics over the corpus.
#[derive(Args)]
#[command(after_help = "Example:\n  fuselm score --run runs/demo --name math --model models/math")]
pub struct Command {
    #[command(flatten)]
    run: RunArg,
    /// Name of the model in the run
    #[arg(long)]
    name: String,
    /// Model folder, GGUF file or hub id
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
    force: Force,
}

pub fn run(command: &Command, global: &Global) -> Result<()> {
    check_name("model", &command.name)?;
    let model = locate(&command.model)?;
    let vocab = match (&command.vocab, &command.tokens) {
        (Some(_), Some(_)) => command.name.clone(),
        _ => {
            let found = command.run.vocabulary(&Tokenizer::of_model(&model)?)?;
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
    let inputs = ScoreInputs {
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
    };
    // With explicit paths, the tokens may be anyone's.
    let vocabulary = Tokenizer::of_model(&inputs.model)?;
    Artifact::open(&inputs.tokens, Kind::Tokens)?
        .check_vocabulary(&vocabulary.vocabulary().digest)?;
    let summary = score(&inputs, &command.options, command.force.existing())?;
    command.run.register(name, &vocab, &inputs.model)?;
    note(match summary.samples {
        0 => format!("{} is up to date", inputs.topk.display()),
        samples => format!(
            "{}: {} samples, {} distributions, {:.4} bits per byte",
            command.name,
            Count(samples),
            Count(summary.rows),
            bits_per_byte(summary.nll, summary.bytes)
        ),
    });
    Ok(())
}
