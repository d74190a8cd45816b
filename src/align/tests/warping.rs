//! By dynamic time warping.

use proptest::prelude::*;

use super::super::pieces::Pieces;
use super::super::*;
use crate::vocab::{Kind as TokenKind, Role, Token};

fn options(dtw_ties: DtwTies, dtw_band: Option<u32>) -> AlignOptions {
    AlignOptions {
        spans: Spans::Dtw,
        dtw_ties,
        dtw_band,
    }
}

/// Path and cost between two sequences of pieces.
fn warp(pivot: &[&str], source: &[&str], options: &AlignOptions) -> (Vec<Vec<u32>>, u32) {
    let pieces = |spellings: &[&str]| Pieces::from_spellings(spellings.iter().copied());
    let mut warp = Warp::from_pieces(pieces(pivot), pieces(source), options);
    let ids = |pieces: &[&str]| (0..pieces.len() as u32).collect::<Vec<u32>>();
    let ends = |pieces: &[&str]| {
        let mut end = 0;
        let mut ends = Vec::new();
        for piece in pieces {
            end += piece.replace(['▁', 'Ġ'], " ").len() as u32;
            ends.push(end);
        }
        ends
    };
    let (our_ids, our_ends) = (ids(pivot), ends(pivot));
    let (their_ids, their_ends) = (ids(source), ends(source));
    let (path, cost) = warp.path(
        &Sample {
            ids: &our_ids,
            ends: &our_ends,
            begins: false,
        },
        &Sample {
            ids: &their_ids,
            ends: &their_ends,
            begins: false,
        },
    );
    let path = path.iter().map(|(from, to)| (*from..*to).collect());
    (path.collect(), cost)
}

#[test]
fn by_hand_in_both_orders() {
    let both = [DtwTies::Fusechat, DtwTies::Fusellm];
    for ties in both {
        let (path, cost) = warp(&["▁a", "b", "▁c"], &["ab", "Ġc"], &options(ties, None));
        // `a` and `b` are one edit from `ab` each.
        assert_eq!((path, cost), (vec![vec![0], vec![0], vec![1]], 2));
        let (path, cost) = warp(&["▁", "x"], &[" ", "x"], &options(ties, None));
        assert_eq!((path, cost), (vec![vec![0], vec![1]], 0));
    }
    // From the end, (b, q) is reached at the same cost from (a, q) and from (b, p), not from
    // (a, p), which costs more.
    let (pivot, source) = (["a", "bb"], ["bb", "a"]);
    let (chat, cost) = warp(&pivot, &source, &options(DtwTies::Fusechat, None));
    let (llm, same) = warp(&pivot, &source, &options(DtwTies::Fusellm, None));
    assert_eq!((cost, same), (4, 4));
    assert_eq!(chat, [[0], [1]].map(|l| l.to_vec()));
    assert_eq!(llm, chat);
    let (pivot, source) = (["a", "a", "b"], ["a", "b", "b"]);
    let (chat, _) = warp(&pivot, &source, &options(DtwTies::Fusechat, None));
    assert_eq!(chat, [vec![0], vec![0], vec![1, 2]]);
}

/// The definition: the whole table, then the path from its end.
fn simple(pivot: &[&str], source: &[&str], ties: DtwTies) -> (Vec<Vec<u32>>, u32) {
    let plain = |piece: &str| match piece.replace(['▁', 'Ġ'], "") {
        rest if rest.is_empty() => " ".to_owned(),
        rest => rest,
    };
    let cost = |i: usize, j: usize| {
        crate::vocab::distance(plain(pivot[i]).as_bytes(), plain(source[j]).as_bytes())
    };
    let beyond = u32::MAX / 2;
    let (n, m) = (pivot.len(), source.len());
    let mut table = vec![vec![beyond; m + 1]; n + 1];
    table[0][0] = 0;
    for i in 1..=n {
        for j in 1..=m {
            let least = table[i - 1][j - 1]
                .min(table[i - 1][j])
                .min(table[i][j - 1]);
            table[i][j] = cost(i - 1, j - 1) + least;
        }
    }
    let mut path = vec![Vec::new(); n];
    let (mut i, mut j) = (n, m);
    while i > 0 && j > 0 {
        path[i - 1].insert(0, j as u32 - 1);
        let diagonal = (table[i - 1][j - 1], i - 1, j - 1);
        let left = (table[i - 1][j], i - 1, j);
        let up = (table[i][j - 1], i, j - 1);
        let order = match ties {
            DtwTies::Fusechat => [diagonal, left, up],
            DtwTies::Fusellm => [diagonal, up, left],
        };
        let best = order.iter().min_by_key(|step| step.0).unwrap();
        (i, j) = (best.1, best.2);
    }
    (path, table[n][m])
}

fn sequences() -> impl Strategy<Value = (Vec<String>, Vec<String>)> {
    let pieces = || proptest::collection::vec("[▁Ġ]?[abc]{0,3}", 1..90);
    (pieces(), pieces())
}

fn strs(pieces: &[String]) -> Vec<&str> {
    pieces.iter().map(String::as_str).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn the_table_equals_the_definition((pivot, source) in sequences()) {
        let (pivot, source) = (strs(&pivot), strs(&source));
        for ties in [DtwTies::Fusechat, DtwTies::Fusellm] {
            let expected = simple(&pivot, &source, ties);
            prop_assert_eq!(&warp(&pivot, &source, &options(ties, None)), &expected);
            // A band as wide as everything is no band.
            prop_assert_eq!(&warp(&pivot, &source, &options(ties, Some(200))), &expected);
        }
    }

    #[test]
    fn a_band_gives_a_path_that_costs_no_less((pivot, source) in sequences(), band in 1u32..20) {
        let (pivot, source) = (strs(&pivot), strs(&source));
        let ties = DtwTies::default();
        let (path, cost) = warp(&pivot, &source, &options(ties, Some(band)));
        let (_, exact) = simple(&pivot, &source, ties);
        prop_assert!(cost >= exact);
        // Every token of both is linked, in order.
        let mut next = 0;
        for linked in &path {
            prop_assert!(!linked.is_empty());
            prop_assert!(linked[0] == next || linked[0] + 1 == next);
            next = linked[linked.len() - 1] + 1;
        }
        prop_assert_eq!(next as usize, source.len());
    }
}

/// A vocabulary of pieces with roles.
fn vocabulary(tokens: &[(&str, Option<Role>)]) -> Vocabulary {
    let token = |(display, role): &(&str, Option<Role>)| Token {
        display: (*display).to_owned(),
        bytes: display.as_bytes().to_vec(),
        special: role.is_some(),
        role: *role,
        kind: TokenKind::Ordinary,
    };
    Vocabulary::new(tokens.iter().map(token).collect(), "v".to_owned(), [])
}

#[test]
fn special_tokens_match_by_role_not_by_spelling() {
    let pivot = vocabulary(&[
        ("<s>", Some(Role::Bos)),
        ("<|im_end|>", Some(Role::TurnEnd)),
        ("hi", None),
    ]);
    let source = vocabulary(&[
        ("<|endoftext|>", Some(Role::Eos)),
        ("<|eot_id|>", Some(Role::TurnEnd)),
        ("<|im_end|>", None),
        ("hi", None),
    ]);
    let mut warp = Warp::new(&pivot, &source, &options(DtwTies::default(), None));
    let sample = |ids: &'static [u32], ends: &'static [u32]| Sample {
        ids,
        ends,
        begins: true,
    };
    // What begins the source's sequence is its EOS.
    let (path, cost) = warp.path(
        &sample(&[0, 2, 1], &[0, 2, 12]),
        &sample(&[0, 3, 1], &[0, 2, 12]),
    );
    assert_eq!((path, cost), (vec![(0, 1), (1, 2), (2, 3)], 0));
    // The same spelling is a piece of ten letters to the source.
    let (_, cost) = warp.path(
        &sample(&[0, 2, 1], &[0, 2, 12]),
        &sample(&[0, 3, 2], &[0, 2, 12]),
    );
    assert_eq!(cost, 10);
}

#[test]
fn links_say_how_tokens_are_shared() {
    let pieces = |spellings: &[&str]| Pieces::from_spellings(spellings.iter().copied());
    let ours = ["ab", "x", "y", "long", "c", "d", "w"];
    let theirs = ["a", "b", "x", "y", "long", "cd", "w"];
    let options = options(DtwTies::default(), None);
    let mut warp = Warp::from_pieces(pieces(&ours), pieces(&theirs), &options);
    let sample = Sample {
        ids: &[0, 1, 2, 3, 4, 5, 6],
        ends: &[1, 2, 3, 4, 5, 6, 7],
        begins: false,
    };
    let links = warp.links(&sample, &sample);
    let rows: Vec<_> = links
        .iter()
        .map(|l| (l.kind.name(), l.source_begin, l.source_end, l.source_pos))
        .collect();
    assert_eq!(
        rows,
        [
            ("1-n", 0, 2, None),
            ("1-1", 2, 3, Some(2)),
            ("1-1", 3, 4, Some(3)),
            ("1-1", 4, 5, Some(4)),
            ("n-1", 5, 6, Some(5)),
            ("n-1", 5, 6, Some(5)),
            ("1-1", 6, 7, Some(6)),
        ]
    );
}

#[test]
fn a_table_that_is_too_large_is_refused() {
    let pieces = || Pieces::from_spellings(["a"].into_iter());
    let exact = Warp::from_pieces(pieces(), pieces(), &options(DtwTies::default(), None));
    exact.check_size(2048, 2048).unwrap();
    let error = exact.check_size(1 << 20, 1 << 20).unwrap_err().to_string();
    assert!(error.contains("dtw_band"), "{error}");
    let band = Warp::from_pieces(pieces(), pieces(), &options(DtwTies::default(), Some(64)));
    band.check_size(1 << 20, 1 << 20).unwrap();
}

/// Full-table maps of real text pairs, by a program of its own that follows the published code.
#[test]
fn real_texts_as_published() {
    let shared = std::env::var("FUSELM_TEST_SHARED").unwrap_or_else(|_| "../shared".to_owned());
    let path = Path::new(&shared).join("golden/align/dtw.json");
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: no {}", path.display());
        return;
    };
    #[derive(Deserialize)]
    struct Pair {
        pivot_pieces: Vec<String>,
        source_pieces: Vec<String>,
        cost: f64,
        map_diag_left_up: Vec<Vec<u32>>,
        map_diag_up_left: Vec<Vec<u32>>,
    }
    let pairs: Vec<Pair> = serde_json::from_str(&text).unwrap();
    assert!(pairs.len() > 20);
    for (at, pair) in pairs.iter().enumerate() {
        let (ours, theirs) = (strs(&pair.pivot_pieces), strs(&pair.source_pieces));
        for (ties, expected) in [
            (DtwTies::Fusechat, &pair.map_diag_left_up),
            (DtwTies::Fusellm, &pair.map_diag_up_left),
        ] {
            let (path, cost) = warp(&ours, &theirs, &options(ties, None));
            assert_eq!(f64::from(cost), pair.cost, "pair {at}");
            assert_eq!(&path, expected, "pair {at} {ties:?}");
        }
    }
}
