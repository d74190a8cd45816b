//! `fuselm export`.

use std::path::PathBuf;

use clap::Args;
use fuselm::artifact::Kind;
use fuselm::error::Result;
use fuselm::export;
use fuselm::progress::note;
use fuselm::units::Count;

use super::Force;
use super::paths::RunArg;

/// A model's distributions as plain nested Parquet.
///
/// One sample a row, floats, by falling probability: what `datasets` loads as it is. Parts keep
/// their names.
#[derive(Args)]
#[command(after_help = "Example:\n  fuselm export --run runs/demo --name math --out math-topk")]
pub struct Command {
    #[command(flatten)]
    run: RunArg,
    /// Name of the model in the run [default: the only one]
    #[arg(long)]
    name: Option<String>,
    /// `topk` to read
    #[arg(long, value_name = "DIR")]
    topk: Option<PathBuf>,
    /// Folder to write to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    force: Force,
}

pub fn run(command: &Command) -> Result<()> {
    let at = &command.run;
    let topk = match &command.topk {
        Some(path) => path.clone(),
        None => {
            let name = at.only("name", &command.name, Kind::Topk)?;
            at.artifact("topk", &None, Kind::Topk, &[&name])?
        }
    };
    let samples = export::run(&topk, &command.out, command.force.force)?;
    note(format!(
        "{} samples in {}",
        Count(samples),
        command.out.display()
    ));
    Ok(())
}
