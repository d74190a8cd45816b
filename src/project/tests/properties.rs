//! Against the definition, on random texts.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// All strings over `ab` of up to three letters.
fn words() -> Vec<String> {
    let mut words: Vec<String> = vec!["a".into(), "b".into()];
    for at in 0..6 {
        for letter in ["a", "b"] {
            words.push(format!("{}{letter}", words[at]));
        }
    }
    words
}

/// A text cut into tokens twice, and rows of the source with random probabilities.
fn random_case() -> impl Strategy<Value = Case> {
    let cuts = || proptest::collection::vec(1usize..=3, 30);
    let lists = proptest::collection::vec((1u32..15, 0.01f32..1.0), 12 * 30);
    ("[ab]{1,24}", cuts(), cuts(), lists)
        .prop_map(|(text, ours, theirs, lists)| cut_case(text, &ours, &theirs, &lists))
}

/// A text cut into tokens of these widths, for the pivot and the source.
fn cut_case(text: String, ours: &[usize], theirs: &[usize], lists: &[(u32, f32)]) -> Case {
    let words = words();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let cut = |cuts: &[usize]| {
        let (mut ids, mut ends, mut at) = (vec![0u32], vec![0u32], 0);
        for width in cuts {
            let end = (at + width).min(text.len());
            if at < end {
                let word = words
                    .iter()
                    .position(|word| *word == &text[at..end])
                    .unwrap();
                ids.push(word as u32 + 1);
                ends.push(end as u32);
            }
            at = end;
        }
        (ids, ends)
    };
    let (ids, byte_end) = cut(ours);
    let (source_ids, source_end) = cut(theirs);
    let tokens = sample_tokens(&ids, &byte_end);
    let mut rows = Vec::new();
    for pos in 0..source_ids.len() - 1 {
        let mut list: BTreeMap<u32, f32> = BTreeMap::new();
        for (id, mass) in &lists[pos * 12..(pos + 1) * 12] {
            list.insert(*id, *mass);
        }
        let total: f32 = list.values().sum::<f32>() * 1.1;
        let mut list: Vec<(u32, f32)> = list.into_iter().map(|(i, p)| (i, p / total)).collect();
        list.sort_by(|a, b| b.1.total_cmp(&a.1));
        rows.push((pos as u32, source_ids[pos + 1], list));
    }
    Case {
        source: vocabulary("v", &words),
        pivot: vocabulary("v", &words),
        longest: 3,
        matching: Matching::Offsets,
        // Words of three letters are cut to two, so that ids land on each other.
        map: (1..15u32)
            .map(|id| map_row(id, if id < 7 { id } else { (id - 7) / 2 + 3 }, 1.0, 1))
            .collect(),
        links: links(&tokens, &source_ids, &source_end),
        rows: source_rows(&rows),
        by_map: false,
        source_tokens: sample_tokens(&source_ids, &source_end),
        tokens,
        text,
        own: None,
    }
}

proptest! {
    #[test]
    fn mass_is_conserved_and_the_likelihood_kept(case in random_case(), by_map in any::<bool>()) {
        let case = Case { by_map, ..case };
        let options = ProjectOptions { min_mass: 0.0, min_read: 0.0, short: Some(Short::First), ..Default::default() };
        let rows = case.project(&options);
        let predicted: Vec<u32> = case.tokens.predicted().map(|pos| pos as u32).collect();
        prop_assert_eq!(rows.iter().map(|row| row.pos).collect::<Vec<_>>(), predicted);
        let mut owed = 0.0;
        for row in &rows {
            let sum: f64 = row.list.iter().map(|entry| entry.1).sum::<f64>() + row.tail;
            prop_assert!((sum - 1.0).abs() < 1e-5, "{:?}", row);
            let listed: std::collections::BTreeSet<u32> = row.list.iter().map(|entry| entry.0).collect();
            prop_assert_eq!(listed.len(), row.list.len());
            let next = case.tokens.ids[row.pos as usize + 1];
            match row.origin.source_nll {
                None => owed = 0.0,
                Some(nll) => {
                    prop_assert!(listed.contains(&next), "{:?}", row);
                    let kept = -row.target_logprob - nll - owed + row.origin.owed;
                    prop_assert!(kept.abs() < 1e-4, "{:?} {}", row, kept);
                    owed = row.origin.owed;
                }
            }
        }
    }

    #[test]
    fn identical_vocabularies_project_to_themselves(mut case in random_case()) {
        case.map = (1..15).map(|id| map_row(id, id, 1.0, 1)).collect();
        let own = case.tokens.clone();
        case.source_tokens = own.clone();
        case.links = links(&own, &own.ids, &own.byte_end);
        let rows: Vec<_> = own.predicted().map(|pos| {
            (pos as u32, own.ids[pos + 1], vec![(own.ids[pos + 1], 0.75), (own.ids[pos + 1] % 14 + 1, 0.25)])
        }).collect();
        case.rows = source_rows(&rows);
        for (row, source) in case.project(&ProjectOptions::default()).iter().zip(&rows) {
            prop_assert_eq!(row.projection, Projection::SameEnd);
            let same = row.list.iter().zip(&source.2).all(|(a, b)| a.0 == b.0 && near(a.1, b.1.into()));
            prop_assert!(same && row.list.len() == source.2.len(), "{:?} {:?}", row, source);
            prop_assert_eq!(row.origin.owed, 0.0);
        }
    }
}
