//! `fuselm inspect`.

use std::path::PathBuf;

use clap::Args;
use fuselm::error::Result;
use fuselm::query::inspect;

use super::{json, print};

/// What a run, an artifact or a checkpoint is: schema, rows, bytes, provenance.
///
/// Reads footers and headers only.
#[derive(Args)]
#[command(after_help = "Example:\n  fuselm inspect runs/demo/topk/teacher=math")]
pub struct Command {
    /// Run folder, artifact, part, model folder, safetensors or GGUF file
    path: PathBuf,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(command: &Command) -> Result<()> {
    let inspection = inspect(&command.path)?;
    let text = match command.json {
        true => json(&inspection)?,
        false => inspection.to_string(),
    };
    print(&format!("{}\n", text.trim_end()))
}
