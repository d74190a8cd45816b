//! The interactive prompt: statements end with `;`, commands start with `\`.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{CompletionType, Config, Editor};

use super::catalogue::Group;
use super::complete::Names;
use super::format::{Format, print};
use super::session::{Params, Session};
use crate::error::{Context, Error, Result, did_you_mean};
use crate::progress;

/// The commands: what to type, what it does.
const COMMANDS: [(&str, &str); 6] = [
    ("\\d", "list the tables and views"),
    ("\\d NAME", "show the columns of a table or view"),
    ("\\l", "list the named queries"),
    ("\\r NAME [param=value]", "run a named query"),
    ("\\?", "show this help"),
    ("\\q", "leave"),
];

/// What the prompt does after a line.
#[derive(Debug, PartialEq, Eq)]
enum Then {
    Read,
    ReadMore,
    Leave,
}

/// Reads statements from the terminal and prints their results until the user leaves. At most
/// `max_rows` rows of each are shown (0: all). Lines are kept in the file `history` where one is
/// given.
///
/// # Errors
/// If the terminal cannot be used. Wrong statements are reported and do not end it; Ctrl-C cancels
/// the statement that runs.
pub fn repl(session: &Session, max_rows: usize, history: Option<&Path>) -> Result<()> {
    let during = || "reading from the terminal".to_owned();
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .build();
    let mut editor: Editor<Names, DefaultHistory> = Editor::with_config(config).during(during)?;
    editor.set_helper(Some(names(session)?));
    if let Some(path) = history {
        // There is none the first time.
        let _ = editor.load_history(path);
    }
    progress::note("statements end with `;`; `\\?` shows the commands, `\\q` leaves");
    let mut buffer = String::new();
    let mut then = Then::Read;
    while then != Then::Leave {
        let prompt = if then == Then::ReadMore {
            "   ...> "
        } else {
            "fuselm> "
        };
        match editor.readline(prompt) {
            Ok(line) => {
                if !line.trim().is_empty() {
                    let _ = editor.add_history_entry(line.as_str());
                }
                let mut out = std::io::stdout().lock();
                then = match step(session, &mut buffer, &line, max_rows, &mut out) {
                    Ok(then) => then,
                    Err(Error::Interrupted) => {
                        progress::forget_interrupt();
                        progress::note("the statement was cancelled");
                        Then::Read
                    }
                    Err(error) => {
                        progress::warn(error.to_string());
                        Then::Read
                    }
                };
            }
            Err(ReadlineError::Interrupted) => {
                buffer.clear();
                then = Then::Read;
            }
            Err(ReadlineError::Eof) => then = Then::Leave,
            Err(error) => return Err(error).during(during),
        }
    }
    if let Some(path) = history
        && let Err(error) = editor.save_history(path)
    {
        progress::warn(format!("{}: {error}", path.display()));
    }
    Ok(())
}

/// What can be completed.
fn names(session: &Session) -> Result<Names> {
    let tables = session.tables();
    let mut names = Names::default();
    for table in &tables {
        let schema = columns(session, table)?;
        let fields = schema.fields().iter();
        names
            .columns
            .extend(fields.map(|field| field.name().clone()));
    }
    names.columns.sort();
    names.columns.dedup();
    names.tables = tables;
    let queries = session.catalogue().group(Group::Queries);
    names.queries = queries.map(|script| script.name.clone()).collect();
    Ok(names)
}

/// The columns of a table or view.
fn columns(session: &Session, table: &str) -> Result<SchemaRef> {
    let sql = format!("SELECT * FROM \"{table}\" LIMIT 0");
    Ok(session.stream(&sql, &Params::new())?.schema())
}

/// Takes one more line; `buffer` holds the statement so far.
fn step(
    session: &Session,
    buffer: &mut String,
    line: &str,
    max_rows: usize,
    out: &mut dyn Write,
) -> Result<Then> {
    let trimmed = line.trim();
    if buffer.is_empty() && trimmed.starts_with('\\') {
        return command(session, trimmed, max_rows, out);
    }
    if buffer.is_empty() && trimmed.is_empty() {
        return Ok(Then::Read);
    }
    buffer.push_str(line);
    buffer.push('\n');
    if !trimmed.ends_with(';') {
        return Ok(Then::ReadMore);
    }
    let sql = std::mem::take(buffer);
    session.print(&sql, &Params::new(), Format::Table, max_rows, out)?;
    Ok(Then::Read)
}

fn command(session: &Session, line: &str, max_rows: usize, out: &mut dyn Write) -> Result<Then> {
    let mut words = line.split_whitespace();
    let (name, first) = (words.next().unwrap_or_default(), words.next());
    match (name, first) {
        ("\\q", _) => return Ok(Then::Leave),
        ("\\?", _) => {
            let rows = COMMANDS.map(|(a, b)| (a.to_owned(), b.to_owned()));
            pairs("command", "does", &rows, out)?;
        }
        ("\\d", None) => {
            let catalogue = session.catalogue();
            let about = |name: &str| {
                [Group::Tables, Group::Views]
                    .iter()
                    .find_map(|group| catalogue.group(*group).find(|s| s.name == name))
                    .map_or(String::new(), |script| script.about.clone())
            };
            let tables = session.tables();
            let rows: Vec<_> = tables.into_iter().map(|t| (t.clone(), about(&t))).collect();
            pairs("name", "holds", &rows, out)?;
        }
        ("\\d", Some(table)) => {
            let tables = session.tables();
            if !tables.iter().any(|known| known == table) {
                let remedy = did_you_mean(table, tables.iter().map(String::as_str));
                return Err(
                    Error::usage(format!("no table or view is called `{table}`"))
                        .remedy(remedy.unwrap_or_else(|| "`\\d` lists them".into())),
                );
            }
            let rows: Vec<_> = columns(session, table)?
                .fields()
                .iter()
                .map(|f| (f.name().clone(), f.data_type().to_string()))
                .collect();
            pairs("column", "type", &rows, out)?;
        }
        ("\\l", _) => {
            let queries = session.catalogue().group(Group::Queries);
            let rows: Vec<_> = queries.map(|s| (s.name.clone(), s.about.clone())).collect();
            pairs("name", "answers", &rows, out)?;
        }
        ("\\r", Some(query)) => {
            let mut params = Params::new();
            for word in words {
                let (key, value) = word.split_once('=').ok_or_else(|| {
                    Error::usage(format!("`{word}` is no parameter")).remedy("write name=value")
                })?;
                params.insert(key.to_owned(), value.to_owned());
            }
            let batches = session.stream_named(query, &params)?;
            print(&batches.schema(), batches, Format::Table, max_rows, out)?;
        }
        ("\\r", None) => {
            return Err(Error::usage("`\\r` needs the name of a query").remedy("`\\l` lists them"));
        }
        _ => {
            return Err(Error::usage(format!("no command is called `{name}`"))
                .remedy("`\\?` shows the commands"));
        }
    }
    Ok(Then::Read)
}

/// Prints rows of two columns as any other result.
fn pairs(left: &str, right: &str, rows: &[(String, String)], out: &mut dyn Write) -> Result<()> {
    let column = |pick: fn(&(String, String)) -> &String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(pick)))
    };
    let batch = RecordBatch::try_from_iter([(left, column(|r| &r.0)), (right, column(|r| &r.1))])
        .during(|| "listing names".into())?;
    print(
        &batch.schema(),
        [Ok(batch)].into_iter(),
        Format::Table,
        0,
        out,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::RunDir;
    use crate::query::SessionOptions;

    #[test]
    fn statements_span_lines_and_commands_answer() {
        let dir = tempfile::tempdir().unwrap();
        let session = Session::open(&RunDir::new(dir.path()), &SessionOptions::default()).unwrap();
        let mut buffer = String::new();
        let mut say = |line: &str| {
            let mut out = Vec::new();
            let then = step(&session, &mut buffer, line, 40, &mut out);
            (then, String::from_utf8(out).unwrap())
        };
        assert_eq!(say("SELECT 1 + 1").0.unwrap(), Then::ReadMore);
        let (then, text) = say("AS two;");
        assert_eq!(then.unwrap(), Then::Read);
        assert_eq!(text, "two\n---\n  2\n(1 row)\n");
        assert!(say("\\d").1.contains("topk "));
        assert!(say("\\d steps").1.contains("valid_loss "));
        assert!(
            say("\\d stepz")
                .0
                .unwrap_err()
                .to_string()
                .contains("`steps`")
        );
        assert!(say("\\l").1.contains("eval_scoreboard"));
        assert!(say("\\r loss_curve every=2").1.contains("(0 rows)"));
        assert!(say("\\?").1.contains("leave"));
        assert!(say("\\x").0.is_err());
        assert!(say("SELEC 1;").0.is_err());
        // A view lasts as long as the session; nothing else is changed.
        say("CREATE VIEW seven AS SELECT 7 AS x;").0.unwrap();
        assert_eq!(say("SELECT * FROM seven;").1, "x\n-\n7\n(1 row)\n");
        say("DROP VIEW seven;").0.unwrap();
        for refused in [
            "INSERT INTO steps SELECT * FROM steps;",
            "DROP TABLE steps;",
        ] {
            assert!(
                say(refused)
                    .0
                    .unwrap_err()
                    .to_string()
                    .contains("only read")
            );
        }
        assert_eq!(say("\\q").0.unwrap(), Then::Leave);
    }
}
