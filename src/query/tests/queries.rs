use std::time::{Duration, Instant};

use arrow::datatypes::DataType;

use super::fixture::*;
use super::*;
use crate::artifact::Kind;

fn with_run(test: impl FnOnce(&Session)) {
    let dir = tempfile::tempdir().unwrap();
    write_run(&RunDir::new(dir.path()));
    test(&session(dir.path()));
}

fn sql(session: &Session, sql: &str) -> Vec<String> {
    rows(session.stream(sql, &Params::new()).unwrap())
}

fn named(session: &Session, name: &str, pairs: &[(&str, &str)]) -> Vec<String> {
    rows(session.stream_named(name, &params(pairs)).unwrap())
}

#[test]
fn views_over_the_fixture() {
    with_run(|s| {
        assert_eq!(
            sql(s, "SELECT * FROM token_ce ORDER BY teacher, sample_id, pos"),
            [
                "p 0 0 1 a false 0.693359 true 0.248465",
                "p 0 1 2 b false 1.38672 false 0.248465",
                "p 0 2 3 </s> true 0.693359 true 0.248465",
                "p 1 0 1 a false 1.38672 false 0.248465",
                "s 0 0 1 ab false 0.693359 true 0.248465",
                "s 1 0 2 c false 2.0791 false 0.374742",
            ]
        );
        assert_eq!(
            sql(s, "SELECT * FROM sequence_ce ORDER BY teacher, sample_id"),
            [
                "p 0 2.08008 2 3 1.04004 1.00031",
                "p 1 1.38672 1 1 1.38672 2.00061",
                "s 0 0.693359 1 3 0.693359 0.333435",
                "s 1 2.0791 1 1 2.0791 2.99951",
            ]
        );
        assert_eq!(
            sql(s, "SELECT * FROM alignment_coverage ORDER BY kind"),
            ["s 1-1 2 0.4 2 1", "s n-1 2 0.4 1 0.5", "s none 1 0.2 0 0"]
        );
        assert_eq!(
            sql(s, "SELECT * FROM fusion_winner ORDER BY winner"),
            ["s-p p 1 0.333333 1 0", "s-p s 2 0.666667 1 0.248465"]
        );
        assert_eq!(
            sql(
                s,
                "SELECT layer, COUNT(*) FROM merge_weight GROUP BY layer ORDER BY layer"
            ),
            ["10 4", "NULL 2"]
        );
    });
}

#[test]
fn figures_in_sql_and_rust_agree() {
    with_run(|s| {
        assert_eq!(
            sql(
                s,
                "SELECT MAX(abs(m.nll - c.nll)) < 0.001, COUNT(*) FROM sequence_metrics m \
                 JOIN sequence_ce c ON c.teacher = m.teacher AND c.sample_id = m.sample_id"
            ),
            ["true 4"]
        );
    });
}

#[test]
fn queries_over_the_fixture() {
    with_run(|s| {
        assert_eq!(
            named(s, "projection_quality", &[]),
            [
                "s true same_end 2 0.666667 0.5 0.5 0.624186 NULL NULL NULL 0.837402 1.04004 0.202637",
                "s false one_hot 1 0.333333 1 1 1 NULL NULL NULL 0 1.38672 1.38672",
            ]
        );
        let mappings = ["s 1 ab 1 a 6 0.75 counted", "s 2 c 2 b 1 1 exact"];
        assert_eq!(named(s, "top_mappings", &[]), mappings);
        assert_eq!(named(s, "top_mappings", &[("limit", "1")]), mappings[..1]);
        assert_eq!(
            named(s, "top_mappings", &[("method", "exact"), ("teacher", "s")]),
            mappings[1..]
        );
        assert_eq!(
            named(s, "top_mappings", &[("method", "special")]),
            ["s 0 <s> 0 <s> 2 1 special"]
        );
        assert_eq!(
            named(s, "ambiguous_mappings", &[]),
            ["s 1 ab 8 2 1 a 0.75 0.562335"]
        );
        assert_eq!(
            named(s, "worst_aligned_samples", &[]),
            ["s 0 a.jsonl 0 4 0.5 0.25", "s 1 a.jsonl 1 1 1 0"]
        );
        assert_eq!(
            named(s, "aligned_tokens", &[("teacher", "s")]),
            [
                "s 0 1-1 <s> <s> 0 1 0",
                "s 1 n-1 a ab 1 2 NULL",
                "s 2 n-1 b ab 1 2 1",
                "s 3 none </s> NULL 0 0 NULL",
            ]
        );
        assert_eq!(
            named(s, "teacher_win_rate", &[]),
            ["p 2 1.25 1 1 1 0.5", "s 2 1 1 1 1 0.5"]
        );
        assert_eq!(
            named(s, "win_rate_by_origin", &[]),
            ["a.jsonl p 2 1.25 1 0.5", "a.jsonl s 2 1 1 0.5"]
        );
        assert!(named(s, "metric_disagreements", &[]).is_empty());
        assert_eq!(
            named(s, "topk_mass_by_k", &[]),
            [
                "p 1 0.49853 0.49853 4",
                "p 2 0.746995 0.248465 4",
                "s 1 0.49853 0.49853 2",
                "s 2 0.68539 0.18686 2"
            ]
        );
        assert_eq!(
            named(s, "loss_curve", &[("every", "2")]),
            [
                "t 2 0.1 3 3 NULL NULL 1 NULL",
                "t 3 0.1 2 2 NULL NULL 1 2.5",
                "t 4 0.1 1 1 NULL NULL 1 NULL",
            ]
        );
        assert_eq!(
            named(s, "merge_weight_by_layer", &[("merge", "m")]),
            [
                "m NULL x 1 0.5 0.1 0.2 1",
                "m NULL y 1 0.5 0.1 0.2 1",
                "m 10 x 2 0.5 0.1 0.2 5",
                "m 10 y 2 0.5 0.1 0.2 1.41421",
            ]
        );
        assert_eq!(
            named(s, "eval_scoreboard", &[]),
            [
                "b average bpb 0.5 1",
                "a average bpb 1.5 3",
                "a qa acc 0.5 2",
                "b t1 bpb 0.5 1",
                "a t1 bpb 1 2",
                "b t1 ppl 2 1",
                "a t1 ppl 4 2",
                "a t2 bpb 2 1",
                "a t2 ppl 4 1",
            ]
        );
        assert_eq!(
            named(s, "token_map", &[("teacher", "s")]).len(),
            3,
            "(0,0), (1,1), (1,2)"
        );
    });
}

#[test]
fn samples_where_the_metrics_disagree() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    write_run(&run);
    // 2 bits in 4 tokens against 3 bits in 8, both over 4 bytes: ce prefers the second.
    let metrics = |name: &str, nll: f64, tokens: u32| {
        let columns = vec![u64s(&[0]), f64s(&[nll]), u32s(&[tokens]), u32s(&[4])];
        write(&run, Kind::SequenceMetrics, &[name], 1, columns);
    };
    metrics("p", 2.0, 4);
    metrics("s", 3.0, 8);
    assert_eq!(
        named(&session(dir.path()), "metric_disagreements", &[]),
        ["0 s p 0.360674"]
    );
}

/// Items that differ by one or by nothing, half and half: the mean of 100 has a standard error of 0.05.
/// The interval tells that; a model that differs everywhere by the same has none.
#[test]
fn differences_of_models_have_intervals() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    write_run(&run);
    let items = |bits: &dyn Fn(u64) -> f64| {
        let rows: Vec<(u64, &str, f64)> = (0..100)
            .flat_map(|item| [(item, "nll", bits(item) * LN2), (item, "bytes", 2.0)])
            .collect();
        vec![
            texts(&vec!["t"; rows.len()]),
            u64s(&rows.iter().map(|row| row.0).collect::<Vec<_>>()),
            texts(&rows.iter().map(|row| row.1).collect::<Vec<_>>()),
            f64s(&rows.iter().map(|row| row.2).collect::<Vec<_>>()),
            nulls(&DataType::Float64, rows.len()),
            nulls(&DataType::Utf8, rows.len()),
        ]
    };
    let models: [(&str, &dyn Fn(u64) -> f64); 3] = [
        ("clm", &|item| 4.0 + item as f64),
        ("worse", &|item| 5.0 + item as f64),
        ("mixed", &|item| {
            4.0 + item as f64 - f64::from(item % 2 == 0)
        }),
    ];
    for (name, bits) in models {
        write(&run, Kind::EvalItems, &[name], 0, items(bits));
    }
    let session = session(dir.path());
    let found = named(&session, "model_differences", &[]);
    assert_eq!(found.len(), 2);
    assert_eq!(found[1], "t worse 100 27.25 0.5 0.5 0.5");
    let mixed: Vec<f64> = { found[0].split(' ').skip(3) }
        .map(|number| number.parse().unwrap())
        .collect();
    assert_eq!(mixed[..2], [26.5, -0.25]);
    // 1.96 standard errors of bits, over two bytes.
    for (border, expected) in [(mixed[2], -0.25 - 0.049), (mixed[3], -0.25 + 0.049)] {
        assert!((border - expected).abs() < 0.006, "{found:?}");
    }
    let other = [("baseline", "worse"), ("model", "clm")];
    assert_eq!(
        named(&session, "model_differences", &other),
        ["t clm 100 26.75 -0.5 -0.5 -0.5"]
    );
}

/// Only `ms` counts while the map is made.
#[test]
fn mappings_of_a_map_without_counts_are_counted_in_the_alignment() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    write_run(&run);
    let columns = vec![
        u32s(&[0, 1, 2]),
        u32s(&[0, 2, 2]),
        u64s(&[0; 3]),
        f32s(&[1.0; 3]),
        u16s(&[0; 3]),
        texts(&["special", "prefix", "exact"]),
        u16s(&[1; 3]),
    ];
    write(&run, Kind::TokenMap, &["s"], 0, columns);
    // Another source's counts say nothing about this one's.
    let columns = vec![
        u32s(&[5]),
        u32s(&[1]),
        u64s(&[9]),
        f32s(&[1.0]),
        u16s(&[0]),
        texts(&["counted"]),
        u16s(&[1]),
    ];
    write(&run, Kind::TokenMap, &["other"], 0, columns);
    let mappings = |pairs: &[(&str, &str)]| named(&session(dir.path()), "top_mappings", pairs);
    assert_eq!(
        mappings(&[]),
        [
            "other 5 NULL 1 a 9 1 counted",
            "s 1 ab 2 b 1 1 prefix",
            "s 2 c 2 b 0 1 exact"
        ]
    );
    assert_eq!(
        mappings(&[("method", "special"), ("teacher", "s")]),
        ["s 0 <s> 0 <s> 2 1 special"]
    );
    std::fs::remove_dir_all(run.root().join("alignment")).unwrap();
    assert_eq!(
        mappings(&[]),
        [
            "other 5 NULL 1 a 9 1 counted",
            "s 1 ab 2 b NULL 1 prefix",
            "s 2 c 2 b NULL 1 exact"
        ]
    );
}

#[test]
fn plans_are_shown_and_other_programs_set_up() {
    with_run(|s| {
        let plan = s.explain_named("eval_scoreboard", &Params::new()).unwrap();
        assert!(plan.contains("SortExec"), "{plan}");
        let plan = s.explain("SELECT $x", &params(&[("x", "1")])).unwrap();
        assert!(plan.contains("ProjectionExec"), "{plan}");
        assert!(s.explain("SELECT * FROM tokk", &Params::new()).is_err());
    });
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path().join("it's"));
    write_run(&run);
    let catalogue = Catalogue::load(None).unwrap();
    let duckdb = setup(&run, &catalogue, Engine::Duckdb).unwrap();
    assert!(duckdb.contains("it''s/topk/**/part-*.parquet', hive_partitioning = true);"));
    // The statements are those of the session, so it can run them.
    let datafusion = setup(&run, &catalogue, Engine::Datafusion).unwrap();
    assert!(datafusion.contains("CREATE OR REPLACE VIEW sequence_ce"));
    std::fs::remove_dir_all(run.root().join("models")).unwrap();
    let without = setup(&run, &catalogue, Engine::Datafusion).unwrap();
    assert!(!without.contains("token_ce") && without.contains("fusion_winner"));
}

#[test]
fn every_query_and_check_runs_on_an_empty_run() {
    let dir = tempfile::tempdir().unwrap();
    let session = session(dir.path());
    for group in [Group::Queries, Group::Checks, Group::Transforms] {
        for script in session.catalogue().group(group) {
            let found = named(&session, &script.name, &[]);
            assert!(found.is_empty(), "{}: {found:?}", script.name);
        }
    }
    for view in session.catalogue().group(Group::Views) {
        assert!(sql(&session, &format!("SELECT * FROM {}", view.name)).is_empty());
    }
}

#[test]
fn long_lists_are_decoded_whole() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    write_run(&run);
    // Two whole pieces and a part of one; and one whole piece.
    let gaps: Vec<u32> = (0..60).map(|at| 1 + at % 7).collect();
    let columns = vec![
        u64s(&[0, 1]),
        u32s(&[0, 0]),
        stored_lists_u32(&[&gaps, &gaps[..24]]),
        u16s(&[0, 0]),
        lists_u16(&[&[100; 60], &[100; 24]]),
        u16s(&[0, 0]),
        u16s(&[0, 0]),
        winners(&["s", "p"]),
    ];
    write_stored(&run, Kind::Targets, &["s-p"], columns);
    let session = session(dir.path());
    for (sample, count) in [(0, 60), (1, 24)] {
        let mut sum = 0;
        let expected = gaps[..count].iter().map(|gap| {
            sum += gap;
            sum.to_string()
        });
        let query = format!("SELECT unnest(ids) FROM targets WHERE sample_id = {sample}");
        assert_eq!(sql(&session, &query), expected.collect::<Vec<_>>());
    }
}

#[test]
fn formats() {
    with_run(|s| {
        let query = "SELECT sample_id, ids, target_logprob < -1 AS low, CAST(NULL AS INT) AS n \
                     FROM topk WHERE teacher = 's' ORDER BY sample_id";
        let text = |format, max_rows| {
            let mut out = Vec::new();
            s.print(query, &Params::new(), format, max_rows, &mut out)
                .unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            text(Format::Csv, 0),
            "sample_id,ids,low,n\n0,\"[1, 2]\",false,\n1,\"[1, 2]\",true,\n"
        );
        let json: serde_json::Value = serde_json::from_str(&text(Format::Json, 0)).unwrap();
        assert_eq!(
            json,
            serde_json::json!([
                {"sample_id": 0, "ids": [1, 2], "low": false, "n": null},
                {"sample_id": 1, "ids": [1, 2], "low": true, "n": null},
            ])
        );
        assert_eq!(
            text(Format::Table, 1),
            "sample_id  ids     low       n\n---------  ------  -----  ----\n        0  [1, 2]  false  NULL\n\
             (the first 1 rows; `--max-rows 0` shows all)\n"
        );
        assert!(text(Format::Table, 2).ends_with("(2 rows)\n"));
        let mut empty = Vec::new();
        s.print(
            "SELECT 1 AS x WHERE false",
            &Params::new(),
            Format::Json,
            0,
            &mut empty,
        )
        .unwrap();
        assert_eq!(String::from_utf8(empty).unwrap().trim(), "[]");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.parquet");
        assert_eq!(
            save_parquet(s.stream(query, &Params::new()).unwrap(), &path).unwrap(),
            2
        );
        assert!(path.is_file());
        assert!(
            "tabel"
                .parse::<Format>()
                .unwrap_err()
                .to_string()
                .contains("`table`")
        );
    });
}

#[test]
fn wrong_statements_are_usage_errors_with_the_nearest_name() {
    with_run(|s| {
        let error = |query: &str| {
            let error = s.query(query, &Params::new()).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
            error.to_string()
        };
        assert!(error("SELECT * FROM tokk").contains("did you mean `topk`?"));
        assert!(error("SELECT target_idd FROM topk").contains("target_id"));
        assert!(error("SELEC 1").contains("SELEC"));
        assert!(
            error("SELECT $x").contains("--param"),
            "{}",
            error("SELECT $x")
        );
        let query = "SELECT COUNT(*) FROM topk WHERE teacher = $t AND pos > $n";
        let found = s.stream(query, &params(&[("t", "p"), ("n", "0")])).unwrap();
        assert_eq!(rows(found), ["2"]);
        assert_eq!(
            sql(s, "SELECT array_transform([1, 2], x -> x + 1)"),
            ["[2, 3]"]
        );
    });
    let missing = Session::open(&RunDir::new("/no/such/run"), &options());
    assert_eq!(missing.err().unwrap().exit_code(), 1);
}

#[test]
fn opening_a_session_over_many_parts_is_fast() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    write_run(&run);
    for i in 0..200 {
        write_topk(&run, &format!("m{i}"), topk_of_pivot());
    }
    let start = Instant::now();
    let session = session(dir.path());
    // Far above what it takes, so that a busy machine does not fail it.
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
    eprintln!("opened in {:?}", start.elapsed());
    assert_eq!(sql(&session, "SELECT COUNT(*) FROM topk"), ["806"]);
    assert_eq!(
        sql(&session, "SELECT COUNT(*) FROM topk WHERE teacher = 'm7'"),
        ["4"]
    );
}

#[test]
fn large_groupings_stay_within_the_memory_limit() {
    let dir = tempfile::tempdir().unwrap();
    let options = SessionOptions {
        memory_limit: 32 << 20,
        threads: 2,
        sql_dir: None,
    };
    let session = Session::open(&RunDir::new(dir.path()), &options).unwrap();
    let query = "SELECT COUNT(*) FROM (SELECT v % 700001 AS a, v % 3 AS b, COUNT(*) AS c \
                 FROM (SELECT unnest(range(0, 2000000)) AS v) GROUP BY 1, 2)";
    assert_eq!(sql(&session, query), ["2000000"]);
    assert!(
        SessionOptions {
            memory_limit: 5,
            ..options
        }
        .validate()
        .is_err()
    );
}
