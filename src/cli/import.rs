//! `fuselm import`.

use std::path::PathBuf;

use clap::Args;
use fuselm::artifact::{Artifact, Kind, check_name};
use fuselm::error::{Error, Result};
use fuselm::import::{self, Format, ImportInputs};
use fuselm::model;
use fuselm::progress::note;
use fuselm::units::Count;
use fuselm::vocab::Tokenizer;

use super::Force;
use super::paths::RunArg;

/// Distributions that another program stored, as `topk` and `sequence_metrics`.
///
/// They must be of the samples of the corpus, in its order, and of the model's tokenizer; the
/// token ids of every sample are compared.
#[derive(Args)]
#[command(
    after_help = "Example:\n  fuselm import --run runs/demo --name math --tokenizer models/math --format vllm --from math.jsonl"
)]
pub struct Command {
    #[command(flatten)]
    run: RunArg,
    /// Name of the model in the run
    #[arg(long)]
    name: String,
    /// Model folder or hub id whose tokenizer was used
    #[arg(long)]
    tokenizer: String,
    /// File or folder of the other program
    #[arg(long, value_name = "PATH")]
    from: PathBuf,
    /// Who wrote it: DistillKit's compressed Parquet, a data set saved by FuseLLM or FuseChat,
    /// or JSONL of vLLM's `prompt_token_ids` and `prompt_logprobs`
    #[arg(long)]
    format: Format,
    /// DistillKit's configuration [default: compression_config.yaml beside its files]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Template of the transcripts [default: the only one]
    #[arg(long)]
    template: Option<String>,
    /// `tokens` to compare with
    #[arg(long, value_name = "DIR")]
    tokens: Option<PathBuf>,
    /// `transcripts` that they were made from
    #[arg(long, value_name = "DIR")]
    transcripts: Option<PathBuf>,
    /// `vocab` of the model
    #[arg(long, value_name = "DIR")]
    vocab: Option<PathBuf>,
    /// `topk` to write
    #[arg(long, value_name = "DIR")]
    topk: Option<PathBuf>,
    /// `sequence_metrics` to write
    #[arg(long, value_name = "DIR")]
    sequence_metrics: Option<PathBuf>,
    #[command(flatten)]
    force: Force,
}

pub fn run(command: &Command) -> Result<()> {
    check_name("model", &command.name)?;
    let folder = model::locate(&command.tokenizer)?;
    let tokenizer = Tokenizer::load(&folder)?;
    let at = &command.run;
    let explicit = command.tokens.is_some() && command.transcripts.is_some();
    let template = match explicit {
        true => String::new(),
        false => at.only("template", &command.template, Kind::Transcripts)?,
    };
    let vocab = match explicit && command.vocab.is_some() {
        true => command.name.clone(),
        false => at.vocabulary(&tokenizer)?.ok_or_else(|| {
            Error::usage(format!(
                "the corpus has no tokens in the vocabulary of `{}`",
                command.name
            ))
            .remedy("run `fuselm corpus` with this model first")
        })?,
    };
    let (kind, name) = (Kind::Tokens, command.name.as_str());
    let inputs = ImportInputs {
        name: command.name.clone(),
        from: command.from.clone(),
        format: command.format,
        config: command.config.clone(),
        tokens: at.artifact("tokens", &command.tokens, kind, &[&vocab, &template])?,
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
    };
    Artifact::open(&inputs.tokens, kind)?.check_vocabulary(&tokenizer.vocabulary().digest)?;
    let summary = import::run(&inputs, command.force.existing())?;
    at.register(name, &vocab, &folder)?;
    if summary.samples == 0 {
        note(format!("{} is up to date", inputs.topk.display()));
        return Ok(());
    }
    note(format!(
        "{name}: {} samples, {} distributions",
        Count(summary.samples),
        Count(summary.rows)
    ));
    for (count, what) in [
        (
            summary.without,
            "first tokens have no distribution, there was no BOS before them",
        ),
        (
            summary.scaled,
            "lists held more than all probability and were scaled to one",
        ),
        (
            summary.bounded,
            "true tokens are not listed; they count with the most that they can have, so metrics are too good",
        ),
    ] {
        if count > 0 {
            note(format!("{} {what}", Count(count)));
        }
    }
    Ok(())
}
