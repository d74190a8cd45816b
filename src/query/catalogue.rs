//! The files of `sql/`: one file, one statement, one name, and a header that says what it is.
//!
//! ```sql
//! -- about: one line, what the result is
//! -- reads: the tables and views it reads, with commas
//! -- returns: the columns, in words
//! -- param: name = default — meaning        (any number of them; `$name` in the statement)
//! SELECT …;
//! ```

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::error::{Context, Error, Result, did_you_mean};

/// The folder of `sql/` that a file lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// What views call to decode lists: here in Rust, in other programs as their text says.
    Functions,
    /// External tables, one per artifact kind.
    Tables,
    /// Views, in the order of the numbers in their file names.
    Views,
    /// Questions that users ask.
    Queries,
    /// Statements whose result is itself an artifact.
    Transforms,
    /// Statements that return no row when all is well.
    Checks,
}

impl Group {
    /// Every group, in the order in which they build on each other.
    pub const ALL: [Group; 6] = [
        Group::Functions,
        Group::Tables,
        Group::Views,
        Group::Queries,
        Group::Transforms,
        Group::Checks,
    ];

    /// Name of the folder.
    pub const fn folder(self) -> &'static str {
        match self {
            Group::Functions => "functions",
            Group::Tables => "tables",
            Group::Views => "views",
            Group::Queries => "queries",
            Group::Transforms => "transforms",
            Group::Checks => "checks",
        }
    }
}

/// A parameter of a statement: `$name` in its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name.
    pub name: String,
    /// Its value unless another is given; also says what type it is: a whole number, a number
    /// with a point, or text (in single quotes in the header, without them here).
    pub default: String,
    /// Whether the default is text.
    pub text: bool,
    /// What it means.
    pub meaning: String,
}

/// One file of `sql/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The folder it lies in.
    pub group: Group,
    /// File name without `.sql`: `10_token_ce`.
    pub file: String,
    /// Its name in SQL and on the command line: `token_ce`.
    pub name: String,
    /// What the result is.
    pub about: String,
    /// Tables and views it reads.
    pub reads: String,
    /// The columns, in words.
    pub returns: String,
    /// Its parameters.
    pub params: Vec<Param>,
    /// The whole file.
    pub sql: String,
}

impl Script {
    /// Parses the header of a file; `subject` is how messages name it.
    pub fn parse(group: Group, file: &str, sql: &str, subject: &str) -> Result<Self> {
        let mut script = Script {
            group,
            file: file.to_owned(),
            name: without_number(file).to_owned(),
            about: String::new(),
            reads: String::new(),
            returns: String::new(),
            params: Vec::new(),
            sql: sql.to_owned(),
        };
        for (number, line) in sql.lines().enumerate() {
            let Some(comment) = line.strip_prefix("-- ") else {
                continue;
            };
            let Some((key, value)) = comment.split_once(": ") else {
                continue;
            };
            match key {
                "about" => script.about = value.to_owned(),
                "reads" => script.reads = value.to_owned(),
                "returns" => script.returns = value.to_owned(),
                "param" => {
                    let param = parse_param(value).ok_or_else(|| {
                        Error::input(
                            format!("{subject} line {}", number + 1),
                            "cannot read this parameter",
                        )
                        .remedy("write `-- param: name = default — meaning`, text in single quotes")
                    })?;
                    script.params.push(param);
                }
                _ => {}
            }
        }
        if script.about.is_empty() {
            return Err(Error::input(subject, "has no header line `-- about:`")
                .remedy("say in its first line what the statement returns"));
        }
        Ok(script)
    }

    /// The file without its header.
    pub fn statement(&self) -> &str {
        let mut rest = self.sql.as_str();
        while rest.starts_with("--") {
            rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
        }
        rest.trim_end()
    }
}

/// `10_token_ce` → `token_ce`.
fn without_number(file: &str) -> &str {
    match file.split_once('_') {
        Some((number, rest)) if number.bytes().all(|b| b.is_ascii_digit()) => rest,
        _ => file,
    }
}

fn parse_param(line: &str) -> Option<Param> {
    let (name, rest) = line.split_once('=')?;
    let (default, meaning) = rest.split_once('—')?;
    let (name, default) = (name.trim(), default.trim());
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(word) {
        return None;
    }
    let text = default
        .strip_prefix('\'')
        .and_then(|rest| rest.strip_suffix('\''));
    if text.is_none() && default.parse::<f64>().is_err() {
        return None;
    }
    Some(Param {
        name: name.to_owned(),
        default: text.unwrap_or(default).to_owned(),
        text: text.is_some(),
        meaning: meaning.trim().to_owned(),
    })
}

/// The files of `sql/` as parts of the program (`build.rs` lists them): group, file name without
/// `.sql`, text.
const FILES: &[(Group, &str, &str)] = include!(concat!(env!("OUT_DIR"), "/sql.rs"));

/// The files of `sql/` that a session uses.
#[derive(Clone, Debug)]
pub struct Catalogue {
    scripts: Vec<Script>,
}

impl Catalogue {
    /// The files that are part of the program; those in `sql_dir` (`views/`, `queries/`,
    /// `checks/` in it) replace the ones of the same name and are added otherwise.
    ///
    /// # Errors
    /// If `sql_dir` cannot be read, has none of these folders, or a file has no header.
    pub fn load(sql_dir: Option<&Path>) -> Result<Self> {
        let mut scripts = FILES
            .iter()
            .map(|(group, file, sql)| Script::parse(*group, file, sql, file))
            .collect::<Result<Vec<_>>>()?;
        if let Some(dir) = sql_dir {
            let mut folders = 0;
            for group in [Group::Views, Group::Queries, Group::Checks] {
                let folder = dir.join(group.folder());
                if !folder.is_dir() {
                    continue;
                }
                folders += 1;
                for script in read_folder(&folder, group)? {
                    let same = |old: &&mut Script| old.group == group && old.name == script.name;
                    match scripts.iter_mut().find(same) {
                        Some(old) => *old = script,
                        None => scripts.push(script),
                    }
                }
            }
            if folders == 0 {
                return Err(
                    Error::file(dir, "has no folder `views`, `queries` or `checks`")
                        .remedy("put the SQL files of each group into its folder"),
                );
            }
        }
        scripts.sort_by(|a, b| (a.group, &a.file).cmp(&(b.group, &b.file)));
        Ok(Self { scripts })
    }

    /// The files of a group, by file name.
    pub fn group(&self, group: Group) -> impl Iterator<Item = &Script> {
        self.scripts.iter().filter(move |s| s.group == group)
    }

    /// The file called `name`: a query, else a check or a transform.
    ///
    /// # Errors
    /// [`Error::Usage`] that names the nearest known one.
    pub fn named(&self, name: &str) -> Result<&Script> {
        let runnable = [Group::Queries, Group::Checks, Group::Transforms];
        runnable
            .iter()
            .find_map(|group| self.group(*group).find(|s| s.name == name))
            .ok_or_else(|| {
                let known = runnable.iter().flat_map(|group| self.group(*group));
                let remedy = did_you_mean(name, known.map(|s| s.name.as_str()))
                    .unwrap_or_else(|| "`--list` shows them all".to_owned());
                Error::usage(format!("no query is called `{name}`")).remedy(remedy)
            })
    }

    /// The text of `sql/README.md`.
    pub fn markdown(&self) -> String {
        let mut text = String::from(README_HEAD);
        for group in Group::ALL {
            let folder = group.folder();
            let _ = write!(text, "\n## {folder}\n\n{}\n\n", describe(group));
            text.push_str(
                "| name | what | reads | returns | parameters |\n|---|---|---|---|---|\n",
            );
            for script in self.group(group) {
                let params: Vec<String> = script
                    .params
                    .iter()
                    .map(|p| {
                        let default = match p.text {
                            true => format!("'{}'", p.default),
                            false => p.default.clone(),
                        };
                        format!("`{} = {default}` {}", p.name, p.meaning)
                    })
                    .collect();
                let _ = writeln!(
                    text,
                    "| [`{}`]({folder}/{}.sql) | {} | {} | {} | {} |",
                    script.name,
                    script.file,
                    cell(&script.about),
                    cell(&script.reads),
                    cell(&script.returns),
                    cell(&params.join("; "))
                );
            }
        }
        text
    }
}

/// The text of `sql/README.md` for the files that are part of the program.
pub fn catalogue_markdown() -> Result<String> {
    Ok(Catalogue::load(None)?.markdown())
}

const README_HEAD: &str = "\
# SQL over a run

Generated from the headers of the files here; a test compares. All files are embedded in the
program. `fuselm sql --run RUN --name NAME` runs a query, `fuselm check RUN` all checks;
`--sql-dir DIR` replaces or adds files of `views/`, `queries/` and `checks/`. Logarithms are
natural, so cross-entropies are in nats; `bpb` is bits per byte. Parameters are `$name` in the
statements and `--param name=value` on the command line.
";

const fn describe(group: Group) -> &'static str {
    match group {
        Group::Functions => {
            "What views call to decode lists. The program has them in Rust, linear in a list's \
             length; the files say what they compute, and `--setup` writes them out for other programs."
        }
        Group::Tables => {
            "One table per artifact kind; empty where the run has none. The columns after the \
             artifact's own (teacher, vocab, template, fusion, target, merge, model) are the \
             names in its folders."
        }
        Group::Views => "Views that queries and users build on.",
        Group::Queries => "Questions that users ask.",
        Group::Transforms => "Statements whose result is itself an artifact.",
        Group::Checks => {
            "What must not be: no row when all is well. All return the columns check, level \
             (error or warning), artifact, sample_id, detail, value."
        }
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

fn read_folder(folder: &Path, group: Group) -> Result<Vec<Script>> {
    let mut scripts = Vec::new();
    for entry in fs::read_dir(folder).at(folder)? {
        let path = entry.at(folder)?.path();
        if path.extension().is_none_or(|e| e != "sql") {
            continue;
        }
        let file = path.file_stem().unwrap_or_default().to_string_lossy();
        let sql = fs::read_to_string(&path).at(&path)?;
        let subject = path.display().to_string();
        scripts.push(Script::parse(group, &file, &sql, &subject)?);
    }
    Ok(scripts)
}
