//! By hand.

use super::*;

#[test]
fn readings_by_hand() {
    let rows = thencat().project(&ProjectOptions::default());
    assert_eq!(rows.len(), 3);
    // `the`, `then` and `there` add up on `th`; no pivot token begins `zzz`.
    check(&rows[0], Projection::SameEnd, &[(TH, 0.8), (A, 0.1)], 0.1);
    assert!(near(rows[0].target_logprob.into(), 0.8f64.ln()));
    // The source's token `then` begins here, half of 0.8 and an eighth of it is owed.
    assert!(near(
        rows[0].origin.source_nll.unwrap().into(),
        -(0.5f64.ln())
    ));
    assert!(near(rows[0].origin.owed.into(), -((0.5 / 0.8f64).ln())));
    // After `th`: `then` goes on with `en`, the others with `e`; nothing is left of the tail.
    let after = [(EN, 0.5 / 0.8), (E, 0.3 / 0.8)];
    check(&rows[1], Projection::Conditioned, &after, 0.0);
    assert_eq!(rows[1].origin.source_nll, Some(0.0));
    assert!(near(rows[1].origin.owed.into(), 0.0));
    check(&rows[2], Projection::SameEnd, &[(CAT, 0.9)], 0.1);
    assert!(
        rows.iter()
            .all(|row| row.written && row.origin.named == Some(true))
    );
    let product: f64 = rows.iter().map(|row| f64::from(row.target_logprob)).sum();
    assert!(near(product, (0.5f64 * 0.9).ln()));
}

#[test]
fn the_token_that_follows_is_always_listed() {
    let mut case = thencat();
    // `then` is not listed, but its probability is known.
    case.rows = source_rows(&[(0, 2, vec![(5, 0.4), (6, 0.2)]), (1, 3, vec![(5, 0.9)])]);
    let rows = case.project(&ProjectOptions::default());
    let known = f64::from(-5.0f32).exp();
    let (sum, left) = (0.6 + (0.4 - known), 1.0 - known);
    let expected = [(A, 0.4 * left / sum), (TH, known)];
    check(
        &rows[0],
        Projection::SameEnd,
        &expected,
        1.0 - known - 0.4 * left / sum,
    );
    assert!((rows[0].target_logprob + 5.0).abs() < 1e-4, "{:?}", rows[0]);
    assert_eq!(rows[0].list.last().unwrap().0, TH);
    assert_eq!(rows[2].list.last().unwrap().0, CAT);
}

#[test]
fn lists_are_cut_to_k_and_width_splits() {
    let options = ProjectOptions {
        top_k: Some(1),
        ..Default::default()
    };
    let rows = thencat().project(&options);
    check(&rows[0], Projection::SameEnd, &[(TH, 0.8)], 0.2);
    let mut case = thencat();
    case.by_map = true;
    let rows = case.try_project(&ProjectOptions::default(), 2).unwrap();
    let split = [(TH, 0.775), (A, 0.1), (E, 0.025)];
    check(&rows[0], Projection::SameEnd, &split, 0.1);
}

#[test]
fn the_map_says_where_one_token_goes() {
    let mut case = thencat();
    case.by_map = true;
    // `the` goes to `a`, `zzz` to `th`: neither goes on after `th`, one is unknown from then on.
    case.map[1].pivot_id = A;
    case.map.push(map_row(6, TH, 1.0, 1));
    case.map.sort_by_key(|row| (row.source_id, row.rank));
    let rows = case.project(&ProjectOptions::default());
    let th = 0.5 + 0.1 + 0.05;
    check(&rows[0], Projection::SameEnd, &[(TH, th), (A, 0.3)], 0.05);
    check(
        &rows[1],
        Projection::Conditioned,
        &[(EN, 0.5 / th), (E, 0.1 / th)],
        0.05 / th,
    );
    assert!(near(rows[1].origin.unknown.into(), 0.05 / th));
    assert!(rows.iter().all(|row| row.origin.named == Some(true)));
    // A map that is wrong does not name what follows.
    case.map[2].pivot_id = CAT;
    let rows = case.project(&ProjectOptions::default());
    assert_eq!(rows[0].origin.named, Some(false));
    assert!(near(
        rows[0].target_logprob.into(),
        (0.5f64 + 0.1 + 0.05).ln()
    ));
}

#[test]
fn fallbacks_stand_where_too_little_arrives() {
    let with = |fallback, min_mass, min_read| {
        let options = ProjectOptions {
            fallback,
            min_mass,
            min_read,
            ..Default::default()
        };
        let mut case = thencat();
        // `zzz` and `there` have no counterpart.
        case.by_map = true;
        case.map.retain(|row| row.source_id != 4);
        case.project(&options)
    };
    let rows = with(Fallback::OneHot, 0.9, 0.0);
    check(&rows[0], Projection::OneHot, &[(TH, 1.0)], 0.0);
    assert_eq!(
        (rows[0].target_logprob, rows[0].origin),
        (0.0, Origin::default())
    );
    // Its readings are given up, until both models have read the same text.
    assert_eq!(rows[1].projection, Projection::OneHot);
    assert_eq!(rows[2].projection, Projection::SameEnd);
    let rows = with(Fallback::Skip, 0.3, 0.75);
    check(&rows[1], Projection::Skipped, &[], 1.0);
    // They begin anew where both models have read the same text.
    assert_eq!(rows[2].projection, Projection::SameEnd);
    let rows = with(Fallback::Pivot, 1.0, 1.0);
    assert!(!rows[0].written && !rows[1].written && rows[2].written);

    // The fallback names the *next* token.
    let rows = with(Fallback::OneHot, 1.0, 1.0);
    assert_eq!((rows[0].list[0].0, rows[1].list[0].0), (TH, EN));
}

#[test]
fn missing_rows_are_missing_and_bad_ones_an_error() {
    let mut case = thencat();
    case.rows = source_rows(&[(1, 3, vec![(3, 0.9)])]);
    let rows = case.project(&ProjectOptions::default());
    check(&rows[0], Projection::Missing, &[], 1.0);
    // What came before is not known, and the position lies within a token.
    check(&rows[1], Projection::OneHot, &[(EN, 1.0)], 0.0);
    check(&rows[2], Projection::SameEnd, &[(CAT, 0.9)], 0.1);

    case.rows = source_rows(&[(0, 2, vec![(2, 0.5)]), (1, 3, vec![(3, f32::NAN)])]);
    let bad = case.try_project(&ProjectOptions::default(), 1).unwrap_err();
    assert_eq!(bad.pos, 1);
}

#[test]
fn what_is_supervised_may_begin_within_a_source_token() {
    // Only `en` and `cat` are learnt; the source's `then` begins before.
    let mut case = thencat();
    case.tokens.supervised[1] = false;
    let rows = case.project(&ProjectOptions::default());
    assert_eq!(rows.len(), 2);
    check(
        &rows[0],
        Projection::Conditioned,
        &[(EN, 0.5 / 0.8), (E, 0.3 / 0.8)],
        0.0,
    );
    // Without its row nothing is known.
    case.rows = source_rows(&[(1, 3, vec![(3, 0.9)])]);
    let rows = case.project(&ProjectOptions::default());
    check(&rows[0], Projection::OneHot, &[(EN, 1.0)], 0.0);
}

#[test]
fn an_added_blank_is_none_of_the_text() {
    // The text is `then`; the source's token has a blank that the text has not.
    let mut case = thencat();
    case.source = vocabulary("source", &[" then", " there", " this", "then"]);
    case.map = vec![map_row(1, TH, 1.0, 1)];
    case.text = "then".to_owned();
    case.tokens = sample_tokens(&[0, TH, EN], &[0, 2, 4]);
    case.tokens.supervised[1] = false;
    case.source_tokens = sample_tokens(&[0, 1], &[0, 4]);
    case.links = links(&case.tokens, &[0, 1], &[0, 4]);
    case.rows = source_rows(&[(0, 1, vec![(1, 0.5), (2, 0.2), (3, 0.2), (4, 0.1)])]);
    let rows = case.project(&ProjectOptions::default());
    // ` this` begins with ` th` too, but no pivot token begins `is`.
    check(
        &rows[0],
        Projection::Conditioned,
        &[(EN, 0.6), (E, 0.2)],
        0.2,
    );
}

#[test]
fn a_token_without_width_changes_nothing() {
    let mut case = thencat();
    // A prefix of the source, and one of the pivot.
    case.source_tokens = sample_tokens(&[0, 5, 2, 3], &[0, 0, 4, 7]);
    case.tokens = sample_tokens(&[0, A, TH, EN, CAT], &[0, 0, 2, 4, 7]);
    case.tokens.supervised[1] = false;
    case.links = links(
        &case.tokens,
        &case.source_tokens.ids,
        &case.source_tokens.byte_end,
    );
    case.rows = source_rows(&[
        (
            1,
            2,
            vec![(2, 0.5), (1, 0.2), (4, 0.1), (5, 0.1), (6, 0.05)],
        ),
        (2, 3, vec![(3, 0.9)]),
    ]);
    let (rows, plain) = (
        case.project(&ProjectOptions::default()),
        thencat().project(&ProjectOptions::default()),
    );
    for (row, plain) in rows.iter().zip(&plain) {
        check(row, plain.projection, &plain.list, plain.tail);
    }
}
