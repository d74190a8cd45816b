//! The worked examples of the method's description.

use super::*;

/// A text cut twice, with rows of the source.
fn case(
    text: &str,
    pivot: (&[&str], &[TokenId]),
    source: (&[&str], &[TokenId]),
    rows: &[SourceRow],
) -> Case {
    let (ours, theirs) = (vocabulary("pivot", pivot.0), vocabulary("source", source.0));
    let cut = |vocabulary: &Vocabulary, ids: &[TokenId]| {
        let mut ends = vec![0];
        for id in ids {
            ends.push(ends[ends.len() - 1] + vocabulary.bytes(*id).len() as u32);
        }
        let ids: Vec<TokenId> = std::iter::once(0).chain(ids.iter().copied()).collect();
        sample_tokens(&ids, &ends)
    };
    let (tokens, source_tokens) = (cut(&ours, pivot.1), cut(&theirs, source.1));
    Case {
        links: links(&tokens, &source_tokens.ids, &source_tokens.byte_end),
        rows: source_rows(rows),
        map: vec![map_row(0, 0, 1.0, 1)],
        by_map: false,
        matching: Matching::Offsets,
        text: text.to_owned(),
        source: theirs,
        pivot: ours,
        longest: 9,
        tokens,
        source_tokens,
        own: None,
    }
}

fn first(short: Short) -> ProjectOptions {
    ProjectOptions {
        short: Some(short),
        min_read: 0.0,
        top_k: Some(9),
        ..Default::default()
    }
}

/// `123 x` for a source of single digits.
fn digits() -> Case {
    case(
        "123 x",
        (&["123", " x", "4", "10", "125"], &[1, 2]),
        (&["1", "2", "3", " x", "4", "0", "5"], &[1, 2, 3, 4]),
        &[
            (0, 1, vec![(1, 0.6), (5, 0.3)]),
            (1, 2, vec![(2, 0.5), (6, 0.4)]),
            (2, 3, vec![(3, 0.7), (7, 0.2)]),
            (3, 4, vec![(4, 1.0)]),
        ],
    )
}

#[test]
fn a_pivot_token_of_several_source_tokens() {
    let rows = digits().project(&first(Short::First));
    let list = [(3, 0.3), (4, 0.24), (1, 0.21), (5, 0.06)];
    check(&rows[0], Projection::Followed, &list, 0.19);
    assert!(near(rows[0].target_logprob.into(), 0.21f64.ln()));
    let nll = -(0.6f64 * 0.5 * 0.7).ln();
    assert!(near(rows[0].origin.source_nll.unwrap().into(), nll));
    check(&rows[1], Projection::SameEnd, &[(2, 1.0)], 0.0);
}

#[test]
fn a_source_token_of_several_pivot_tokens() {
    let rows = case(
        "123",
        (&["1", "23", "2"], &[1, 2]),
        (&["123", "1", "12"], &[1]),
        &[(0, 1, vec![(1, 0.5), (2, 0.3), (3, 0.2)])],
    );
    let rows = rows.project(&first(Short::First));
    check(&rows[0], Projection::SameEnd, &[(1, 1.0)], 0.0);
    check(
        &rows[1],
        Projection::Conditioned,
        &[(2, 0.5), (3, 0.2)],
        0.3,
    );
    assert!(near(rows[1].origin.unknown.into(), 0.3));
}

#[test]
fn a_reading_goes_to_the_first_token_of_all_its_bytes() {
    let rows = case(
        "123",
        (&["12", "3", "125"], &[1, 2]),
        (&["123", "125"], &[1]),
        &[(0, 1, vec![(1, 0.5), (2, 0.4)])],
    );
    let rows = rows.project(&first(Short::First));
    check(&rows[0], Projection::SameEnd, &[(1, 0.5), (3, 0.4)], 0.1);
    check(&rows[1], Projection::Conditioned, &[(2, 1.0)], 0.0);
}

#[test]
fn at_a_shared_end_other_readings_are_still_alive() {
    let rows = case(
        "thx",
        (&["th", "e", "x", "y"], &[1, 3]),
        (&["th", "the", "x", "y"], &[1, 3]),
        &[
            (0, 1, vec![(1, 0.2), (2, 0.7)]),
            (1, 3, vec![(3, 0.6), (4, 0.3)]),
        ],
    );
    let rows = rows.project(&first(Short::First));
    check(&rows[0], Projection::SameEnd, &[(1, 0.9)], 0.1);
    let list = [(2, 0.778), (3, 0.133), (4, 0.067)];
    check(&rows[1], Projection::SameEnd, &list, 0.022);
    let product: f64 = rows.iter().map(|row| f64::from(row.target_logprob)).sum();
    assert!(near(product, (0.2f64 * 0.6).ln()));
}

#[test]
fn short_readings_go_where_the_pivot_would_go() {
    // The pivot's tokens are `1`, `12`, `125`, `4` and `40`; the source says `1` and `4`.
    let mut numbers = case(
        "40",
        (&["1", "12", "125", "4", "40"], &[5]),
        (&["1", "4", "0", "12"], &[2, 3]),
        &[
            (0, 2, vec![(1, 0.5), (2, 0.4)]),
            (1, 3, vec![(3, 0.5), (1, 0.5)]),
        ],
    );
    numbers.own = Some(source_rows(&[(
        0,
        5,
        vec![(1, 0.2), (2, 0.3), (3, 0.1), (5, 0.2)],
    )]));
    // `1` stays where it is.
    let stays = numbers.project(&first(Short::First));
    check(
        &stays[0],
        Projection::Followed,
        &[(1, 0.5), (4, 0.2), (5, 0.2)],
        0.1,
    );
    assert!(near(stays[0].origin.short.into(), 0.5));
    let tail = numbers.project(&first(Short::Tail));
    check(&tail[0], Projection::Followed, &[(4, 0.2), (5, 0.2)], 0.6);
    // A source that meant `12` has a token for it: `1` can be `1` alone.
    let spread = numbers.project(&first(Short::Pivot));
    check(
        &spread[0],
        Projection::Followed,
        &[(1, 0.5), (4, 0.2), (5, 0.2)],
        0.1,
    );
    // Without that token `1` may be the beginning of any of the three.
    numbers.source = vocabulary("source", &["1", "4", "0", "9"]);
    let spread = numbers.project(&first(Short::Pivot));
    let list = [
        (2, 0.25),
        (4, 0.2),
        (5, 0.2),
        (1, 0.5 / 3.0),
        (3, 0.25 / 3.0),
    ];
    check(&spread[0], Projection::Followed, &list, 0.1);
    // Where the pivot lists none of them, and where it has no row, it stays.
    numbers.own = Some(source_rows(&[(0, 5, vec![(5, 0.9)])]));
    let stays = numbers.project(&first(Short::Pivot));
    check(
        &stays[0],
        Projection::Followed,
        &[(1, 0.5), (4, 0.2), (5, 0.2)],
        0.1,
    );
    numbers.own = Some(source_rows(&[(1, 5, vec![(5, 0.9)])]));
    check(
        &numbers.project(&first(Short::Pivot))[0],
        Projection::Followed,
        &[(1, 0.5), (4, 0.2), (5, 0.2)],
        0.1,
    );
}

#[test]
fn what_is_spread_onto_the_next_token_lives_on_as_unknown() {
    // The source's `4` beside the path `40` may become the pivot's `40`.
    let mut numbers = case(
        "40 x",
        (&["4", "40", " x"], &[2, 3]),
        (&["4", "40", " x"], &[2, 3]),
        &[(0, 2, vec![(2, 0.5), (1, 0.5)]), (1, 3, vec![(3, 0.8)])],
    );
    numbers.source = vocabulary("source", &["4", "40", " x"]);
    numbers.own = Some(source_rows(&[(0, 2, vec![(1, 0.25), (2, 0.75)])]));
    // The source has a longer token for it, so it means `4`.
    let rows = numbers.project(&first(Short::Pivot));
    check(&rows[0], Projection::SameEnd, &[(1, 0.5), (2, 0.5)], 0.0);
    assert_eq!(rows[1].origin.unknown, 0.0);
    // `4` as the first of several tokens.
    let mut numbers = digits();
    numbers.pivot = vocabulary("pivot", &["123", " x", "1", "12"]);
    numbers.source = vocabulary("source", &["1", "2", "3", " x", "12"]);
    numbers.rows = source_rows(&[
        (0, 1, vec![(1, 0.5), (5, 0.5)]),
        (1, 2, vec![(2, 1.0)]),
        (2, 3, vec![(3, 1.0)]),
        (3, 4, vec![(4, 1.0)]),
    ]);
    numbers.own = Some(source_rows(&[(0, 1, vec![(1, 0.75), (4, 0.25)])]));
    let rows = numbers.project(&first(Short::Pivot));
    // The reading `12` is short: three quarters of it become `123`.
    check(
        &rows[0],
        Projection::Followed,
        &[(1, 0.875), (4, 0.125)],
        0.0,
    );
    assert!(near(rows[1].origin.unknown.into(), 0.375 / 0.875));
    check(
        &rows[1],
        Projection::SameEnd,
        &[(2, 0.5 / 0.875)],
        0.375 / 0.875,
    );
    let product: f64 = rows.iter().map(|row| f64::from(row.target_logprob)).sum();
    assert!(near(product, 0.5f64.ln()), "{product}");
}
