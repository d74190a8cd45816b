//! By hand.

use super::*;

#[test]
fn same_end_and_conditioned_by_hand() {
    let rows = thencat().project(&ProjectOptions::default());
    assert_eq!(rows.len(), 3);
    // `the`, `then` and `there` add up on `th`; `zzz` has no counterpart.
    check(&rows[0], Projection::SameEnd, &[(TH, 0.8), (A, 0.1)], 0.1);
    assert!(near(rows[0].target_logprob.into(), 0.8f64.ln()));
    assert!(near(rows[0].source_nll.unwrap().into(), -(0.5f64.ln())));
    // After `th`: `then` goes on with `en`, `the` and `there` with `e`.
    let scale = 0.95 / 0.8;
    check(
        &rows[1],
        Projection::Conditioned,
        &[(EN, 0.5 * scale), (E, 0.3 * scale)],
        0.05,
    );
    assert!(near(
        rows[1].source_nll.unwrap().into(),
        -((0.5 / 0.8f64).ln())
    ));
    check(&rows[2], Projection::SameEnd, &[(CAT, 0.9)], 0.1);
    assert!(rows.iter().all(|row| row.written));
}

#[test]
fn lists_are_cut_to_k_and_width_splits() {
    let options = ProjectOptions {
        top_k: Some(1),
        ..Default::default()
    };
    let rows = thencat().project(&options);
    check(&rows[0], Projection::SameEnd, &[(TH, 0.8)], 0.2);
    let rows = thencat()
        .try_project(&ProjectOptions::default(), 2)
        .unwrap();
    let split = [(TH, 0.775), (A, 0.1), (E, 0.025)];
    check(&rows[0], Projection::SameEnd, &split, 0.1);
}

#[test]
fn fallbacks_stand_where_too_little_arrives() {
    let with = |inside, fallback, min_mass| {
        let options = ProjectOptions {
            inside,
            fallback,
            min_mass,
            top_k: None,
        };
        thencat().project(&options)
    };
    let rows = with(Inside::Fallback, Fallback::OneHot, 0.3);
    check(&rows[1], Projection::OneHot, &[(EN, 1.0)], 0.0);
    assert_eq!((rows[1].target_logprob, rows[1].source_nll), (0.0, None));
    let rows = with(Inside::Condition, Fallback::Skip, 0.85);
    check(&rows[1], Projection::Skipped, &[], 1.0);
    assert_eq!(rows[2].projection, Projection::SameEnd);
    let rows = with(Inside::Condition, Fallback::Pivot, 0.95);
    assert!(rows.iter().all(|row| !row.written));

    // The fallback names the *next* token.
    let rows = with(Inside::Condition, Fallback::OneHot, 0.95);
    let named: Vec<TokenId> = rows.iter().map(|row| row.list[0].0).collect();
    assert_eq!(named, [TH, EN, CAT]);
}

#[test]
fn missing_rows_are_missing_and_bad_ones_an_error() {
    let mut case = thencat();
    case.rows = source_rows(&[(1, 3, vec![(3, 0.9)])]);
    let rows = case.project(&ProjectOptions::default());
    check(&rows[0], Projection::Missing, &[], 1.0);
    check(&rows[1], Projection::Missing, &[], 1.0);
    check(&rows[2], Projection::SameEnd, &[(CAT, 0.9)], 0.1);

    case.rows = source_rows(&[(0, 2, vec![(2, 0.5)]), (1, 3, vec![(3, f32::NAN)])]);
    let bad = case.try_project(&ProjectOptions::default(), 1).unwrap_err();
    assert_eq!(bad.pos, 1);
}

#[test]
fn an_added_prefix_is_counted_from_the_end_of_the_token() {
    // The text is `then`; the source's token has a space that the text has not.
    let mut case = thencat();
    case.source = vocabulary("source", &[" then", " there", " this", "then"]);
    case.map = vec![map_row(1, TH, 1.0, 1)];
    case.tokens = SampleTokens {
        sample_id: 0,
        ids: vec![0, TH, EN],
        byte_end: vec![0, 2, 4],
        supervised: vec![false, false, true],
    };
    case.links = links(&case.tokens, &[0, 1], &[0, 4]);
    case.rows = source_rows(&[(0, 1, vec![(1, 0.5), (2, 0.2), (3, 0.2), (4, 0.1)])]);
    let rows = case.project(&ProjectOptions::default());
    // ` then` and ` there` begin with ` th`; ` this` too, but no pivot token begins `is`.
    let scale = 1.0 / 0.9;
    let list = [(EN, 0.5 * scale), (E, 0.2 * scale)];
    check(&rows[0], Projection::Conditioned, &list, 0.2 * scale);
}
