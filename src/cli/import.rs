//! `fuselm import`.

use std::path::{Path, PathBuf};

use clap::Args;
use fuselm::artifact::{Artifact, Kind, check_name};
use fuselm::checkpoint::locate;
use fuselm::error::{Error, Result};
use fuselm::files::read_json;
use fuselm::import::{Format, Import};
use fuselm::vocab::Tokenizer;

use super::paths::RunArg;
use super::{WritingArgs, perform};

/// Distributions that another program stored, as `topk` and `sequence_metrics`.
///
/// They must be of the samples of the corpus, all of them and no others, and of the model's
/// tokenizer. Samples are found by their tokens, so their order does not matter. A file may lack
/// the BOS that a sample begins with, and may have one end token (EOS, padding, the end of a turn)
/// more or less.
///
/// Lists that are no distributions are errors: more than 1.02 of all probability, an id twice, a
/// true token without probability or with more than the list leaves. Ids of the rows that fill up
/// the model's head join the tail: those beyond the vocabulary, up to the next multiple of 1,024,
/// `vocab_size` of its `config.json` or `d` of DistillKit's configuration.
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
    /// Model folder or hub id whose tokenizer was used; its `config.json`, if it has one, says how
    /// many rows the head has
    #[arg(long)]
    tokenizer: String,
    /// File or folder of the other program
    #[arg(long, value_name = "PATH")]
    from: PathBuf,
    /// Who wrote it: DistillKit's compressed Parquet, a data set saved by FuseLLM or FuseChat,
    /// or JSONL of vLLM's `prompt_token_ids` and `prompt_logprobs` (as its objects, its server's
    /// answers or `run_batch` have them; also `.gz` and `.zst`)
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
    writing: WritingArgs,
}

pub fn run(command: &Command) -> Result<()> {
    check_name("model", &command.name)?;
    let folder = locate(&command.tokenizer)?;
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
    let import = Import {
        name: command.name.clone(),
        from: command.from.clone(),
        format: command.format,
        config: command.config.clone(),
        head: head_rows(&folder)?,
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
    Artifact::open(&import.tokens, kind)?.check_vocabulary(&tokenizer.vocabulary().digest)?;
    perform(&import, name, command.writing.writing())?;
    at.register(name, &vocab, &folder.into())
}

/// Rows of the head of the model in `dir`, where its configuration says so.
fn head_rows(dir: &Path) -> Result<Option<usize>> {
    let Some(config) = read_json(&dir.join("config.json"))? else {
        return Ok(None);
    };
    let sizes = [&config["vocab_size"], &config["text_config"]["vocab_size"]];
    let size = sizes.into_iter().find_map(serde_json::Value::as_u64);
    Ok(size.and_then(|size| usize::try_from(size).ok()))
}
