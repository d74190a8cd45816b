//! Lists that are distributions, and lists that are not.

use super::super::found::{FoundRow, Values};
use super::super::rows::{Limits, Row, complete};
use super::*;

const LIMITS: Limits = Limits {
    vocabulary: 10,
    head: 12,
};

fn list(entries: &[(u32, f32)], are: Values) -> FoundRow {
    FoundRow {
        next: 1,
        ids: entries.iter().map(|e| e.0).collect(),
        values: entries.iter().map(|e| e.1.ln()).collect(),
        are,
    }
}

/// The distribution about token 7.
fn about_7(row: FoundRow) -> (std::result::Result<Row, String>, ImportSummary) {
    let mut summary = ImportSummary::default();
    let row = complete(row, 7, LIMITS, &mut summary);
    (row, summary)
}

fn right(row: FoundRow) -> (Row, ImportSummary) {
    let (row, summary) = about_7(row);
    (row.unwrap(), summary)
}

fn wrong(row: FoundRow) -> String {
    about_7(row).0.unwrap_err()
}

#[test]
fn lists_of_more_than_everything() {
    // Up to 2 % more is rounding.
    let (row, summary) = right(list(&[(4, 0.8), (2, 0.21)], Values::Logprobs(None)));
    assert_eq!((summary.scaled, summary.bounded), (1, 1));
    assert!(near(row.logprobs[0].exp(), 0.8 / 1.01));
    assert_eq!(row.tail_logprob, f32::NEG_INFINITY);
    // Not listed, and nothing is left: no more than the least.
    assert!(near(row.target_logprob.exp(), 0.21 / 1.01));
    let (_, summary) = right(list(&[(4, 0.8), (2, 0.2005)], Values::Logprobs(None)));
    assert_eq!(summary.scaled, 0);
    let error = wrong(list(&[(4, 0.8), (2, 0.23)], Values::Logprobs(None)));
    assert!(error.contains("holds 1.030"), "{error}");
    // An approximation may be further off, what is exact in it may not.
    let (row, _) = right(list(&[(4, 0.5), (2, 0.55)], Values::Approximate(1)));
    assert!(near(row.logprobs[0].exp(), 0.5 / 1.05));
    let error = wrong(list(&[(4, 0.5), (2, 0.65)], Values::Approximate(1)));
    assert!(error.contains("holds 1.150"), "{error}");
    let error = wrong(list(&[(4, 0.5), (2, 0.55)], Values::Approximate(2)));
    assert!(
        error.contains("exact part of its list holds 1.050"),
        "{error}"
    );
}

#[test]
fn a_true_token_with_more_than_is_left() {
    for own in [0.3, 0.1] {
        // Listed, it is one entry.
        let listed = list(&[(4, 0.6), (7, own)], Values::Logprobs(Some(own.ln())));
        let (row, _) = right(listed);
        assert!(near(row.target_logprob.exp(), own));
        assert!(near(row.tail_logprob.exp(), 0.4 - own));
    }
    let unlisted =
        |least: f32, own: f32| list(&[(4, 0.5), (2, least)], Values::Logprobs(Some(own.ln())));
    let (row, _) = right(unlisted(0.3, 0.2));
    assert!(near(row.target_logprob.exp(), 0.2) && near(row.tail_logprob.exp(), 0.2));
    let error = wrong(unlisted(0.3, 0.25));
    assert!(
        error.contains("true token 7") && error.contains("hold 1.050"),
        "{error}"
    );
    let error = wrong(unlisted(0.1, 0.3));
    assert!(error.contains("above the least of the list"), "{error}");
}

#[test]
fn what_is_no_log_probability() {
    let with = |x: f32, are| FoundRow {
        next: 1,
        ids: vec![4, 2],
        values: vec![0.5f32.ln(), x],
        are,
    };
    for are in [
        Values::Logprobs(None),
        Values::Approximate(1),
        Values::Logits(None),
    ] {
        for x in [f32::NAN, f32::INFINITY] {
            let error = wrong(with(x, are));
            assert!(error.contains("is no log"), "{error}");
        }
        // Not listed.
        let (row, _) = right(with(f32::NEG_INFINITY, are));
        assert_eq!(row.ids, [4]);
    }
    for are in [Values::Logprobs(None), Values::Approximate(1)] {
        let (row, _) = right(with(-9999.0, are));
        assert_eq!(row.ids, [4]);
        let (row, _) = right(with(-9998.0, are));
        assert_eq!(row.ids, [4, 2]);
    }
    // Logits are as low as they are.
    let (row, _) = right(with(-20_000.0, Values::Logits(None)));
    assert_eq!(row.ids, [4, 2]);
    let error = wrong(with(0.3, Values::Logprobs(None)));
    assert!(error.contains("0.3 is no log-probability"), "{error}");
    // A rounded 0 is certainty.
    let sure = FoundRow {
        next: 1,
        ids: vec![7],
        values: vec![1e-6],
        are: Values::Logprobs(Some(1e-6)),
    };
    let (row, _) = right(sure);
    assert_eq!(row.target_logprob, 0.0);
    for own in [f32::NEG_INFINITY, -9999.0, f32::NAN, 0.5] {
        let error = wrong(list(&[(4, 0.5)], Values::Logprobs(Some(own))));
        assert!(error.contains("log-probability"), "{error}");
    }
}

#[test]
fn ids_beyond_the_vocabulary_and_ids_that_come_twice() {
    let padded = |are| list(&[(4, 0.5), (11, 0.25), (7, 0.125)], are);
    for are in [
        Values::Logprobs(None),
        Values::Logprobs(Some(0.125f32.ln())),
        Values::Approximate(1),
    ] {
        let (row, summary) = right(padded(are));
        assert_eq!((row.ids.as_slice(), summary.padded), (&[4, 7][..], 1));
        assert!(near(row.tail_logprob.exp(), 0.375));
    }
    // The list is everything but the padded row.
    let (row, _) = right(padded(Values::Logits(None)));
    assert!(near(row.tail_logprob.exp(), 0.25 / 0.875));
    let (row, _) = right(padded(Values::Logits(Some(-(0.125f32.ln())))));
    assert!(near(row.tail_logprob.exp(), 0.375));
    let error = wrong(list(&[(4, 0.5), (12, 0.25)], Values::Logprobs(None)));
    assert!(error.contains("id 12 is beyond the 12 rows"), "{error}");
    let error = wrong(list(&[(4, 0.5), (4, 0.25)], Values::Logprobs(None)));
    assert!(error.contains("id 4 is listed twice"), "{error}");
    // What is not filled may be any id.
    let (row, summary) = right(list(
        &[(4, 0.5), (99, 0.0), (4, 0.0)],
        Values::Logprobs(None),
    ));
    assert_eq!((row.ids.as_slice(), summary.padded), (&[4][..], 0));
}

/// Half floats, as FuseLLM's program stores them.
#[test]
fn logits_are_rounded() {
    let half = |x: f32| half::f16::from_f32(x).to_f32();
    for shift in [0.0, 18.0, 70.0, -70.0] {
        let values = [0.97f32, 0.02, 0.009].map(|p| half(p.ln() + shift));
        let row = FoundRow {
            next: 1,
            ids: vec![7, 1, 2],
            values: values.to_vec(),
            are: Values::Logits(Some(half(-(0.97f32.ln())))),
        };
        let (row, _) = right(row);
        assert!((row.target_logprob.exp() - 0.97).abs() < 0.01);
    }
}
