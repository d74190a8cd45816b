//! `fuselm merge`.

use std::path::{Path, PathBuf};

use clap::Args;
use fuselm::artifact::Existing;
use fuselm::error::{Context, Error, Result};
use fuselm::merge::{Merge, MergeConfig, MergeOptions};
use fuselm::progress::note;

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
    let own = command.config.display();
    let config =
        MergeConfig::from_yaml(&text, Path::new("")).map_err(|error| error.within(&own))?;
    let merge = Merge {
        written: config.source.clone(),
        config,
        out: command.out_dir.clone(),
        stats: command.stats.clone(),
        options: command.options.clone(),
    };
    let existing = match command.options.force {
        true => Existing::Replace,
        false => Existing::Refuse,
    };
    let plan = merge.plan(existing).map_err(|error| {
        // What is wrong with the output is no fault of the configuration.
        let out = command.out_dir.display().to_string();
        match matches!(error, Error::Usage { .. }) && !error.to_string().contains(&out) {
            true => error.within(&own),
            false => error,
        }
    })?;
    if command.dry_run {
        return print(&plan.to_string());
    }
    note(plan.to_string());
    let done = merge.perform(&plan, existing)?;
    note(format!("{}: {done}", command.out_dir.display()));
    Ok(())
}
