//! `fuselm map`.

use std::path::PathBuf;

use clap::Args;
use fuselm::artifact::Kind;
use fuselm::checkpoint::locate;
use fuselm::error::Result;
use fuselm::mapping::{MapInputs, MapOptions, run as map};
use fuselm::progress::note;
use fuselm::units::Count;
use fuselm::vocab::Tokenizer;

use super::Force;
use super::paths::RunArg;

/// How ids of a source vocabulary translate to the pivot's.
#[derive(Args)]
#[command(
    after_help = "Example:\n  fuselm map --run runs/demo --teacher math --model models/math --pivot-model models/pivot"
)]
pub struct Command {
    #[command(flatten)]
    run: RunArg,
    /// Name of the source in the run
    #[arg(long)]
    teacher: String,
    /// Folder or hub id of the source
    #[arg(long)]
    model: String,
    /// Folder or hub id of the pivot
    #[arg(long)]
    pivot_model: String,
    /// `alignment` to count (method ms)
    #[arg(long, value_name = "DIR")]
    alignment: Option<PathBuf>,
    /// `token_map` to write
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    options: MapOptions,
    #[command(flatten)]
    force: Force,
}

pub fn run(command: &Command) -> Result<()> {
    let source = Tokenizer::of_model(&locate(&command.model)?)?;
    let pivot = Tokenizer::of_model(&locate(&command.pivot_model)?)?;
    let teacher = command.teacher.as_str();
    let alignment = command
        .run
        .artifact("alignment", &command.alignment, Kind::Alignment, &[teacher])
        .ok();
    let inputs = MapInputs {
        source: source.vocabulary(),
        pivot: pivot.vocabulary(),
        first_token: &|bytes| pivot.first_token(bytes),
        alignment: alignment.as_deref(),
    };
    let out = command
        .run
        .artifact("out", &command.out, Kind::TokenMap, &[teacher])?;
    let summary = map(&inputs, &out, &command.options, command.force.existing())?;
    note(format!(
        "{} ids, {} without a counterpart",
        Count(summary.tokens),
        Count(summary.unmapped)
    ));
    Ok(())
}
