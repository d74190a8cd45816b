//! `fuselm check`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use fuselm::artifact::RunDir;
use fuselm::error::Result;
use fuselm::progress::note;
use fuselm::query::{Level, SessionOptions, check_run};

use super::{json, print};

/// All checks of a run; exit code 3 if one finds an error.
///
/// First that all files are there, and are what was written (every part and checkpoint is read and
/// compared with its digest), then what the rows say.
#[derive(Args)]
#[command(after_help = "Example:\n  fuselm check runs/demo")]
pub struct Command {
    /// Run folder
    run: PathBuf,
    /// Findings of each check to show; 0 shows all
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
    /// Folder whose checks/ replace or add files
    #[arg(long, value_name = "DIR")]
    sql_dir: Option<PathBuf>,
}

pub fn run(command: &Command) -> Result<ExitCode> {
    let options = SessionOptions {
        sql_dir: command.sql_dir.clone(),
        ..SessionOptions::default()
    };
    let findings = check_run(&RunDir::open(&command.run)?, &options, command.limit)?;
    if command.json {
        print(&json(&findings)?)?;
    } else {
        for finding in &findings {
            print(&format!("{finding}\n"))?;
        }
    }
    let errors = findings
        .iter()
        .filter(|finding| finding.level == Level::Error)
        .count();
    note(format!(
        "{errors} errors, {} warnings",
        findings.len() - errors
    ));
    Ok(match errors {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(3),
    })
}
