//! Positions aligned by warping.

use super::*;
use crate::project::counts::PairCounts;

/// `thencat`, for the pivot `then|cat`, for the source `th|en|cat`.
fn warped(counts: Option<Vec<(TokenId, TokenId, u64)>>) -> Case {
    let pivot = vocabulary("pivot", &["then", "cat", "en", "x"]);
    let source = vocabulary("source", &["th", "en", "cat", "zzz"]);
    let tokens = sample_tokens(&[0, 1, 2], &[0, 4, 7]);
    let mut rows = AlignmentBuilder::default();
    let link = |begin, end, kind| Link {
        source_begin: begin,
        source_end: end,
        source_pos: (end - begin == 1).then_some(begin),
        kind,
    };
    rows.push(0, 0, 0, link(0, 1, LinkKind::OneToOne), [0]);
    rows.push(0, 1, 1, link(1, 3, LinkKind::OneToMany), [1, 2]);
    rows.push(0, 2, 2, link(3, 4, LinkKind::OneToOne), [3]);
    Case {
        links: rows.finish().unwrap(),
        rows: source_rows(&[
            (0, 1, vec![(1, 0.6), (3, 0.4)]),
            (1, 2, vec![(2, 0.5), (3, 0.3)]),
            (2, 3, vec![(3, 0.9)]),
        ]),
        map: vec![
            map_row(0, 0, 1.0, 1),
            map_row(1, 1, 1.0, 1),
            map_row(2, 3, 1.0, 1),
            map_row(3, 2, 1.0, 1),
        ],
        by_map: true,
        matching: Matching::Dtw(counts.map(PairCounts::from_pairs)),
        text: "thencat".to_owned(),
        source,
        pivot,
        longest: 9,
        tokens,
        source_tokens: sample_tokens(&[0, 1, 2, 3], &[0, 2, 4, 7]),
        own: None,
    }
}

#[test]
fn several_source_tokens_are_averaged_by_counts() {
    let counts = vec![(1, 1, 1), (2, 1, 3)];
    let rows = warped(Some(counts)).project(&ProjectOptions::default());
    check(&rows[0], Projection::SameEnd, &[(1, 0.6), (2, 0.4)], 0.0);
    // A quarter of the row after `th`, three quarters of the one after `en`.
    let list = [(2, 0.25 * 0.3 + 0.75 * 0.9), (3, 0.25 * 0.5)];
    check(
        &rows[1],
        Projection::Averaged,
        &list,
        0.25 * 0.2 + 0.75 * 0.1,
    );
    // What the source thinks of `cat` after `then`.
    assert!(near(
        rows[1].origin.source_nll.unwrap().into(),
        -(0.9f64.ln())
    ));
}

#[test]
fn without_counts_several_source_tokens_are_no_distribution() {
    let rows = warped(None).project(&ProjectOptions::default());
    check(&rows[1], Projection::OneHot, &[(2, 1.0)], 0.0);
}

#[test]
fn one_linked_token_counts_where_the_pieces_end_alike() {
    let mut case = warped(None);
    let with = |case: &Case, source_id: TokenId| {
        let mut rows = AlignmentBuilder::default();
        let link = Link {
            source_begin: 1,
            source_end: 2,
            source_pos: Some(1),
            kind: LinkKind::OneToOne,
        };
        rows.push(0, 0, 0, link, [0]);
        rows.push(0, 1, case.tokens.ids[1], link, [source_id]);
        rows.push(0, 2, 2, link, [3]);
        rows.finish().unwrap()
    };
    // `en` ends `then`; `th` does not.
    case.links = with(&case, 2);
    assert_eq!(
        case.project(&ProjectOptions::default())[1].projection,
        Projection::SameEnd
    );
    case.links = with(&case, 1);
    assert_eq!(
        case.project(&ProjectOptions::default())[1].projection,
        Projection::OneHot
    );
    // The other way round: the pivot's `en`, the source's `then`.
    case.source = vocabulary("source", &["th", "then", "cat", "zzz"]);
    case.tokens.ids[1] = 3;
    case.links = with(&case, 2);
    assert_eq!(
        case.project(&ProjectOptions::default())[1].projection,
        Projection::SameEnd
    );
    // A special token ends with nothing but one of its role.
    case.links = with(&case, 0);
    assert_eq!(
        case.project(&ProjectOptions::default())[1].projection,
        Projection::OneHot
    );
}

#[test]
fn rows_that_are_missing_are_left_out_of_the_mean() {
    let mut case = warped(Some(vec![(1, 1, 1), (2, 1, 3)]));
    case.rows = source_rows(&[(2, 3, vec![(3, 0.9)])]);
    let rows = case.project(&ProjectOptions::default());
    check(&rows[0], Projection::Missing, &[], 1.0);
    check(&rows[1], Projection::Averaged, &[(2, 0.9)], 0.1);
    case.rows = source_rows(&[(5, 3, vec![(3, 0.9)])]);
    let rows = case.project(&ProjectOptions::default());
    check(&rows[1], Projection::Missing, &[], 1.0);
}
