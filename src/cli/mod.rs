//! Commands of the program, one file each: what it takes, and one function that runs it.

mod align;
mod check;
mod convert;
mod corpus;
mod eval;
mod export;
mod extract_lora;
mod fuse;
mod generate;
mod import;
mod inspect;
mod map;
mod merge;
mod paths;
mod project;
mod run;
mod score;
mod signals;
mod sql;
mod status;
mod train;

use std::io::{self, Write};
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};
use fuselm::artifact::{Existing, Shard, Writing};
use fuselm::error::{Error, Result};
use fuselm::model;
use fuselm::progress::{self, note};
use fuselm::stage::{Exclusive, Stage};
use fuselm::text::Fields;
use serde::Serialize;

/// Fuses the knowledge of several LLMs into one, offline.
///
/// Every stage writes a Parquet artifact into a run folder, which later stages, SQL and other
/// programs read. `fuselm run RECIPE` does all of them.
#[derive(Parser)]
#[command(name = "fuselm", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Args)]
struct Global {
    /// Threads to compute with; 0 takes all cores [default: all cores]
    #[arg(long, global = true, value_name = "N", help_heading = "Global options")]
    threads: Option<usize>,
    /// Where to compute: cpu, cuda or cuda:N
    #[arg(
        long,
        global = true,
        default_value = "cpu",
        value_name = "DEVICE",
        help_heading = "Global options"
    )]
    device: String,
    /// No progress, no notes; warnings and errors only
    #[arg(long, short, global = true, help_heading = "Global options")]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Command),
    Corpus(corpus::Command),
    Score(score::Command),
    Align(align::Command),
    Map(map::Command),
    Project(project::Command),
    Fuse(fuse::Command),
    Train(Box<train::Command>),
    Merge(merge::Command),
    Convert(convert::Command),
    ExtractLora(extract_lora::Command),
    Eval(eval::Command),
    Generate(generate::Command),
    Sql(sql::Command),
    Check(check::Command),
    Status(status::Command),
    Inspect(inspect::Command),
    Import(import::Command),
    Export(export::Command),
}

/// Whether to replace what is there.
#[derive(Args)]
struct Force {
    /// Replace results of other inputs or options
    #[arg(long)]
    force: bool,
}

impl Force {
    fn existing(&self) -> Existing {
        match self.force {
            true => Existing::Replace,
            false => Existing::Refuse,
        }
    }
}

/// Which parts are made.
#[derive(Args)]
struct ShardArg {
    /// Make parts I, I+N, I+2N, … only (I from 0); `slurm`: by the task of a job array. Shards may
    /// run at the same time, on any number of hosts
    #[arg(long, value_name = "I/N", value_parser = Shard::from_str)]
    shard: Option<Shard>,
}

impl ShardArg {
    fn shard(&self) -> Shard {
        self.shard.unwrap_or(Shard::ALL)
    }
}

/// How an artifact that is made part by part is written.
#[derive(Args)]
struct WritingArgs {
    #[command(flatten)]
    force: Force,
    #[command(flatten)]
    shard: ShardArg,
}

impl WritingArgs {
    fn writing(&self) -> Writing {
        Writing {
            existing: self.force.existing(),
            shard: self.shard.shard(),
        }
    }
}

/// Runs a stage that nothing else of ours writes to meanwhile.
fn run_alone(stage: &dyn Stage, writing: impl Into<Writing>) -> Result<String> {
    let writing = writing.into();
    let _exclusive = Exclusive::of(stage, writing.shard)?;
    stage.run(writing)
}

/// Runs a stage and says how it went.
fn perform(stage: &dyn Stage, subject: &str, writing: impl Into<Writing>) -> Result<()> {
    let done = run_alone(stage, writing)?;
    note(format!("{} {subject}: {done}", stage.name()));
    Ok(())
}

/// How the fields of records are called.
#[derive(Args)]
struct FieldArgs {
    /// Read the field FIELD of the records as NAME (`prompt=question`)
    #[arg(long = "field", value_name = "NAME=FIELD")]
    fields: Vec<String>,
    /// A field that need not be read
    #[arg(long = "ignore-field", value_name = "FIELD")]
    ignore: Vec<String>,
}

impl FieldArgs {
    fn fields(&self) -> Result<Fields> {
        let mut fields = Fields::default();
        for argument in &self.fields {
            let (name, field) = argument.split_once('=').ok_or_else(|| {
                Error::usage(format!("`--field {argument}`: expected NAME=FIELD"))
            })?;
            fields.set(name, field)?;
        }
        for field in &self.ignore {
            fields.ignore(field);
        }
        Ok(fields)
    }
}

/// Parses the arguments, runs the command and says how it went.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    progress::set_quiet(cli.global.quiet);
    signals::handle();
    let interrupted = ctrlc::set_handler(|| {
        // A second wish is not to be argued with.
        if progress::check_interrupt().is_err() {
            std::process::exit(130);
        }
        progress::interrupt(|| {
            let _ = writeln!(io::stderr(), "error: {}", Error::Interrupted);
            std::process::exit(130);
        });
    });
    let done = match interrupted {
        Ok(()) => execute(cli),
        Err(error) => Err(Error::usage(format!("cannot handle Ctrl-C: {error}"))),
    };
    match done {
        Ok(code) => code,
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Fails for more threads than any machine is better with: so many would only stand in each other's way.
fn check_threads(threads: usize) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let most = (8 * cores).max(1024);
    match threads > most {
        true => Err(Error::usage(format!(
            "`--threads {threads}`: expected at most {most} on a machine with {cores} cores"
        ))
        .remedy("leave it out to take all cores")),
        false => Ok(()),
    }
}

fn execute(cli: Cli) -> Result<ExitCode> {
    if let Some(threads) = cli.global.threads {
        check_threads(threads)?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build_global()
            .map_err(|error| Error::usage(format!("`--threads {threads}`: {error}")))?;
    }
    let global = &cli.global;
    // A wrong name is an error of every command, also of those that compute on the CPU alone.
    model::device(&global.device)?;
    match cli.command {
        Command::Run(command) => run::run(&command, global),
        Command::Corpus(command) => corpus::run(&command),
        Command::Score(command) => score::run(&command, global),
        Command::Align(command) => align::run(&command),
        Command::Map(command) => map::run(&command),
        Command::Project(command) => project::run(&command),
        Command::Fuse(command) => fuse::run(&command),
        Command::Train(command) => train::run(&command, global),
        Command::Merge(command) => merge::run(&command),
        Command::Convert(command) => convert::run(&command),
        Command::ExtractLora(command) => extract_lora::run(&command),
        Command::Eval(command) => eval::run(&command, global),
        Command::Generate(command) => generate::run(&command, global),
        Command::Sql(command) => sql::run(&command, global),
        Command::Check(command) => return check::run(&command),
        Command::Status(command) => status::run(&command),
        Command::Inspect(command) => inspect::run(&command),
        Command::Import(command) => import::run(&command),
        Command::Export(command) => export::run(&command),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// A value as JSON, for people and programs.
fn json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value);
    text.map(|text| text + "\n")
        .map_err(|error| Error::internal(format!("writing JSON: {error}")))
}

/// Writes data to stdout.
fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Error::io("stdout", error))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
