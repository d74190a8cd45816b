//! A run in other hands: the blocks for Python, Polars and DuckDB in docs/run-folder.md, and the
//! scripts.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Output};

use parquet::basic::Encoding;
use parquet::file::metadata::ParquetMetaDataReader;
use serde_json::Value;

use super::program::{Workshop, parts};
use super::readme::{documentation, fenced};

/// A Python with the packages that the pages' blocks need; none, and a line that says so, where
/// there is no such Python. The one that `FUSELM_TEST_PYTHON` names must have them.
fn python() -> Option<String> {
    let named = std::env::var("FUSELM_TEST_PYTHON").ok();
    let python = named.clone().unwrap_or_else(|| "python3".to_owned());
    let probe = Command::new(&python)
        .args(["-c", "import duckdb, polars, pyarrow.dataset"])
        .output();
    let found = matches!(&probe, Ok(output) if output.status.success());
    if !found {
        assert!(named.is_none(), "FUSELM_TEST_PYTHON is {python}: {probe:?}");
        eprintln!("skipped: no Python with duckdb, polars and pyarrow");
    }
    found.then_some(python)
}

/// A run whose folder and sources have the names that the pages' blocks use.
fn quickstart() -> Workshop {
    let workshop = Workshop::new();
    let (old, new) = ("{ name: market, model", "{ name: sql, model");
    workshop.edit("recipe.yml", old, new);
    workshop
        .fuselm("run recipe.yml --run-dir runs/quickstart")
        .exits(0);
    workshop
}

fn said(output: Output, what: &str) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{what}\n{stdout}\n{stderr}");
    stdout
}

/// Runs a script in the workshop and returns the JSON that it prints last.
fn run_python(workshop: &Workshop, python: &str, script: &str) -> Value {
    let output = Command::new(python)
        .current_dir(workshop.path(""))
        .args(["-c", script])
        .output()
        .unwrap();
    let stdout = said(output, script);
    serde_json::from_str(stdout.lines().last().unwrap_or_default()).unwrap()
}

/// The rows of a statement as lists of values, from fuselm.
fn rows(workshop: &Workshop, statement: &str) -> Value {
    let rows = workshop.query("runs/quickstart", statement);
    let values = rows.iter().map(|row| {
        let values = row.as_object().unwrap().values().cloned();
        Value::Array(values.collect())
    });
    Value::Array(values.collect())
}

/// DuckDB 1.1, pyarrow 15 and fastparquet read these; integers with their bytes apart none of them.
#[test]
fn files_have_encodings_that_all_readers_know() {
    let workshop = quickstart();
    let (mut kinds, mut columns) = (BTreeSet::new(), 0);
    for path in parts(&workshop.path("runs/quickstart")) {
        let file = File::open(&path).unwrap();
        let metadata = ParquetMetaDataReader::new()
            .parse_and_finish(&file)
            .unwrap();
        for group in metadata.row_groups() {
            for column in group.columns() {
                columns += 1;
                for encoding in column.encodings() {
                    let known = matches!(
                        encoding,
                        Encoding::PLAIN
                            | Encoding::RLE
                            | Encoding::RLE_DICTIONARY
                            | Encoding::PLAIN_DICTIONARY
                            | Encoding::DELTA_BINARY_PACKED
                    );
                    let name = column.column_path();
                    assert!(known, "{} {name}: {encoding}", path.display());
                }
            }
        }
        let below = path.strip_prefix(workshop.path("runs/quickstart")).unwrap();
        kinds.insert(below.iter().next().unwrap().to_owned());
    }
    assert!(kinds.len() >= 12 && columns > 100, "{kinds:?}, {columns}");
}

/// Fails unless both are the same but for rounding, of f32 where there are floats.
#[track_caller]
fn assert_same(what: &str, found: &Value, expected: &Value) {
    match (found, expected) {
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{what}: {found}, expected {expected}");
            for (a, b) in a.iter().zip(b) {
                assert_same(what, a, b);
            }
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            let near = (a - b).abs() <= 1e-5 * b.abs().max(1.0);
            assert!(near, "{what}: {a}, expected {b}");
        }
        _ => assert_eq!(found, expected, "{what}"),
    }
}

/// What `duckdb` returns for a statement, as JSON.
const DUCKDB: &str = "
import duckdb, json
statements = STATEMENTS
connection = duckdb.connect()
for statement in statements[:-1]:
    connection.execute(statement)
print(json.dumps([list(row) for row in connection.execute(statements[-1]).fetchall()]))
";

fn duckdb(workshop: &Workshop, python: &str, statements: &[&str]) -> Value {
    let literal = Value::from(statements).to_string();
    run_python(workshop, python, &DUCKDB.replace("STATEMENTS", &literal))
}

#[test]
fn blocks_of_the_pages_run_and_agree_with_the_program() {
    let Some(python) = python() else { return };
    let workshop = quickstart();
    let text = documentation();
    let blocks = fenced(&text, "python");
    let [arrow, polars] = blocks[..] else {
        panic!("{} Python blocks, expected 2", blocks.len());
    };
    let found = run_python(
        &workshop,
        &python,
        &format!("{arrow}\nimport json\nprint(json.dumps([[table.num_rows]]))"),
    );
    let metrics = "SELECT count(*) FROM sequence_metrics WHERE teacher = 'sql'";
    assert_same("pyarrow", &found, &rows(&workshop, metrics));

    let all = "\nimport json\nprint(json.dumps([list(row) for row in \
               surprises.sort('token').collect().rows()]))";
    let found = run_python(&workshop, &python, &format!("{polars}{all}"));
    let surprises = "SELECT target AS token, avg(ce) AS ce, count(*) FROM token_ce \
                     WHERE teacher = 'sql' GROUP BY target ORDER BY target";
    assert_same("Polars", &found, &rows(&workshop, surprises));

    let blocks = fenced(&text, "sql");
    let [bpb, lists] = blocks[..] else {
        panic!("{} DuckDB blocks, expected 2", blocks.len());
    };
    let found = duckdb(&workshop, &python, &[bpb]);
    let expected = "SELECT teacher, sum(nll) / (ln(2) * sum(bytes)) AS bpb FROM sequence_metrics \
                    GROUP BY teacher ORDER BY bpb";
    assert_same("bits per byte", &found, &rows(&workshop, expected));
    let lists = lists.trim().trim_end_matches(';');
    let lists = format!(
        "SELECT sample_id, pos, ids, list_transform(probs, lambda p: ln(p)) AS logprobs, tail, \
         target_id, target_logprob FROM ({lists}) ORDER BY ALL LIMIT 50"
    );
    let found = duckdb(&workshop, &python, &[&lists]);
    // Rows of all models at a position, in the order of what they hold.
    let expected = "SELECT sample_id, pos, ids, logprobs, exp(tail_logprob) AS tail, target_id, \
                    target_logprob FROM topk ORDER BY 1, 2, 3, 4, 5, 6, 7 LIMIT 50";
    assert_same("lists", &found, &rows(&workshop, expected));
}

/// Statements that mean the same here and in DuckDB.
const SAME: [&str; 13] = [
    "SELECT count(*), min(source_pos - pos), max(source_pos - pos), avg(source_pos - pos) FROM alignment",
    "SELECT a.teacher, sum(b.tokens - a.tokens) FROM sequence_metrics AS a JOIN sequence_metrics AS b \
     ON a.sample_id = b.sample_id WHERE b.teacher = 'pivot' GROUP BY a.teacher ORDER BY a.teacher",
    "SELECT teacher, sum(tokens) / sum(bytes), sum(tokens) // 7 FROM sequence_metrics GROUP BY teacher ORDER BY teacher",
    "SELECT sum(array_length(byte_end)), min(byte_end[1] - byte_end[2]) FROM tokens",
    "SELECT teacher, sample_id, pos, target_id, target_rank, target_logprob, tail_logprob, ids, logprobs FROM topk \
     WHERE sample_id = 3 ORDER BY teacher, pos",
    "SELECT * FROM targets WHERE sample_id = 2 ORDER BY fusion, pos",
    "SELECT vocab, template, count(*), sum(first_pos - last_pos) FROM content_positions GROUP BY vocab, template ORDER BY vocab",
    "SELECT teacher, sample_id, nll, tokens, bytes, ce, bpb FROM sequence_ce ORDER BY teacher, sample_id",
    "SELECT teacher, sample_id, by_bpb - by_ce FROM sample_rank ORDER BY teacher, sample_id",
    "SELECT teacher, special, count(*), sum(ce), sum(tail) FROM token_ce GROUP BY teacher, special ORDER BY teacher, special",
    "SELECT teacher, better, projection, count(*), avg(projected_ce), avg(pivot_ce) FROM projection_ce \
     GROUP BY teacher, better, projection ORDER BY teacher, better, projection",
    "SELECT teacher, kind, positions, same_end_share FROM alignment_coverage ORDER BY teacher, kind",
    "SELECT teacher, max(count - edit_distance), min(rank - 2) FROM token_map GROUP BY teacher ORDER BY teacher",
];

#[test]
fn duckdb_sees_the_same_tables_and_views() {
    let Some(python) = python() else { return };
    let workshop = quickstart();
    let setup = workshop.fuselm("sql --run runs/quickstart --setup duckdb");
    let setup = setup.exits(0).stdout;
    for statement in SAME {
        let found = duckdb(&workshop, &python, &[&setup, statement]);
        assert_same(statement, &found, &rows(&workshop, statement));
    }
    let unsigned = "SELECT table_name, column_name, data_type FROM information_schema.columns \
                    WHERE data_type LIKE 'U%INT%' OR data_type LIKE '%UINTEGER%' \
                    OR data_type LIKE '%USMALLINT%' OR data_type LIKE '%UBIGINT%'";
    let found = duckdb(&workshop, &python, &[&setup, unsigned]);
    assert_eq!(found, Value::Array(Vec::new()));
}

/// The scripts say what they need before they look for anything else.
#[test]
fn scripts_say_what_they_need() {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    // Without the packages of any site: nothing but Python itself.
    let run = |name: &str, arguments: &[&str]| {
        Command::new("python3")
            .args(["-S", "-E"])
            .arg(scripts.join(name))
            .args(arguments)
            .output()
    };
    if run("check_families.py", &["--help"]).is_err() {
        eprintln!("skipped: no python3");
        return;
    }
    for (name, arguments, needs) in [
        ("check_transformers.py", &["run", "model"][..], "torch"),
        ("check_families.py", &["tokenizer", "text"], "torch"),
        ("check_mergekit_tokenizers.py", &["fuselm", "a"], "mergekit"),
    ] {
        said(run(name, &["--help"]).unwrap(), name);
        let output = run(name, arguments).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{name}: {stderr}");
        let named = stderr.contains("-m pip install") && stderr.contains(needs);
        assert!(named && !stderr.contains("Traceback"), "{name}: {stderr}");
    }
}
