//! `fuselm map`.

use std::path::PathBuf;

use clap::Args;
use fuselm::artifact::Kind;
use fuselm::error::Result;
use fuselm::lora::locate;
use fuselm::mapping::{Map, MapOptions};
use fuselm::vocab::{Tokenizer, Vocabularies};

use super::paths::RunArg;
use super::{Force, perform};

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
    let source = Tokenizer::of_model(&locate(&command.model)?.base)?;
    let pivot = Tokenizer::of_model(&locate(&command.pivot_model)?.base)?;
    let teacher = command.teacher.as_str();
    let at = &command.run;
    let alignment = &command.alignment;
    let alignment = at.artifact("alignment", alignment, Kind::Alignment, &[teacher]);
    let alignment = alignment.ok();
    let map = Map {
        vocabularies: Vocabularies::of(&source, &pivot),
        alignment,
        out: at.artifact("out", &command.out, Kind::TokenMap, &[teacher])?,
        options: command.options.clone(),
    };
    perform(&map, teacher, command.force.existing())
}
