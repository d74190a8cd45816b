use super::fixture::*;
use super::*;
use crate::artifact::Kind;

/// What the checks find in the fixture after `damage`, as `check: artifact [sample]`.
fn found(damage: impl FnOnce(&RunDir)) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let run = RunDir::new(dir.path());
    write_run(&run);
    damage(&run);
    run_checks(&session(dir.path()), 0)
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
    assert_eq!(with([&[1, 1], &[1, 5]], levels), error(1));
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
    assert_eq!(outside, ["error topk_ids_in_vocab: topk/teacher=p 1"]);
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
    assert_eq!(with([0.5, 0.5, 0.25, f64::NAN, 0.75, 0.25]), error);
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
                lists_u32(&[&[0, 1], &[3, 1]]),
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
