use proptest::prelude::*;

use super::*;
use crate::artifact::PartInfo;
use crate::artifact::alignment::{Link, Links};

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

fn write_tokens(dir: &Path, vocabulary: &str, samples: &[Vec<SampleTokens>]) {
    let provenance = Provenance::new(Kind::Tokens).vocabulary(vocabulary);
    let writer = Writer::create(dir, provenance, Existing::Refuse).unwrap();
    for (index, part) in samples.iter().enumerate() {
        let info = PartInfo {
            index: index as u32,
            first_sample: part[0].sample_id,
            samples: part.len() as u64,
            last: index + 1 == samples.len(),
        };
        let mut out = writer.part(info).unwrap();
        out.write(&tokens::to_batch(part).unwrap()).unwrap();
        out.finish().unwrap();
    }
}

fn sample(sample_id: u64, ids: &[u32], byte_end: &[u32]) -> SampleTokens {
    SampleTokens {
        sample_id,
        ids: ids.to_vec(),
        byte_end: byte_end.to_vec(),
        supervised: vec![true; ids.len()],
    }
}

#[test]
fn two_token_artifacts_become_an_alignment() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let pivot = [
        vec![sample(0, &[1, 10, 11], &[0, 2, 4])],
        vec![sample(1, &[1, 12], &[0, 3])],
    ];
    let source = [
        vec![sample(0, &[2, 7, 20], &[0, 0, 4])],
        vec![sample(1, &[2, 7, 21, 22], &[0, 0, 1, 3])],
    ];
    write_tokens(&at("p"), "pv", &pivot);
    write_tokens(&at("s"), "sv", &source);
    let options = AlignOptions::default();
    let go = |existing| run(&at("p"), &at("s"), &at("out"), &options, existing);
    let summary = go(Existing::Refuse).unwrap();
    assert_eq!((summary.samples, summary.pivot_tokens), (2, 5));
    assert_eq!(summary.of_kind(LinkKind::ManyToOne), 2);
    assert_eq!(summary.of_kind(LinkKind::OneToMany), 1);
    let artifact = Artifact::open(&at("out"), Kind::Alignment).unwrap();
    artifact.check_vocabulary("pv").unwrap();
    let batches: Vec<_> = artifact.parts()[1]
        .batches()
        .unwrap()
        .map(|batch| batch.unwrap())
        .collect();
    let links = Links::new(&batches[0]).unwrap();
    assert_eq!(links.pivot_ids(), [1, 12]);
    assert_eq!(links.source_ids(0), [2]);
    assert_eq!(links.source_ids(1), [21, 22]);
    // Nothing is left to do the second time.
    assert_eq!(go(Existing::Refuse).unwrap().samples, 0);

    let other = [vec![sample(0, &[2, 20], &[0, 5])], source[1].clone()];
    write_tokens(&at("t"), "sv", &other);
    let error = run(&at("p"), &at("t"), &at("out2"), &options, Existing::Refuse).unwrap_err();
    assert!(error.to_string().contains("sample 0"), "{error}");
    assert!(error.to_string().contains("cover 5 bytes"), "{error}");
    let leftovers = std::fs::read_dir(at("out2")).unwrap();
    assert!(
        leftovers
            .flatten()
            .all(|f| !f.file_name().to_string_lossy().contains("00000"))
    );
}
