//! What is not known is NULL: taking a part of a run away never gives a figure another value.

use std::fs;

use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::fixture::*;
use super::*;
use crate::artifact::Kind;

/// The cells of a result, as text.
fn cells(batches: Batches) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let batch = batch.unwrap();
        let columns = batch.columns().iter();
        let columns = columns.map(|column| ArrayFormatter::try_new(column, &options).unwrap());
        let columns: Vec<ArrayFormatter<'_>> = columns.collect();
        rows.extend((0..batch.num_rows()).map(|row| {
            let cells = columns.iter().map(|column| column.value(row).to_string());
            cells.collect::<Vec<_>>()
        }));
    }
    rows
}

/// Name and rows of every view and query.
fn everything(session: &Session) -> Vec<(String, Vec<Vec<String>>)> {
    let catalogue = session.catalogue();
    let views = catalogue.group(Group::Views).map(|view| {
        let all = format!("SELECT * FROM {}", view.name);
        let found = session.stream(&all, &Params::new()).unwrap();
        (view.name.clone(), cells(found))
    });
    let queries = catalogue.group(Group::Queries).map(|query| {
        let found = session.stream_script(query, &Params::new()).unwrap();
        (query.name.clone(), cells(found))
    });
    views.chain(queries).collect()
}

fn models(run: &RunDir, rows: &[(&str, &str, &str)]) {
    let names: Vec<&str> = rows.iter().map(|row| row.0).collect();
    let roles: Vec<&str> = rows.iter().map(|row| row.1).collect();
    let vocabularies: Vec<&str> = rows.iter().map(|row| row.2).collect();
    let columns = vec![
        texts(&names),
        texts(&roles),
        texts(&vocabularies),
        texts(&names),
        texts(&names),
        texts(&names),
        u64s(&vec![1; rows.len()]),
    ];
    write(run, Kind::Models, &[], 0, columns);
}

/// A way to take something away from the fixture.
struct Removal {
    what: String,
    remove: Box<dyn Fn(&RunDir)>,
}

fn removals() -> Vec<Removal> {
    let kinds = Kind::ALL.iter().map(|kind| kind.to_string());
    let partitions = [
        "topk/teacher=p",
        "topk/teacher=s",
        "sequence_metrics/teacher=p",
        "sequence_metrics/teacher=s",
        "vocab/vocab=pv",
        "vocab/vocab=sv",
        "tokens/vocab=pv",
        "tokens/vocab=sv",
    ];
    let folders = kinds.chain(partitions.map(str::to_owned));
    let mut all: Vec<Removal> = folders
        .map(|folder| Removal {
            what: folder.clone(),
            remove: Box::new(move |run| {
                fs::remove_dir_all(run.root().join(&folder)).unwrap();
            }),
        })
        .collect();
    let mut add = |what: &str, remove: Box<dyn Fn(&RunDir)>| {
        all.push(Removal {
            what: what.to_owned(),
            remove,
        });
    };
    let (pivot, source) = (("p", "pivot", "pv"), ("s", "source", "sv"));
    add("all models", Box::new(|run| models(run, &[])));
    add(
        "the source's row",
        Box::new(move |run| models(run, &[pivot])),
    );
    add(
        "the pivot's row",
        Box::new(move |run| models(run, &[source])),
    );
    add(
        "models and vocabularies",
        Box::new(|run| {
            models(run, &[]);
            fs::remove_dir_all(run.root().join("vocab")).unwrap();
        }),
    );
    all
}

#[test]
fn what_is_taken_away_becomes_null_in_every_view_and_query() {
    let dir = tempfile::tempdir().unwrap();
    let whole = RunDir::new(dir.path().join("whole"));
    write_run(&whole);
    let whole = everything(&session(whole.root()));
    for (name, rows) in &whole {
        let quiet = ["metric_disagreements", "compare_runs", "model_differences"];
        let expected = quiet.contains(&name.as_str());
        assert!(!rows.is_empty() || expected, "{name} shows nothing");
    }
    for (index, removal) in removals().iter().enumerate() {
        let run = RunDir::new(dir.path().join(index.to_string()));
        write_run(&run);
        (removal.remove)(&run);
        let found = everything(&session(run.root()));
        for ((name, rows), (_, known)) in found.iter().zip(&whole) {
            for row in rows {
                let same = |known: &Vec<String>| {
                    let mut pairs = row.iter().zip(known);
                    pairs.all(|(found, known)| found == known || found == "NULL")
                };
                assert!(
                    known.iter().any(same),
                    "without {}, {name} says {row:?}, which is not in {known:#?}",
                    removal.what
                );
            }
        }
    }
}

fn run_without(part: &str, test: impl FnOnce(&Session)) {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    write_run(&run);
    fs::remove_dir_all(run.root().join(part)).unwrap();
    test(&session(dir.path()));
}

fn sql(session: &Session, statement: &str) -> Vec<String> {
    rows(session.stream(statement, &Params::new()).unwrap())
}

fn named(session: &Session, name: &str) -> Vec<String> {
    rows(session.stream_named(name, &Params::new()).unwrap())
}

#[test]
fn without_models_nobody_is_better_than_the_pivot() {
    run_without("models", |s| {
        assert_eq!(
            named(s, "projection_quality"),
            [
                "s NULL same_end 2 0.666667 0.5 0.5 0.624186 NULL NULL NULL 0.837402 NULL NULL",
                "s NULL one_hot 1 0.333333 1 1 1 NULL NULL NULL 0 NULL NULL",
            ]
        );
        assert_eq!(
            sql(s, "SELECT DISTINCT special FROM token_ce"),
            ["NULL"],
            "whether a token is special"
        );
        assert_eq!(
            sql(
                s,
                "SELECT teacher, nll, tokens, bytes, ce, bpb FROM sequence_ce \
                 WHERE sample_id = 0 ORDER BY teacher"
            ),
            ["p NULL NULL 3 NULL NULL", "s NULL NULL 3 NULL NULL"]
        );
        // What cannot be checked is said, and nothing else.
        for finding in run_checks(s, 0).unwrap() {
            assert_eq!(finding.level, Level::Warning, "{finding:?}");
            assert!(finding.detail.contains("not compared"), "{finding:?}");
        }
    });
    run_without("sequence_metrics/teacher=p", |s| {
        let better = "SELECT DISTINCT better FROM projection_ce";
        assert_eq!(sql(s, better), ["NULL"]);
        // The only model that was scored has not won.
        assert_eq!(named(s, "teacher_win_rate"), ["s 2 1 NULL NULL NULL NULL"]);
    });
    run_without("topk/teacher=p", |s| {
        let known = "SELECT COUNT(*), COUNT(better), COUNT(pivot_ce) FROM projection_ce";
        assert_eq!(sql(s, known), ["3 3 0"]);
    });
}

#[test]
fn a_token_that_is_not_known_is_not_left_out_of_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    write_run(&run);
    let mut columns = alignment();
    // 9 is beyond the vocabulary.
    columns[4] = u32s(&[2, 2, 2, 0, 1]);
    columns[5] = lists_u32(&[&[0, 9], &[1], &[1], &[], &[0]]);
    write(&run, Kind::Alignment, &["s"], 2, columns);
    assert_eq!(
        named(&session(dir.path()), "aligned_tokens")[0],
        "s 0 1-1 <s> NULL 0 2 0"
    );
}

#[test]
fn a_tie_has_a_winner_only_where_the_pivot_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    write_run(&run);
    let metrics = |name: &str, nll: [f64; 2]| {
        let columns = vec![u64s(&[0, 1]), f64s(&nll), u32s(&[2, 1]), u32s(&[3, 1])];
        write(&run, Kind::SequenceMetrics, &[name], 2, columns);
    };
    metrics("p", [1.0, 1.0]);
    metrics("s", [1.0, 2.0]);
    let wins = |s: &Session| {
        let ranks = "SELECT teacher, sample_id, by_bpb, by_ce FROM sample_rank ORDER BY 1, 2";
        (sql(s, ranks), named(s, "teacher_win_rate"))
    };
    let (ranks, rates) = wins(&session(dir.path()));
    assert_eq!(ranks, ["p 0 1 1", "p 1 1 1", "s 0 2 2", "s 1 2 2"]);
    assert_eq!(rates, ["p 2 0.721348 2 2 2 1", "s 2 1.08202 0 0 0 0"]);
    fs::remove_dir_all(run.root().join("models")).unwrap();
    let (ranks, rates) = wins(&session(dir.path()));
    assert_eq!(
        ranks,
        ["p 0 NULL NULL", "p 1 1 1", "s 0 NULL NULL", "s 1 2 2"]
    );
    assert_eq!(
        rates,
        [
            "p 2 0.721348 NULL NULL NULL NULL",
            "s 2 1.08202 NULL NULL NULL NULL"
        ]
    );
}

/// Positions without a row of the pivot count on neither side of the comparison.
#[test]
fn projection_and_pivot_are_compared_at_the_same_positions() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    write_run(&run);
    let row = |at: usize| -> Vec<arrow::array::ArrayRef> {
        let columns = topk_of_pivot().into_iter();
        columns.map(|column| column.slice(at, 1)).collect()
    };
    write_topk(&run, "p", row(0));
    assert_eq!(
        named(&session(dir.path()), "projection_quality"),
        [
            "s true same_end 2 0.666667 0.5 0.5 0.624186 NULL NULL NULL 0.288086 0.693359 0.405273",
            "s false one_hot 1 0.333333 1 1 1 NULL NULL NULL 0 NULL NULL",
        ]
    );
}

#[test]
fn content_is_told_by_its_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    write_run(&run);
    // `abc` has two bytes of content and closes its turn with the third; `a` is spelt by </s>.
    let columns = vec![
        u64s(&[0, 1]),
        texts(&["abc", "a"]),
        bools(&[false; 2]),
        spans(&[
            vec![("assistant", 0, 2, true), ("turn_end", 2, 3, true)],
            vec![("text", 0, 1, true)],
        ]),
    ];
    write(&run, Kind::Transcripts, &["pivot"], 2, columns);
    let columns = vec![
        u64s(&[0, 1]),
        lists_u32(&[&[0, 1, 2, 1], &[0, 3]]),
        lists_u32(&[&[0, 1, 2, 3], &[0, 1]]),
        lists_bool(&[&[false, true, true, true], &[false, true]]),
    ];
    write(&run, Kind::Tokens, &["pv", "pivot"], 2, columns);
    let s = session(dir.path());
    assert_eq!(
        sql(
            &s,
            "SELECT sample_id, first_pos, last_pos FROM content_positions \
             WHERE vocab = 'pv' ORDER BY 1, 2"
        ),
        ["0 0 1", "1 0 0"]
    );
    // 1 and 2 bits, without the one of the turn's end, which is no special token here; and 2.
    assert_eq!(
        sql(
            &s,
            "SELECT sample_id, nll, tokens, bytes FROM sequence_ce WHERE teacher = 'p' ORDER BY 1"
        ),
        ["0 2.08008 2 3", "1 1.38672 1 1"]
    );
    // Two stretches that one token covers both of are no two tokens.
    let columns = vec![
        u64s(&[0, 1]),
        texts(&["abc", "a"]),
        bools(&[false; 2]),
        spans(&[
            vec![
                ("text", 0, 1, true),
                ("user", 1, 2, false),
                ("text", 2, 3, true),
            ],
            vec![("text", 0, 1, true)],
        ]),
    ];
    write(&run, Kind::Transcripts, &["pivot"], 2, columns);
    let columns = vec![
        u64s(&[0, 1]),
        lists_u32(&[&[0, 1], &[0, 3]]),
        lists_u32(&[&[0, 3], &[0, 1]]),
        lists_bool(&[&[false, true], &[false, true]]),
    ];
    write(&run, Kind::Tokens, &["pv", "pivot"], 2, columns);
    assert_eq!(
        sql(
            &session(dir.path()),
            "SELECT tokens FROM sequence_ce WHERE teacher = 'p' ORDER BY sample_id"
        ),
        ["1", "1"]
    );
    // Of two templates in one vocabulary, a model's own counts, and without it none.
    for template in ["p", "q"] {
        let columns = vec![
            u64s(&[0, 1]),
            lists_u32(&[&[0, 1], &[0, 3]]),
            lists_u32(&[&[0, 3], &[0, 1]]),
            lists_bool(&[&[false, true], &[false, true]]),
        ];
        write(&run, Kind::Tokens, &["pv", template], 2, columns);
        let columns = vec![
            u64s(&[0, 1]),
            texts(&["abc", "a"]),
            bools(&[false; 2]),
            spans(&[vec![("text", 0, 3, true)], vec![("text", 0, 1, true)]]),
        ];
        write(&run, Kind::Transcripts, &[template], 2, columns);
    }
    let nll = "SELECT nll FROM sequence_ce WHERE teacher = 'p' AND sample_id = 0";
    assert_eq!(sql(&session(dir.path()), nll), ["0.693359"]);
    fs::remove_dir_all(run.artifact(Kind::Tokens, &["pv", "p"])).unwrap();
    assert_eq!(sql(&session(dir.path()), nll), ["NULL"]);
}
