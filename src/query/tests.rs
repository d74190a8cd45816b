//! Every table, view, query and check on a small run whose figures are computed by hand.

mod absent;
mod checks;
mod depth;
mod files;
mod fixture;
mod functions;
mod inspecting;
mod numbers;
mod queries;
mod transform;

use super::*;
use crate::artifact::RunDir;

/// The files of the working tree, so that a change to one needs no new build.
fn options() -> SessionOptions {
    SessionOptions {
        sql_dir: Some(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("sql")),
        threads: 2,
        ..Default::default()
    }
}

fn session(dir: &std::path::Path) -> Session {
    Session::open(&RunDir::new(dir), &options()).unwrap()
}

fn params(pairs: &[(&str, &str)]) -> Params {
    let own = |(a, b): &(&str, &str)| ((*a).to_owned(), (*b).to_owned());
    pairs.iter().map(own).collect()
}

/// The rows of a result as a table shows them, cells separated by one space.
fn rows(batches: Batches) -> Vec<String> {
    let mut out = Vec::new();
    print(&batches.schema(), batches, Format::Table, 0, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let mut lines: Vec<String> = text
        .lines()
        .skip(2)
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    lines.pop();
    lines
}
