//! `fuselm project`.

use std::path::PathBuf;

use clap::Args;
use fuselm::artifact::Kind;
use fuselm::checkpoint::locate;
use fuselm::error::Result;
use fuselm::progress::note;
use fuselm::project::{ProjectInputs, ProjectOptions, run as project};
use fuselm::units::Count;
use fuselm::vocab::Tokenizer;

use super::Force;
use super::paths::RunArg;

/// A source's distributions in the pivot's vocabulary.
#[derive(Args)]
#[command(
    after_help = "Example:\n  fuselm project --run runs/demo --teacher math --model models/math --pivot-model models/pivot"
)]
pub struct Command {
    #[command(flatten)]
    run: RunArg,
    /// Name of the pivot in the run
    #[arg(long, default_value = "pivot")]
    pivot: String,
    /// Name of the source in the run
    #[arg(long)]
    teacher: String,
    /// Folder or hub id of the source
    #[arg(long)]
    model: String,
    /// Folder or hub id of the pivot
    #[arg(long)]
    pivot_model: String,
    /// The source's `topk` to read
    #[arg(long, value_name = "DIR")]
    topk: Option<PathBuf>,
    /// The pivot's `topk`, for `--short pivot`, and to compare with
    #[arg(long, value_name = "DIR")]
    pivot_topk: Option<PathBuf>,
    /// `alignment` to read
    #[arg(long, value_name = "DIR")]
    alignment: Option<PathBuf>,
    /// `token_map` to read
    #[arg(long, value_name = "DIR")]
    token_map: Option<PathBuf>,
    /// The pivot's `tokens` to read
    #[arg(long, value_name = "DIR")]
    pivot_tokens: Option<PathBuf>,
    /// The source's `tokens` to read
    #[arg(long, value_name = "DIR")]
    source_tokens: Option<PathBuf>,
    /// The pivot's `transcripts` to read
    #[arg(long, value_name = "DIR")]
    transcripts: Option<PathBuf>,
    /// `projected` to write
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    options: ProjectOptions,
    #[command(flatten)]
    force: Force,
}

pub fn run(command: &Command) -> Result<()> {
    let source = Tokenizer::of_model(&locate(&command.model)?)?;
    let pivot = Tokenizer::of_model(&locate(&command.pivot_model)?)?;
    let at = &command.run;
    let (name, teacher) = (command.pivot.as_str(), command.teacher.as_str());
    let pivot_topk = at
        .artifact("pivot-topk", &command.pivot_topk, Kind::Topk, &[name])
        .ok()
        .filter(|dir| command.pivot_topk.is_some() || dir.is_dir());
    if pivot_topk.is_none() && command.options.short.is_none() {
        note(
            "the pivot's `topk` is not there: short readings stay with the token that they are (`--short first`)",
        );
    }
    let vocab = at
        .vocabulary(&source)?
        .unwrap_or_else(|| teacher.to_owned());
    let tokens = |template: &str| {
        let values = [vocab.as_str(), template];
        at.artifact(
            "source-tokens",
            &command.source_tokens,
            Kind::Tokens,
            &values,
        )
    };
    let own = tokens(teacher)?;
    let source_tokens = if own.is_dir() { own } else { tokens(name)? };
    let transcripts = at.artifact(
        "transcripts",
        &command.transcripts,
        Kind::Transcripts,
        &[name],
    )?;
    let inputs = ProjectInputs {
        topk: &at.artifact("topk", &command.topk, Kind::Topk, &[teacher])?,
        alignment: &at.artifact("alignment", &command.alignment, Kind::Alignment, &[teacher])?,
        token_map: &at.artifact("token-map", &command.token_map, Kind::TokenMap, &[teacher])?,
        pivot_tokens: &at.artifact(
            "pivot-tokens",
            &command.pivot_tokens,
            Kind::Tokens,
            &[name, name],
        )?,
        source: source.vocabulary(),
        pivot: pivot.vocabulary(),
        first_token: &|bytes| pivot.first_token(bytes),
        source_tokens: &source_tokens,
        transcripts: &transcripts,
        pivot_topk: pivot_topk.as_deref(),
    };
    let out = at.artifact("out", &command.out, Kind::Projected, &[teacher])?;
    let summary = project(&inputs, &out, &command.options, command.force.existing())?;
    note(match summary.cross_entropies() {
        Some((projected, own)) => format!(
            "{} positions, cross-entropy {projected:.3} nats, the pivot's own {own:.3} \
             (`fuselm sql --name projection_quality` has the samples apart where the source is \
             the better model)",
            Count(summary.positions)
        ),
        None => format!("{} positions", Count(summary.positions)),
    });
    Ok(())
}
