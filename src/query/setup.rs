//! The tables and views of a run as statements for other programs.

use std::fmt::Write as _;
use std::path::Path;

use super::catalogue::{Catalogue, Group};
use super::functions::written_out;
use crate::artifact::RunDir;
use crate::error::{Context, Error, Result};

/// A program that reads SQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// `datafusion-cli`.
    Datafusion,
    /// DuckDB.
    Duckdb,
}

/// Statements that make the artifacts of `run` known to `engine` under the names that they have
/// here, and the views over them. Kinds that the run does not have are left out, and views that
/// read them.
///
/// # Errors
/// A path that is not valid UTF-8 cannot be written as SQL.
pub fn setup(run: &RunDir, catalogue: &Catalogue, engine: Engine) -> Result<String> {
    let root = std::path::absolute(run.root()).at(run.root())?;
    let root = quotable(&root)?;
    let mut text = String::new();
    let mut known: Vec<&str> = Vec::new();
    for table in catalogue.group(Group::Tables) {
        let name = table.name.as_str();
        let folder = folder(&table.sql);
        if !run.root().join(folder).is_dir() {
            continue;
        }
        known.push(name);
        let statement = match engine {
            Engine::Datafusion => table.statement().replace("${RUN}", &root),
            Engine::Duckdb => format!(
                "CREATE OR REPLACE VIEW {name} AS\nSELECT *{} FROM read_parquet('{root}/{folder}/**/part-*.parquet', hive_partitioning = true);",
                signed(&table.sql)
            ),
        };
        let _ = writeln!(text, "{statement}\n");
    }
    for view in catalogue.group(Group::Views) {
        if view.reads.split(", ").all(|read| known.contains(&read)) {
            known.push(&view.name);
            let statement = written_out(view.statement(), catalogue.group(Group::Functions));
            let statement = match engine {
                Engine::Datafusion => statement,
                Engine::Duckdb => in_duckdb(&statement),
            };
            let _ = writeln!(text, "{statement}\n");
        }
    }
    Ok(text)
}

/// What DuckDB says otherwise in our views.
const DUCKDB: [(&str, &str); 6] = [
    ("array_sum", "list_sum"),
    ("array_max", "list_max"),
    ("x -> ", "lambda x: "),
    ("i -> ", "lambda i: "),
    ("b -> ", "lambda b: "),
    ("c -> ", "lambda c: "),
];

fn in_duckdb(sql: &str) -> String {
    let replace = |sql: String, (ours, theirs): &(&str, &str)| sql.replace(ours, theirs);
    DUCKDB.iter().fold(sql.to_owned(), replace)
}

/// A table declares its whole numbers as signed, the files hold them unsigned: the casts between
/// the two, as DuckDB writes them after `*`.
fn signed(table: &str) -> String {
    let columns = table.lines().filter_map(|line| {
        let (name, kind) = line.strip_prefix("    ")?.split_once(' ')?;
        let kind = kind.trim().trim_end_matches(',');
        kind.contains("INT")
            .then(|| format!("CAST({name} AS {kind}) AS {name}"))
    });
    match columns.collect::<Vec<_>>().join(", ") {
        casts if casts.is_empty() => casts,
        casts => format!(" REPLACE ({casts})"),
    }
}

/// The folder of a table in a run.
fn folder(sql: &str) -> &str {
    let rest = sql.split_once("'${RUN}/").map_or("", |(_, rest)| rest);
    rest.split_once("/'").map_or(rest, |(folder, _)| folder)
}

/// A path as the content of a SQL string.
fn quotable(path: &Path) -> Result<String> {
    let text = path.to_str();
    let text = text.ok_or_else(|| Error::file(path, "its name is not valid UTF-8"))?;
    Ok(text.replace('\'', "''"))
}
