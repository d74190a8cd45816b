use super::fixture::*;
use super::*;
use arrow::array::ArrayRef;

use crate::artifact::{Kind, StageRecord};

/// What the checks find in the fixture after `damage`, as `check: artifact [sample]`.
fn found(damage: impl FnOnce(&RunDir)) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    write_run(&run);
    damage(&run);
    check_run(&run, &options(), 0)
        .unwrap()
        .iter()
        .map(|f| {
            let sample = f.sample_id.map_or(String::new(), |id| format!(" {id}"));
            format!("{} {}: {}{sample}", f.level, f.check, f.artifact)
        })
        .collect()
}

#[test]
fn nothing_is_found_where_all_is_well() {
    assert_eq!(found(|_| {}), [""; 0]);
}

#[test]
fn lists_with_a_token_twice_and_unparallel_lists() {
    let with = |gaps: [&[u32]; 2], levels: [&[u16]; 2]| {
        found(|run| {
            let columns = vec![
                u64s(&[0, 1]),
                u32s(&[0, 0]),
                stored_lists_u32(&gaps),
                u16s(&[0, 0]),
                lists_u16(&levels),
                u16s(&[305, 0]),
                u16s(&[0, 0]),
                winners(&["s", "p"]),
            ];
            write_stored(run, Kind::Targets, &["s-p"], columns);
        })
    };
    // Probabilities 1/4 + 1/2 with a tail of 1/4, and 1.
    let levels: [&[u16]; 2] = [&[305, 363], &[432]];
    assert_eq!(with([&[1, 1], &[0]], levels), [""; 0]);
    let error = |sample| [format!("error topk_sorted: targets/fusion=s-p {sample}")];
    assert_eq!(with([&[1, 0], &[0]], levels), error(0));
    assert_eq!(with([&[1, 1], &[1, 1]], levels), error(1));
}

#[test]
fn mass_above_and_below_one() {
    let above = found(|run| {
        let mut columns = topk_of_pivot();
        columns[4] = f32s(&[
            (0.25_f32).ln(),
            (0.3_f32).ln(),
            (0.25_f32).ln(),
            (0.1_f32).ln(),
        ]);
        write_topk(run, "p", columns);
    });
    let mut above = above;
    above.sort();
    assert_eq!(
        above,
        [
            "error topk_mass_at_most_one: topk/teacher=p 0",
            "warning topk_mass_at_most_one: topk/teacher=p 1",
        ]
    );
}

#[test]
fn ids_outside_the_vocabulary_and_log_probabilities_that_are_none() {
    let outside = found(|run| {
        let mut columns = topk_of_pivot();
        columns[5] = lists_u32(&[&[1, 2], &[1, 2], &[3, 1], &[2, 4]]);
        write_topk(run, "p", columns);
    });
    assert_eq!(outside, ["error ids_in_vocab: topk/teacher=p 1"]);
    let nan = found(|run| {
        let mut columns = topk_of_pivot();
        columns[3] = f32s(&[(0.5_f32).ln(), (0.25_f32).ln(), f32::NAN, (0.25_f32).ln()]);
        write_topk(run, "p", columns);
    });
    assert_eq!(nan, ["error topk_finite: topk/teacher=p 0"]);
}

#[test]
fn targets_that_do_not_sum_to_one() {
    let found = found(|run| {
        let mut columns = targets();
        columns[4] = f32s(&[0.25, 0.25, 0.5]);
        write(run, Kind::Targets, &["s-p"], 2, columns);
    });
    assert_eq!(found, ["error targets_normalised: targets/fusion=s-p 1"]);
}

#[test]
fn losses_that_are_not_finite() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let found = found(|run| {
            let mut columns = steps();
            columns[2] = f64s(&[4.0, 3.0, bad, 1.0]);
            write(run, Kind::Steps, &["t"], 0, columns);
        });
        assert_eq!(found, ["error loss_finite: steps/target=t"]);
    }
}

#[test]
fn merge_weights_that_do_not_sum_to_one() {
    let with = |coefficients: [f64; 6]| {
        found(|run| {
            let mut columns = merge_stats();
            columns[2] = f64s(&coefficients);
            write(run, Kind::MergeStats, &["m"], 0, columns);
        })
    };
    let found = "merge_weights_sum_to_one: merge_stats/merge=m";
    // One tensor of three is wrong; all zero is the base.
    let error = [format!("error {found}")];
    assert_eq!(with([0.0, 0.0, 0.25, 0.75, 0.75, 0.2]), error);
    let nan = with([0.5, 0.5, 0.25, f64::NAN, 0.75, 0.25]);
    assert_eq!(
        nan,
        ["error figures_finite: merge_stats/merge=m", &error[0]]
    );
    // Every tensor has free weights.
    assert_eq!(with([1.0; 6]), [format!("warning {found}")]);
    assert_eq!(with([0.0; 6]), [""; 0]);
}

#[test]
fn tokens_and_alignments_that_contradict_themselves() {
    let tokens = found(|run| {
        write(
            run,
            Kind::Tokens,
            &["pv", "pivot"],
            2,
            vec![
                u64s(&[0, 1]),
                lists_u32(&[&[0, 1], &[0, 1]]),
                lists_u32(&[&[0, 3], &[3, 1]]),
                lists_bool(&[&[true][..], &[true, true]]),
            ],
        );
    });
    let both = [
        "error tokens_parallel: tokens/vocab=pv/template=pivot 0",
        "error tokens_parallel: tokens/vocab=pv/template=pivot 1",
        "warning sequence_metrics_agree: sequence_metrics/teacher=p 0",
    ];
    let mut tokens = tokens;
    tokens.sort();
    assert_eq!(tokens, both);
    let spans = found(|run| {
        let mut columns = alignment();
        // The last row has a token, but an empty span.
        columns[4] = u32s(&[1, 2, 2, 0, 0]);
        write(run, Kind::Alignment, &["s"], 2, columns);
    });
    assert_eq!(spans, ["error alignment_spans: alignment/teacher=s 1"]);
}

#[test]
fn metrics_that_disagree_and_projections_that_do_not_help() {
    let disagree = found(|run| {
        let columns = vec![
            u64s(&[0, 1]),
            f64s(&[0.7, 2.07944]),
            u32s(&[1, 1]),
            u32s(&[3, 1]),
        ];
        write(run, Kind::SequenceMetrics, &["s"], 2, columns);
    });
    assert_eq!(
        disagree,
        ["warning sequence_metrics_agree: sequence_metrics/teacher=s 0"]
    );
    let worse = found(|run| {
        let mut columns = projected();
        columns[3] = f32s(&[(0.5_f32).ln(), (0.1_f32).ln(), 0.0]);
        write(run, Kind::Projected, &["s"], 2, columns);
    });
    assert_eq!(worse, ["warning projection_helps: projected/teacher=s"]);
}

#[test]
fn checks_of_ones_own_must_return_the_columns() {
    let dir = tempfile::tempdir().unwrap();
    let checks = dir.path().join("sql/checks");
    std::fs::create_dir_all(&checks).unwrap();
    std::fs::write(checks.join("mine.sql"), "-- about: mine\nSELECT 1 AS x").unwrap();
    let options = SessionOptions {
        sql_dir: Some(dir.path().join("sql")),
        ..Default::default()
    };
    let session = Session::open(&RunDir::new(dir.path()), &options).unwrap();
    let error = run_checks(&session, 10).unwrap_err().to_string();
    assert!(
        error.contains("check `mine`") && error.contains("`check`"),
        "{error}"
    );
}

#[test]
fn ids_beyond_a_vocabulary_in_every_kind_that_has_ids() {
    let one = |kind: Kind, values: &'static [&'static str], samples, columns: Vec<_>| {
        found(move |run| write(run, kind, values, samples, columns))
    };
    let mut columns = alignment();
    columns[2] = u32s(&[0, 1, 4, 3, 0]);
    let beyond = "error ids_in_vocab: alignment/teacher=s";
    assert_eq!(
        one(Kind::Alignment, &["s"], 2, columns),
        [format!("{beyond} 0")]
    );
    let mut columns = alignment();
    columns[5] = lists_u32(&[&[0], &[1], &[1], &[], &[3]]);
    assert_eq!(
        one(Kind::Alignment, &["s"], 2, columns),
        [format!("{beyond} 1")]
    );
    for (source, pivot) in [([0, 1, 1, 3], [0, 1, 2, 2]), ([0, 1, 1, 2], [0, 1, 4, 2])] {
        let columns = vec![
            u32s(&source),
            u32s(&pivot),
            u64s(&[2, 6, 2, 1]),
            f32s(&[1.0, 0.75, 0.25, 1.0]),
            u16s(&[0, 1, 1, 0]),
            texts(&["special", "counted", "counted", "exact"]),
            u16s(&[1, 1, 2, 1]),
        ];
        let found = one(Kind::TokenMap, &["s"], 0, columns);
        assert_eq!(found, ["error ids_in_vocab: token_map/teacher=s"]);
    }
    let tokens = vec![
        u64s(&[0, 1]),
        lists_u32(&[&[0, 1, 2, 3], &[0, 4]]),
        lists_u32(&[&[0, 1, 3, 3], &[0, 1]]),
        lists_bool(&[&[false, true, true, true], &[false, true]]),
    ];
    let found = one(Kind::Tokens, &["pv", "pivot"], 2, tokens);
    assert_eq!(
        found,
        ["error ids_in_vocab: tokens/vocab=pv/template=pivot 1"]
    );
    let mut columns = projected();
    columns[5] = lists_u32(&[&[1, 2], &[1, 4], &[1]]);
    let found = one(Kind::Projected, &["s"], 2, columns);
    assert_eq!(found, ["error ids_in_vocab: projected/teacher=s 0"]);
    let mut columns = targets();
    columns[2] = lists_u32(&[&[1, 2], &[1], &[4]]);
    let found = one(Kind::Targets, &["s-p"], 2, columns);
    assert_eq!(found, ["error ids_in_vocab: targets/fusion=s-p 1"]);
}

#[test]
fn ids_of_an_unknown_vocabulary_are_not_passed_in_silence() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    write_run(&run);
    std::fs::remove_dir_all(run.root().join("models")).unwrap();
    let warned = || -> Vec<Finding> {
        let found = check_run(&run, &options(), 0).unwrap();
        found
            .into_iter()
            .filter(|f| f.check == "ids_in_vocab")
            .collect()
    };
    // Tokens name their vocabulary themselves; `topk` is there twice.
    let [warning] = &warned()[..] else {
        panic!("{:?}", warned());
    };
    assert_eq!(warning.level, Level::Warning);
    assert_eq!(warning.artifact, "alignment/teacher=s");
    assert_eq!(warning.value, Some(6.0));
    assert!(warning.detail.contains("of 6 artifacts"), "{warning}");
    let mut left = 6.0;
    for folder in [
        "topk/teacher=s",
        "targets",
        "projected",
        "token_map",
        "alignment",
        "topk",
    ] {
        std::fs::remove_dir_all(run.root().join(folder)).unwrap();
        left -= 1.0;
        let found = warned();
        let counted = found.first().and_then(|warning| warning.value);
        assert_eq!(counted.unwrap_or(0.0), left, "{folder}: {found:?}");
    }
}

/// Supervised spans of text: begins and ends in bytes.
fn bare_spans(lists: &[&[(u32, u32)]]) -> ArrayRef {
    let whole = |(begin, end): &(u32, u32)| ("text", *begin, *end, true);
    let lists: Vec<_> = lists
        .iter()
        .map(|list| list.iter().map(whole).collect())
        .collect();
    spans(&lists)
}

#[test]
fn spans_that_do_not_tile_and_tokens_that_end_elsewhere() {
    let with = |lists: [&'static [(u32, u32)]; 2]| {
        found(move |run| {
            let columns = vec![
                u64s(&[0, 1]),
                texts(&["abc", "a"]),
                bools(&[false; 2]),
                bare_spans(&lists),
            ];
            write(run, Kind::Transcripts, &["pivot"], 2, columns);
        })
    };
    assert_eq!(with([&[(0, 3)], &[(0, 1)]]), [""; 0]);
    assert_eq!(with([&[(0, 1), (1, 2), (2, 3)], &[(0, 1)]]), [""; 0]);
    for wrong in [
        &[(0, 2)][..],
        &[(1, 3)],
        &[(0, 1), (2, 3)],
        &[(0, 2), (1, 3)],
        &[(0, 3), (3, 3)],
        &[(2, 3), (0, 2)],
        &[(0, 4)],
        &[(2, 1), (1, 3)],
        &[],
    ] {
        // Other content makes the metrics look wrong, too.
        let mut found = with([wrong, &[(0, 1)]]);
        found.retain(|line| !line.starts_with("warning sequence_metrics_agree"));
        assert_eq!(
            found,
            ["error spans_tile: transcripts/template=pivot 0"],
            "{wrong:?}"
        );
    }
    for last in [2, 4] {
        let mut found = found(|run| {
            let tokens = vec![
                u64s(&[0, 1]),
                lists_u32(&[&[0, 1, 2, 3], &[0, 1]]),
                lists_u32(&[&[0, 1, 2, last], &[0, 1]]),
                lists_bool(&[&[false, true, true, true], &[false, true]]),
            ];
            write(run, Kind::Tokens, &["pv", "pivot"], 2, tokens);
        });
        found.retain(|line| !line.starts_with("warning sequence_metrics_agree"));
        assert_eq!(
            found,
            ["error spans_tile: tokens/vocab=pv/template=pivot 0"]
        );
    }
}

#[test]
fn samples_and_rows_that_come_twice_or_are_missing() {
    // Within a part rows are out of order then; this is over two parts.
    let two_parts = |run: &RunDir| {
        let schema = Kind::SequenceMetrics.schema();
        let provenance = crate::artifact::Provenance::new(Kind::SequenceMetrics);
        let dir = run.artifact(Kind::SequenceMetrics, &["s"]);
        let existing = crate::artifact::Existing::Replace;
        let writer = crate::artifact::Writer::create(&dir, provenance, existing).unwrap();
        for index in 0..2 {
            let columns = vec![u64s(&[1]), f64s(&[0.5]), u32s(&[1]), u32s(&[1])];
            let batch = arrow::record_batch::RecordBatch::try_new(schema.clone(), columns);
            let info = crate::artifact::PartInfo {
                index,
                first_sample: u64::from(index),
                samples: 1,
                last: index == 1,
            };
            let mut part = writer.part(info).unwrap();
            part.write(&batch.unwrap()).unwrap();
            part.finish().unwrap();
        }
    };
    let twice = found(two_parts);
    let place = "sequence_metrics/teacher=s/part-00000.parquet sample 1";
    assert_eq!(twice, [format!("error rows_in_order: {place}")]);
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    write_run(&run);
    two_parts(&run);
    let named = session(dir.path())
        .named("keys_unique", &Params::new())
        .unwrap();
    assert_eq!(named.iter().map(|batch| batch.num_rows()).sum::<usize>(), 1);

    for (kind, values) in [(Kind::Topk, ["p"]), (Kind::Projected, ["s"])] {
        let found = found(|run| {
            let (mut columns, rows) = match kind {
                Kind::Topk => (topk_of_pivot(), vec![0, 0, 2, 0]),
                _ => (projected(), vec![1, 1, 0]),
            };
            columns[1] = u32s(&rows);
            write(run, kind, &values, 2, columns);
        });
        let [error] = &found[..] else {
            panic!("{found:?}");
        };
        assert!(
            error.starts_with(&format!("error rows_in_order: {kind}/")),
            "{error}"
        );
        assert!(error.contains("sample 0 position"), "{error}");
    }
    let missing = found(|run| {
        let columns = vec![
            u64s(&[1]),
            texts(&["a"]),
            bools(&[false]),
            spans(&[vec![("text", 0, 1, true)]]),
        ];
        write(run, Kind::Transcripts, &["pivot"], 2, columns);
    });
    let part = "transcripts/template=pivot/part-00000.parquet";
    assert_eq!(missing, [format!("error rows_in_order: {part}")]);
    // Kinds that are not of samples.
    let found = found(|run| {
        let mut columns = steps();
        columns[0] = u64s(&[1, 2, 2, 4]);
        write(run, Kind::Steps, &["t"], 0, columns);
    });
    assert_eq!(found, ["error keys_unique: steps/target=t"]);
}

#[test]
fn figures_that_are_no_numbers_are_errors() {
    for bad in [f64::NAN, f64::INFINITY] {
        let metrics = found(|run| {
            let columns = vec![
                u64s(&[0, 1]),
                f64s(&[bad, 2.07944]),
                u32s(&[1, 1]),
                u32s(&[3, 1]),
            ];
            write(run, Kind::SequenceMetrics, &["s"], 2, columns);
        });
        let errors: Vec<_> = metrics
            .iter()
            .filter(|line| line.starts_with("error"))
            .collect();
        assert_eq!(
            errors,
            ["error figures_finite: sequence_metrics/teacher=s 0"]
        );
        let stats = found(|run| {
            let mut columns = merge_stats();
            columns[2] = f64s(&[bad; 6]);
            write(run, Kind::MergeStats, &["m"], 0, columns);
        });
        assert!(
            stats
                .iter()
                .filter(|line| line.starts_with("error figures_finite"))
                .count()
                == 6
        );
        let items = found(|run| {
            let columns = vec![
                texts(&["t1"; 3]),
                u64s(&[0; 3]),
                texts(&["nll", "tokens", "bytes"]),
                f64s(&[bad, 1.0, 1.0]),
                nulls(&arrow::datatypes::DataType::Float64, 3),
                nulls(&arrow::datatypes::DataType::Utf8, 3),
            ];
            write(run, Kind::EvalItems, &["b"], 0, columns);
        });
        assert_eq!(items, ["error figures_finite: eval_items/model=b"]);
    }
}

#[test]
fn parts_that_are_missing_empty_or_unknown() {
    let part = |run: &RunDir| run.root().join("topk/teacher=p/part-00000.parquet");
    let all = |seen: &[String]| seen.join("\n");
    let seen = found(|run| std::fs::remove_file(part(run)).unwrap());
    assert_eq!(seen, ["error files: topk/teacher=p"], "{}", all(&seen));
    let seen = found(|run| std::fs::write(part(run), "").unwrap());
    assert_eq!(seen, ["error files: topk/teacher=p/part-00000.parquet"]);
    let seen = found(|run| {
        std::fs::copy(part(run), part(run).with_file_name("x.parquet")).unwrap();
    });
    assert_eq!(seen, ["error files: topk/teacher=p/x.parquet"]);
    let seen = found(|run| {
        std::fs::copy(part(run), run.root().join("topk/part-00000.parquet")).unwrap();
    });
    assert_eq!(seen, ["error files: topk/part-00000.parquet"]);
    let record = |run: &RunDir, path: &str| record(run, path, false);
    let seen = found(|run| record(run, "topk/teacher=x"));
    assert_eq!(seen, ["error files: topk/teacher=x"]);
    let seen = found(|run| record(run, "checkpoints/x"));
    assert_eq!(seen, ["error files: checkpoints/x"]);
    let seen = found(|run| {
        record(run, "topk/teacher=p");
        std::fs::write(run.stages().join("score-y.json"), "{").unwrap();
    });
    assert_eq!(seen, ["error files: stages/score-y.json"]);
    let seen = found(|run| std::fs::create_dir_all(run.root().join("variants/a")).unwrap());
    assert_eq!(seen, ["error files: variants/a"]);
    let seen = found(|run| std::fs::create_dir_all(run.checkpoint("a")).unwrap());
    assert_eq!(seen, ["error files: checkpoints/a"]);
    // From before there were records: said, not refused.
    let seen = found(|run| {
        let seal = part(run).with_file_name("_part-00000.json");
        std::fs::remove_file(seal).unwrap();
    });
    assert_eq!(seen, ["warning files: topk/teacher=p/part-00000.parquet"]);
}

/// Records that a stage wrote `path`; `begun`: and was begun again since.
fn record(run: &RunDir, path: &str, begun: bool) {
    let record = StageRecord {
        step: "score x".to_owned(),
        fingerprint: "f".to_owned(),
        outputs: vec!["i".to_owned()],
        seconds: 1.0,
        bytes: 1,
        summary: String::new(),
        paths: vec![path.into()],
        begun,
    };
    std::fs::create_dir_all(run.stages()).unwrap();
    let text = serde_json::to_string(&record).unwrap();
    std::fs::write(run.stages().join("score-x.json"), text).unwrap();
}

#[test]
fn what_is_being_written_again_is_only_missed_by_statements_that_read_it() {
    for path in ["topk/teacher=p/part-00000.parquet", "topk/teacher=p"] {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::new(dir.path());
        write_run(&run);
        let place = run.root().join(path);
        match place.is_dir() {
            true => std::fs::remove_dir_all(place).unwrap(),
            false => std::fs::remove_file(place).unwrap(),
        }
        record(&run, "topk/teacher=p", false);
        let error = Session::open_whole(&run, &options()).err().unwrap();
        assert!(error.to_string().contains("topk/teacher=p"), "{error}");
        record(&run, "topk/teacher=p", true);
        let session = Session::open_whole(&run, &options()).unwrap();
        let count = |table: &str| {
            let statement = format!("SELECT COUNT(*) FROM {table}");
            session.query(&statement, &Params::new()).map(drop)
        };
        for table in ["steps", "tokens", "projected"] {
            count(table).unwrap();
        }
        for table in ["topk", "topk_stored", "token_ce"] {
            let error = count(table).unwrap_err().to_string();
            assert!(
                error.contains("`topk`") && error.contains("teacher=p"),
                "{error}"
            );
        }
    }
}

#[test]
fn a_checkpoint_that_is_being_written_again_is_missed_by_no_statement() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    write_run(&run);
    std::fs::create_dir_all(run.checkpoint("c")).unwrap();
    record(&run, "checkpoints/c", false);
    assert!(Session::open_whole(&run, &options()).is_err());
    record(&run, "checkpoints/c", true);
    Session::open_whole(&run, &options()).unwrap();
    let found = check_run(&run, &options(), 0).unwrap();
    assert_eq!(found[0].artifact, "checkpoints/c");
    assert_eq!(found[0].level, Level::Error);
}

#[test]
fn a_limit_does_not_hide_that_rows_are_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    write_run(&run);
    let mut columns = projected();
    columns[1] = u32s(&[1, 1, 0]);
    write(&run, Kind::Projected, &["s"], 2, columns);
    let old = run.root().join("samples/_part-00000.json");
    std::fs::remove_file(old).unwrap();
    for limit in [1, 0] {
        let found = check_run(&run, &options(), limit).unwrap();
        let found: Vec<_> = found.iter().map(|f| (f.level, f.check.as_str())).collect();
        let expected = [(Level::Warning, "files"), (Level::Error, "rows_in_order")];
        assert_eq!(found, expected, "limit {limit}");
    }
}

#[test]
fn a_limit_does_not_hide_the_errors_of_a_check_behind_its_warnings() {
    let dir = tempfile::tempdir().unwrap();
    let checks = dir.path().join("sql/checks");
    std::fs::create_dir_all(&checks).unwrap();
    let mine = "-- about: mine
SELECT 'mine' AS \"check\", column1 AS level, 'a' AS artifact, CAST(NULL AS BIGINT) AS sample_id,
    'd' AS detail, CAST(NULL AS DOUBLE) AS value
FROM (VALUES ('warning'), ('warning'), ('error'), ('warning'))";
    std::fs::write(checks.join("mine.sql"), mine).unwrap();
    let options = SessionOptions {
        sql_dir: Some(dir.path().join("sql")),
        ..Default::default()
    };
    let session = Session::open(&RunDir::new(dir.path()), &options).unwrap();
    for (limit, expected) in [(1, 1), (2, 2), (0, 4)] {
        let found = run_checks(&session, limit).unwrap();
        assert_eq!(found.len(), expected);
        assert_eq!(found[0].level, Level::Error);
    }
}

#[test]
fn pages_that_cannot_be_read_are_findings_and_other_errors_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path().join("run"));
    write_run(&run);
    let folder = run.artifact(Kind::Steps, &["t"]);
    std::fs::remove_file(folder.join("_part-00000.json")).unwrap();
    let part = folder.join("part-00000.parquet");
    let whole = std::fs::read(&part).unwrap();
    let mut damaged = whole.clone();
    damaged[4..40].fill(0xff);
    std::fs::write(&part, damaged).unwrap();
    let found = check_run(&run, &options(), 0).unwrap();
    let errors: Vec<_> = found.iter().filter(|f| f.level == Level::Error).collect();
    assert!(!errors.is_empty());
    for error in &errors {
        assert!(
            error.artifact.contains("steps") && error.detail.contains("damaged"),
            "{error}"
        );
    }
    let session = Session::open(&run, &options()).unwrap();
    let error = session.query("SELECT SUM(step) FROM steps", &Params::new());
    let error = error.unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
    std::fs::write(&part, whole).unwrap();

    // Mistakes of a user's own check that show when it runs.
    let checks = dir.path().join("sql/checks");
    std::fs::create_dir_all(&checks).unwrap();
    for statement in [
        "SELECT CAST(token AS BIGINT) AS x FROM vocab",
        "SELECT CAST(step + 9223372036854775806 AS TINYINT) AS x FROM steps",
    ] {
        std::fs::write(
            checks.join("mine.sql"),
            format!("-- about: mine\n{statement}"),
        )
        .unwrap();
        let options = SessionOptions {
            sql_dir: Some(dir.path().join("sql")),
            ..Default::default()
        };
        let error = check_run(&run, &options, 0).unwrap_err();
        assert_eq!(error.exit_code(), 1, "{statement}: {error}");
    }
}
