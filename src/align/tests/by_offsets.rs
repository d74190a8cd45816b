//! By bytes.

use proptest::prelude::*;

use super::super::*;

/// What the definition says, token by token, in O(n · m).
fn simple(pivot_end: &[u32], source_end: &[u32]) -> Vec<Link> {
    let span = |ends: &[u32], at: usize| (if at == 0 { 0 } else { ends[at - 1] }, ends[at]);
    (0..pivot_end.len())
        .map(|pos| {
            let (start, end) = span(pivot_end, pos);
            let source_pos = source_end
                .iter()
                .rposition(|e| *e == end)
                .map(|at| at as u32);
            let overlapping: Vec<usize> = (0..source_end.len())
                .filter(|at| {
                    let (s, e) = span(source_end, *at);
                    s < e && s < end && e > start
                })
                .collect();
            let with = |begin: usize, past: usize, kind| Link {
                source_begin: begin as u32,
                source_end: past as u32,
                source_pos,
                kind,
            };
            if start == end {
                if pos == 0 && source_end.first() == Some(&0) {
                    return with(0, 1, LinkKind::OneToOne);
                }
                let after = source_end.iter().filter(|e| **e <= end).count();
                return with(after, after, LinkKind::Unlinked);
            }
            let (first, last) = (overlapping[0], overlapping[overlapping.len() - 1]);
            let covered = (span(source_end, first).0, span(source_end, last).1);
            let kind = match (overlapping.len(), covered == (start, end)) {
                (1, true) => LinkKind::OneToOne,
                (1, false) => LinkKind::ManyToOne,
                (_, true) => LinkKind::OneToMany,
                (_, false) => LinkKind::ManyToMany,
            };
            with(first, last + 1, kind)
        })
        .collect()
}

fn kinds(pivot_end: &[u32], source_end: &[u32]) -> Vec<(&'static str, u32, u32, Option<u32>)> {
    let row = |l: Link| (l.kind.name(), l.source_begin, l.source_end, l.source_pos);
    links(pivot_end, source_end).map(row).collect()
}

#[test]
fn every_kind_by_hand() {
    // pivot:  BOS |ab|cdef|g|h|ijk|lm
    // source: BOS |ab|cd|ef|gh|i jk l|m  with a straddling `jkl`
    let pivot = [0, 2, 6, 7, 8, 11, 13];
    let source = [0, 2, 4, 6, 8, 9, 12, 13];
    assert_eq!(
        kinds(&pivot, &source),
        [
            ("1-1", 0, 1, Some(0)),
            ("1-1", 1, 2, Some(1)),
            ("1-n", 2, 4, Some(3)),
            ("n-1", 4, 5, None),
            ("n-1", 4, 5, Some(4)),
            ("n-m", 5, 7, None),
            ("n-m", 6, 8, Some(7)),
        ]
    );
}

#[test]
fn tokens_without_width_link_to_nothing_but_are_read() {
    // The source has a zero-width prefix after BOS; the pivot has one in the middle.
    assert_eq!(
        kinds(&[0, 3, 3, 5], &[0, 0, 3, 5]),
        [
            ("1-1", 0, 1, Some(1)),
            ("1-1", 2, 3, Some(2)),
            ("none", 3, 3, Some(2)),
            ("1-1", 3, 4, Some(3)),
        ]
    );
    assert_eq!(kinds(&[2], &[0, 2]), [("1-1", 1, 2, Some(1))]);
    assert_eq!(kinds(&[0], &[]), [("none", 0, 0, None)]);
    assert_eq!(kinds(&[], &[0]), []);
}

/// Ends of two sequences over the same bytes, with zero-width tokens.
fn pair() -> impl Strategy<Value = (Vec<u32>, Vec<u32>)> {
    (1u32..40).prop_flat_map(|length| {
        let ends = move || {
            proptest::collection::vec(0..=length, 0..30).prop_map(move |mut ends| {
                ends.push(length);
                ends.sort_unstable();
                ends.insert(0, 0);
                ends
            })
        };
        (ends(), ends())
    })
}

proptest! {
    #[test]
    fn one_pass_equals_the_definition((pivot, source) in pair()) {
        let found: Vec<Link> = links(&pivot, &source).collect();
        prop_assert_eq!(found, simple(&pivot, &source));
    }

    #[test]
    fn every_token_with_width_is_linked_in_order((pivot, source) in pair()) {
        let mut next = 0;
        for (pos, link) in links(&pivot, &source).enumerate() {
            if link.kind == LinkKind::Unlinked || (pos == 0 && pivot[0] == 0) {
                continue;
            }
            // Between two linked ones lie only tokens of no width.
            for at in next..link.source_begin as usize {
                prop_assert_eq!(source[at], if at == 0 { 0 } else { source[at - 1] });
            }
            prop_assert!(link.source_end as usize >= next);
            next = link.source_end as usize;
        }
        let rest = source[next..].iter().all(|end| *end == source[next - 1]);
        prop_assert!(rest);
    }

    #[test]
    fn a_sequence_aligns_with_itself((ends, _) in pair()) {
        for (pos, link) in links(&ends, &ends).enumerate() {
            let width = ends[pos] - if pos == 0 { 0 } else { ends[pos - 1] };
            if width > 0 {
                prop_assert_eq!(link.kind, LinkKind::OneToOne);
                prop_assert_eq!(link.source_begin as usize, pos);
            }
            let same = link.source_pos.map(|at| ends[at as usize]);
            prop_assert_eq!(same, Some(ends[pos]));
        }
    }
}
