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
fn random_case() -> impl Strategy<Value = (Case, String, Vec<u32>)> {
    let cuts = || proptest::collection::vec(1usize..=3, 30);
    let lists = proptest::collection::vec((1u32..15, 0.01f32..1.0), 12 * 30);
    ("[ab]{1,24}", cuts(), cuts(), lists)
        .prop_map(|(text, ours, theirs, lists)| cut_case(text, &ours, &theirs, &lists))
}

/// A text cut into tokens of these widths, for the pivot and the source.
fn cut_case(
    text: String,
    ours: &[usize],
    theirs: &[usize],
    lists: &[(u32, f32)],
) -> (Case, String, Vec<u32>) {
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
    let tokens = SampleTokens {
        sample_id: 0,
        supervised: vec![true; ids.len()],
        ids,
        byte_end,
    };
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
    let case = Case {
        source: vocabulary("v", &words),
        pivot: vocabulary("v", &words),
        longest: 2,
        matching: Matching::Offsets,
        // Words of three letters are cut to two, so that ids land on each other.
        map: (1..15u32)
            .map(|id| map_row(id, if id < 7 { id } else { (id - 7) / 2 + 3 }, 1.0, 1))
            .collect(),
        links: links(&tokens, &source_ids, &source_end),
        rows: source_rows(&rows),
        tokens,
    };
    (case, text, source_end)
}

/// The definition, with a table for each row and the text at hand.
fn simple(case: &Case, text: &str, source_end: &[u32], pos: usize) -> Option<BTreeMap<u32, f64>> {
    let rows = Distributions::new(&case.rows).unwrap();
    let end = case.tokens.byte_end[pos];
    let same = source_end.iter().rposition(|e| *e == end);
    let before = source_end.iter().rposition(|e| *e <= end).unwrap();
    let row = rows.row(rows.find(before as u32)?);
    let total: f64 = row
        .logprobs
        .iter()
        .map(|lp| f64::from(lp.exp()))
        .sum::<f64>()
        + f64::from(row.tail_logprob.exp());
    let read = &text.as_bytes()[source_end[before] as usize..end as usize];
    let mut out: BTreeMap<u32, f64> = BTreeMap::new();
    let mut kept = 0.0;
    for (id, lp) in row.ids.iter().zip(row.logprobs) {
        let mass = f64::from(lp.exp()) / total;
        let bytes = case.source.bytes(*id);
        let pivot_id = if same.is_some() {
            case.map[*id as usize - 1].pivot_id
        } else {
            if !bytes.starts_with(read) || bytes.len() == read.len() {
                continue;
            }
            first_of(&case.pivot, &bytes[read.len()..], case.longest)?
        };
        kept += mass;
        *out.entry(pivot_id).or_default() += mass;
    }
    if same.is_none() {
        let tail = f64::from(row.tail_logprob.exp()) / total;
        out.values_mut()
            .for_each(|mass| *mass *= (1.0 - tail) / kept);
    }
    (kept >= 0.3).then_some(out)
}

proptest! {
    #[test]
    fn projection_equals_the_definition_and_conserves_mass((case, text, source_end) in random_case()) {
        let options = ProjectOptions { fallback: Fallback::Skip, ..Default::default() };
        let rows = case.project(&options);
        let predicted: Vec<u32> = case.tokens.predicted().map(|pos| pos as u32).collect();
        prop_assert_eq!(rows.iter().map(|row| row.pos).collect::<Vec<_>>(), predicted);
        for row in &rows {
            let sum: f64 = row.list.iter().map(|entry| entry.1).sum::<f64>() + row.tail;
            prop_assert!((sum - 1.0).abs() < 1e-5, "{:?}", row);
            prop_assert!(row.list.windows(2).all(|pair| pair[0].1 >= pair[1].1));
            let end = case.tokens.byte_end[row.pos as usize];
            let after = source_end.iter().position(|e| *e >= end).unwrap();
            let ends = &case.tokens.byte_end;
            let known = ends.contains(&source_end[after]) || ends.contains(&source_end[after - 1]);
            let expected = simple(&case, &text, &source_end, row.pos as usize).filter(|_| known);
            let found: BTreeMap<u32, f64> = row.list.iter().copied().collect();
            prop_assert_eq!(found.len(), row.list.len());
            match expected {
                None => prop_assert_eq!(row.projection, Projection::Skipped),
                Some(expected) => {
                    let same = found.len() == expected.len()
                        && found.iter().zip(&expected).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-5);
                    prop_assert!(same, "{:?} {:?}", row, expected);
                }
            }
        }
    }

    #[test]
    fn identical_vocabularies_project_to_themselves((mut case, _, _) in random_case()) {
        case.map = (1..15).map(|id| map_row(id, id, 1.0, 1)).collect();
        let own = case.tokens.clone();
        case.links = links(&own, &own.ids, &own.byte_end);
        let rows: Vec<_> = own.predicted().map(|pos| {
            (pos as u32, own.ids[pos + 1], vec![(own.ids[pos + 1], 0.75), (own.ids[pos + 1] % 14 + 1, 0.25)])
        }).collect();
        case.rows = source_rows(&rows);
        for (row, source) in case.project(&ProjectOptions::default()).iter().zip(&rows) {
            prop_assert_eq!(row.projection, Projection::SameEnd);
            let same = row.list.iter().zip(&source.2).all(|(a, b)| a.0 == b.0 && near(a.1, b.1.into()));
            prop_assert!(same && row.list.len() == source.2.len(), "{:?} {:?}", row, source);
        }
    }
}
