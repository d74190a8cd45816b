//! `fuselm align`.

use std::path::PathBuf;

use clap::Args;
use fuselm::align::{AlignOptions, run as align};
use fuselm::artifact::Kind;
use fuselm::error::Result;
use fuselm::progress::note;
use fuselm::units::Count;

use super::Force;
use super::paths::RunArg;

/// Which source tokens correspond to each pivot token.
#[derive(Args)]
#[command(after_help = "Example:\n  fuselm align --run runs/demo --pivot pivot --teacher math")]
pub struct Command {
    #[command(flatten)]
    run: RunArg,
    /// Name of the pivot
    #[arg(long, default_value = "pivot")]
    pivot: String,
    /// Name of the source; its vocabulary has the same name
    #[arg(long)]
    teacher: String,
    /// The pivot's `tokens` to read
    #[arg(long, value_name = "DIR")]
    pivot_tokens: Option<PathBuf>,
    /// The source's `tokens` to read
    #[arg(long, value_name = "DIR")]
    source_tokens: Option<PathBuf>,
    /// `alignment` to write
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    options: AlignOptions,
    #[command(flatten)]
    force: Force,
}

pub fn run(command: &Command) -> Result<()> {
    let at = &command.run;
    let (pivot, teacher) = (command.pivot.as_str(), command.teacher.as_str());
    let summary = align(
        &at.artifact(
            "pivot-tokens",
            &command.pivot_tokens,
            Kind::Tokens,
            &[pivot, pivot],
        )?,
        &at.artifact(
            "source-tokens",
            &command.source_tokens,
            Kind::Tokens,
            &[teacher, pivot],
        )?,
        &at.artifact("out", &command.out, Kind::Alignment, &[teacher])?,
        &command.options,
        command.force.existing(),
    )?;
    note(format!(
        "{} pivot tokens, {} of them end with a source token",
        Count(summary.pivot_tokens),
        Count(summary.same_end)
    ));
    Ok(())
}
