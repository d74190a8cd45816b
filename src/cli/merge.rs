//! `fuselm merge`.

use std::path::{Path, PathBuf};

use clap::Args;
use fuselm::artifact::Existing;
use fuselm::error::{Context, Result};
use fuselm::merge::{self, MergeConfig, MergeOptions, write_stats};
use fuselm::progress::{note, warn};
use fuselm::units::{Bytes, Count};

use super::print;

/// Merge checkpoints as a mergekit configuration says.
///
/// Model paths in the configuration are relative to the current folder. Every tensor of every
/// model is checked before anything is written; a killed merge continues where it stopped.
#[derive(Args)]
#[command(after_help = "Example:\n  fuselm merge sce.yml merged")]
pub struct Command {
    /// The configuration (mergekit's YAML)
    config: PathBuf,
    /// Model folder to write
    out_dir: PathBuf,
    /// Print the plan and stop
    #[arg(long)]
    dry_run: bool,
    /// `merge_stats` to write [default: none]
    #[arg(long, value_name = "DIR")]
    stats: Option<PathBuf>,
    #[command(flatten)]
    options: MergeOptions,
}

pub fn run(command: &Command) -> Result<()> {
    let text = std::fs::read_to_string(&command.config).at(&command.config)?;
    let config = MergeConfig::from_yaml(&text, Path::new(""))?;
    let plan = merge::plan(&config, &command.out_dir, &command.options)?;
    if command.dry_run {
        return print(&plan.to_string());
    }
    note(plan.to_string());
    let summary = merge::run(&plan)?;
    for warning in &summary.warnings {
        warn(warning);
    }
    if let Some(dir) = &command.stats {
        let existing = match command.options.force {
            true => Existing::Replace,
            false => Existing::Refuse,
        };
        write_stats(&summary.stats, dir, plan.provenance()?, existing)?;
    }
    note(format!(
        "{}: {} tensors, {} read, {} written",
        command.out_dir.display(),
        Count(summary.tensors as u64),
        Bytes(summary.bytes_read),
        Bytes(summary.bytes_written)
    ));
    Ok(())
}
