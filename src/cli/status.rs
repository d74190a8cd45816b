//! `fuselm status`.

use std::io::{IsTerminal, stdout};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use fuselm::artifact::RunDir;
use fuselm::error::Result;
use fuselm::files::Watch;
use fuselm::progress::check_interrupt;
use fuselm::query::RunStatus;

use super::{json, print};

/// Where a run stands: parts that are there and missing, who is at work, how long it will take.
///
/// Reads names, times and leases in the run folder, whoever writes it, on whatever machine.
#[derive(Args)]
#[command(after_help = "Example:\n  fuselm status runs/demo --watch")]
pub struct Command {
    /// Run folder
    run: PathBuf,
    /// Show it again every few seconds, until nobody is at work
    #[arg(long)]
    watch: bool,
    /// Seconds between two looks
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Print it as JSON
    #[arg(long, conflicts_with = "watch")]
    json: bool,
}

pub fn run(command: &Command) -> Result<()> {
    let run = RunDir::open(&command.run)?;
    let mut watch = Watch::default();
    loop {
        let status = RunStatus::of(&run, &mut watch)?;
        if command.json {
            return print(&json(&status)?);
        }
        // From the upper left corner, over what was there.
        let clear = command.watch && stdout().is_terminal();
        let clear = if clear { "\x1b[H\x1b[2J" } else { "" };
        print(&format!("{clear}{status}"))?;
        if !(command.watch && status.is_at_work()) {
            return Ok(());
        }
        let next = Instant::now() + Duration::from_secs(command.every);
        while Instant::now() < next {
            check_interrupt()?;
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
