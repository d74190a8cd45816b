//! `fuselm sql`.

use std::fmt::Write as _;
use std::io::{self, Read};
use std::path::PathBuf;

use clap::Args;
use fuselm::artifact::RunDir;
use fuselm::error::{Context, Error, Result};
use fuselm::progress::note;
use fuselm::query::{self, Batches, Catalogue, Engine, Format, Params, Session, SessionOptions};
use fuselm::units::Count;

use super::{Global, print};

/// SQL over a run; an interactive prompt when no query is given.
///
/// Statements only read: SELECT, EXPLAIN, SHOW, DESCRIBE, SET, and views that last as long as the
/// session. A result is written with `--output`.
///
/// Every artifact is a table; `--list` shows the named queries, views and checks.
#[derive(Args)]
#[command(
    after_help = "Example:\n  fuselm sql --run runs/demo --name eval_scoreboard --format json"
)]
pub struct Command {
    /// The statement; `-` reads it from stdin
    query: Option<String>,
    /// Run folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    run: PathBuf,
    /// Run a statement from a file
    #[arg(long, conflicts_with = "query")]
    file: Option<PathBuf>,
    /// Run a named query, check or transform
    #[arg(long, conflicts_with_all = ["query", "file"])]
    name: Option<String>,
    /// Value of a parameter of the statement
    #[arg(long = "param", value_name = "NAME=VALUE")]
    params: Vec<String>,
    /// table, line, csv, json or parquet [default: by the output's ending, else table]
    #[arg(long)]
    format: Option<Format>,
    /// File to write
    #[arg(long, short)]
    output: Option<PathBuf>,
    /// Rows of a table to show; 0 shows all
    #[arg(long, default_value_t = 40)]
    max_rows: usize,
    /// List queries, views, checks and transforms
    #[arg(long)]
    list: bool,
    /// Show the plan of the statement instead of its result
    #[arg(long)]
    explain: bool,
    /// Print the tables and views of the run as statements for another program
    #[arg(long, value_enum, value_name = "PROGRAM", conflicts_with_all = ["query", "file", "name"])]
    setup: Option<Engine>,
    /// Folder whose views/, queries/ and checks/ replace or add files
    #[arg(long, value_name = "DIR")]
    sql_dir: Option<PathBuf>,
}

pub fn run(command: &Command, global: &Global) -> Result<()> {
    if command.list {
        return print(&list(&Catalogue::load(command.sql_dir.as_deref())?));
    }
    if let Some(engine) = command.setup {
        let catalogue = Catalogue::load(command.sql_dir.as_deref())?;
        return print(&query::setup(
            &RunDir::open(&command.run)?,
            &catalogue,
            engine,
        )?);
    }
    let options = SessionOptions {
        sql_dir: command.sql_dir.clone(),
        threads: global.threads.unwrap_or(0),
        ..SessionOptions::default()
    };
    let session = Session::open_whole(&RunDir::open(&command.run)?, &options)?;
    let mut params = Params::new();
    for param in &command.params {
        let (name, value) = param
            .split_once('=')
            .ok_or_else(|| Error::usage(format!("`--param {param}`: expected NAME=VALUE")))?;
        params.insert(name.to_owned(), value.to_owned());
    }
    let statement = match (&command.query, &command.file, &command.name) {
        (_, _, Some(name)) if command.explain => {
            return print(&session.explain_named(name, &params)?);
        }
        (_, _, Some(name)) => return write(command, session.stream_named(name, &params)?),
        (_, Some(path), _) => std::fs::read_to_string(path).at(path)?,
        (Some(query), ..) if query == "-" => {
            let mut text = String::new();
            io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| Error::io("stdin", error))?;
            text
        }
        (Some(query), ..) => query.clone(),
        (None, None, None) => {
            let history =
                std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".fuselm_history"));
            return query::repl(&session, command.max_rows, history.as_deref());
        }
    };
    if command.explain {
        return print(&session.explain(&statement, &params)?);
    }
    write(command, session.stream(&statement, &params)?)
}

fn write(command: &Command, batches: Batches) -> Result<()> {
    let by_name = || command.output.as_deref().map(Format::of_file);
    let format = command.format.or_else(by_name).unwrap_or(Format::Table);
    match (&command.output, format) {
        (Some(path), Format::Parquet) => {
            let rows = query::save_parquet(batches, path)?;
            note(format!("{}: {} rows", path.display(), Count(rows)));
            Ok(())
        }
        (Some(path), format) => {
            let (pending, mut file) = fuselm::files::atomic::Pending::create(path)?;
            query::print(&batches.schema(), batches, format, 0, &mut file)?;
            pending.commit(&file)
        }
        (None, format) => {
            let mut out = io::stdout().lock();
            query::print(
                &batches.schema(),
                batches,
                format,
                command.max_rows,
                &mut out,
            )
        }
    }
}

fn list(catalogue: &Catalogue) -> String {
    let mut text = String::new();
    for group in query::Group::ALL {
        let scripts: Vec<_> = catalogue.group(group).collect();
        let width = scripts
            .iter()
            .map(|script| script.name.len())
            .max()
            .unwrap_or(0);
        let _ = writeln!(text, "{}", group.folder());
        for script in scripts {
            let _ = writeln!(text, "  {:width$}  {}", script.name, script.about);
        }
        text.push('\n');
    }
    text
}
