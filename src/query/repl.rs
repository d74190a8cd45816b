//! The interactive prompt: statements end with `;`, commands start with `\` or `.`.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

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
use super::statements::{is_blank, take_statement};
use crate::error::{Context, Error, Result, did_you_mean};
use crate::progress;
use crate::units::Elapsed;

/// The commands: what to type, what else means the same, what it does.
const COMMANDS: [(&str, &[&str], &str); 8] = [
    ("\\d", &[".tables"], "list the tables and views"),
    (
        "\\d NAME",
        &[".schema NAME"],
        "show the columns of a table or view",
    ),
    ("\\l", &[], "list the named queries"),
    ("\\r NAME [param=value]", &[], "run a named query"),
    ("\\x", &[".mode line"], "show each row as lines, and back"),
    (
        "\\timing",
        &[".timer on"],
        "say how long statements take, and back",
    ),
    ("\\?", &["help", ".help"], "show this help"),
    ("\\q", &["exit", "quit", ".exit", ".quit"], "leave"),
];

/// What the prompt does after a line.
#[derive(Debug, PartialEq, Eq)]
enum Then {
    Read,
    ReadMore,
    Leave,
}

/// A session at the prompt.
struct Prompt<'a> {
    session: &'a Session,
    /// What is typed of a statement.
    buffer: String,
    max_rows: usize,
    format: Format,
    timer: bool,
}

/// Reads statements from the terminal, or from what is piped to it, and prints their results until
/// the user leaves. At most `max_rows` rows of each are shown (0: all). Lines are kept in the file
/// `history` where one is given.
///
/// # Errors
/// If the terminal cannot be used. Wrong statements are reported and do not end it; Ctrl-C cancels
/// the statement that runs. Where no one sits at a terminal, wrong statements are an error at the end.
pub fn repl(session: &Session, max_rows: usize, history: Option<&Path>) -> Result<()> {
    let during = || "reading from the terminal".to_owned();
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .build();
    let mut editor: Editor<Names, DefaultHistory> = Editor::with_config(config).during(during)?;
    editor.set_helper(Some(names(session)?));
    let terminal = std::io::stdin().is_terminal();
    let history = history.filter(|_| terminal);
    if let Some(path) = history {
        // There is none the first time.
        let _ = editor.load_history(path);
    }
    if terminal {
        progress::note("statements end with `;`; `\\?` shows the commands, `\\q` leaves");
    }
    let mut prompt = Prompt::new(session, max_rows);
    let mut failed = 0;
    let mut then = Then::Read;
    let mut ended = false;
    while then != Then::Leave && !ended {
        let sign = if then == Then::ReadMore {
            "   ...> "
        } else {
            "fuselm> "
        };
        let line = match editor.readline(sign) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                prompt.buffer.clear();
                then = Then::Read;
                continue;
            }
            Err(ReadlineError::Eof) if terminal || is_blank(&prompt.buffer) => break,
            // What is piped may lack the last `;`.
            Err(ReadlineError::Eof) => {
                ended = true;
                ";".to_owned()
            }
            Err(error) => return Err(error).during(during),
        };
        if !line.trim().is_empty() {
            let _ = editor.add_history_entry(line.as_str());
        }
        let mut out = std::io::stdout().lock();
        then = prompt.step(&line, &mut out).unwrap_or_else(|error| {
            prompt.buffer.clear();
            match error {
                Error::Interrupted => {
                    progress::forget_interrupt();
                    progress::note("the statement was cancelled");
                }
                error => progress::warn(error.to_string()),
            }
            failed += 1;
            Then::Read
        });
        if ended && then == Then::ReadMore {
            progress::warn("the last statement ends within a string or comment");
            failed += 1;
        }
    }
    if let Some(path) = history
        && let Err(error) = editor.save_history(path)
    {
        progress::warn(format!("{}: {error}", path.display()));
    }
    match failed {
        0 => Ok(()),
        _ if terminal => Ok(()),
        1 => Err(Error::usage("a statement failed")),
        _ => Err(Error::usage(format!("{failed} statements failed"))),
    }
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
    names.functions = session.functions();
    Ok(names)
}

/// The columns of a table or view.
fn columns(session: &Session, table: &str) -> Result<SchemaRef> {
    let sql = format!("SELECT * FROM \"{table}\" LIMIT 0");
    Ok(session.stream(&sql, &Params::new())?.schema())
}

impl<'a> Prompt<'a> {
    fn new(session: &'a Session, max_rows: usize) -> Self {
        Self {
            session,
            buffer: String::new(),
            max_rows,
            format: Format::Table,
            timer: false,
        }
    }

    /// Takes one more line, and runs the statements that it ends.
    fn step(&mut self, line: &str, out: &mut dyn Write) -> Result<Then> {
        let trimmed = line.trim();
        if self.buffer.is_empty() {
            let first = trimmed.split_whitespace().next().unwrap_or_default();
            let word = trimmed.trim_end_matches(';').to_lowercase();
            let is_word = matches!(word.as_str(), "help" | "exit" | "quit");
            if is_word {
                return self.command(&word, out);
            }
            if first.starts_with(['\\', '.']) {
                return self.command(trimmed.trim_end_matches(';'), out);
            }
        }
        self.buffer.push_str(line);
        self.buffer.push('\n');
        let buffer = &mut self.buffer;
        let statements: Vec<String> = std::iter::from_fn(|| take_statement(buffer)).collect();
        let more = !is_blank(buffer);
        if !more {
            buffer.clear();
        }
        for sql in statements {
            let started = Instant::now();
            let params = Params::new();
            self.session
                .print(&sql, &params, self.format, self.max_rows, out)?;
            self.say_time(started);
        }
        Ok(if more { Then::ReadMore } else { Then::Read })
    }

    fn say_time(&self, started: Instant) {
        if self.timer {
            progress::note(format!("({})", Elapsed(started.elapsed())));
        }
    }

    fn command(&mut self, line: &str, out: &mut dyn Write) -> Result<Then> {
        let mut words = line.split_whitespace();
        let (name, first) = (words.next().unwrap_or_default(), words.next());
        match (name, first) {
            ("\\q" | "exit" | "quit" | ".exit" | ".quit", _) => return Ok(Then::Leave),
            ("\\?" | "help" | ".help", _) => {
                let row = |(command, others, does): (&str, &[&str], &str)| {
                    let also = others.join(", ");
                    let command = match also.is_empty() {
                        true => command.to_owned(),
                        false => format!("{command} ({also})"),
                    };
                    (command, does.to_owned())
                };
                pairs("command", "does", &COMMANDS.map(row), out)?;
            }
            ("\\d" | ".tables", None) => self.list_tables(out)?,
            ("\\d" | ".schema", Some(table)) => self.describe(table, out)?,
            ("\\l", _) => {
                let queries = self.session.catalogue().group(Group::Queries);
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
                let started = Instant::now();
                let batches = self.session.stream_named(query, &params)?;
                print(&batches.schema(), batches, self.format, self.max_rows, out)?;
                self.say_time(started);
            }
            ("\\r", None) => {
                return Err(
                    Error::usage("`\\r` needs the name of a query").remedy("`\\l` lists them")
                );
            }
            ("\\x" | ".mode", None | Some("on" | "off" | "line" | "table")) => {
                self.format = match (first, self.format) {
                    (Some("on" | "line"), _) | (None, Format::Table) => Format::Line,
                    _ => Format::Table,
                };
                progress::note(match self.format {
                    Format::Line => "each row is shown as lines",
                    _ => "rows are shown as a table",
                });
            }
            ("\\timing" | ".timer", None | Some("on" | "off")) => {
                self.timer = first.map_or(!self.timer, |word| word == "on");
            }
            _ => {
                return Err(Error::usage(format!("no command is called `{line}`"))
                    .remedy("`\\?` shows the commands"));
            }
        }
        Ok(Then::Read)
    }

    fn list_tables(&self, out: &mut dyn Write) -> Result<()> {
        let catalogue = self.session.catalogue();
        let about = |name: &str| {
            [Group::Tables, Group::Views]
                .iter()
                .find_map(|group| catalogue.group(*group).find(|s| s.name == name))
                .map_or(String::new(), |script| script.about.clone())
        };
        let tables = self.session.tables();
        let rows: Vec<_> = tables.into_iter().map(|t| (t.clone(), about(&t))).collect();
        pairs("name", "holds", &rows, out)
    }

    fn describe(&self, table: &str, out: &mut dyn Write) -> Result<()> {
        let tables = self.session.tables();
        if !tables.iter().any(|known| known == table) {
            let remedy = did_you_mean(table, tables.iter().map(String::as_str));
            return Err(
                Error::usage(format!("no table or view is called `{table}`"))
                    .remedy(remedy.unwrap_or_else(|| "`\\d` lists them".into())),
            );
        }
        let rows: Vec<_> = columns(self.session, table)?
            .fields()
            .iter()
            .map(|f| (f.name().clone(), f.data_type().to_string()))
            .collect();
        pairs("column", "type", &rows, out)
    }
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
        let mut prompt = Prompt::new(&session, 40);
        let mut say = |line: &str| {
            let mut out = Vec::new();
            let then = prompt.step(line, &mut out);
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
        assert!(say("\\y").0.is_err());
        assert!(say("HELP;").1.contains("leave"));
        assert!(say(".tables").1.contains("topk "));
        assert_eq!(
            say("SELECT 1 AS a; SELECT ';' AS b; -- done")
                .1
                .lines()
                .count(),
            8
        );
        assert_eq!(say("-- only this").0.unwrap(), Then::Read);
        assert_eq!(say("/* a").0.unwrap(), Then::ReadMore);
        assert_eq!(say("; */").0.unwrap(), Then::Read);
        say("\\x").0.unwrap();
        assert_eq!(
            say("SELECT 1 AS a, 'b' AS long;").1,
            "-- row 1\na     1\nlong  b\n(1 row)\n"
        );
        say(".mode table").0.unwrap();
        let plan = say("EXPLAIN SELECT 1;").1;
        assert!(plan.contains("\nlogical_plan\n  Projection"), "{plan}");
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
        assert_eq!(say("exit").0.unwrap(), Then::Leave);
    }
}
