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
        ..AlignOptions::default()
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

/// The definition, for pieces.
fn simple(pivot: &[&str], source: &[&str], ties: DtwTies) -> (Vec<Vec<u32>>, u32) {
    let plain = |pieces: &[&str]| -> Vec<String> {
        let plain = pieces.iter().map(|piece| piece.replace(['▁', 'Ġ'], ""));
        plain
            .map(|rest| {
                if rest.is_empty() {
                    " ".to_owned()
                } else {
                    rest
                }
            })
            .collect()
    };
    definition(&plain(pivot), &plain(source), ties)
}

/// The whole table, then the path from its end.
fn definition(pivot: &[String], source: &[String], ties: DtwTies) -> (Vec<Vec<u32>>, u32) {
    let cost =
        |i: usize, j: usize| crate::vocab::distance(pivot[i].as_bytes(), source[j].as_bytes());
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
    let mut warp = Warp::new(&pivot, &source, &options(DtwTies::default(), None)).unwrap();
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

/// A vocabulary of pieces and what they stand for.
fn spelled(tokens: &[(&str, &str)]) -> Vocabulary {
    let token = |(display, text): &(&str, &str)| Token {
        display: (*display).to_owned(),
        bytes: text.as_bytes().to_vec(),
        special: false,
        role: None,
        kind: TokenKind::Ordinary,
    };
    Vocabulary::new(tokens.iter().map(token).collect(), "v".to_owned(), [])
}

#[test]
fn texts_are_compared_and_pieces_where_asked() {
    let pivot = spelled(&[("你", "你"), ("好", "好"), ("吗", "吗")]);
    // As GPT-2's alphabet spells the same bytes.
    let source = spelled(&[("ä½łå¥½", "你好"), ("åĲĹ", "吗")]);
    let path = |dtw_text: DtwText| {
        let options = AlignOptions {
            spans: Spans::Dtw,
            dtw_text,
            ..AlignOptions::default()
        };
        let mut warp = Warp::new(&pivot, &source, &options).unwrap();
        let sample = |ids: &'static [u32], ends: &'static [u32]| Sample {
            ids,
            ends,
            begins: false,
        };
        warp.path(&sample(&[0, 1, 2], &[3, 6, 9]), &sample(&[0, 1], &[6, 9]))
    };
    assert_eq!(AlignOptions::default().dtw_text, DtwText::Decoded);
    // One character is missing in `你好`, twice.
    assert_eq!(path(DtwText::Decoded), (vec![(0, 1), (0, 1), (1, 2)], 2));
    // No letter is the same: the shortest piece is the nearest to everything.
    assert_eq!(path(DtwText::Pieces), (vec![(0, 1), (1, 2), (1, 2)], 12));
}

#[test]
fn the_text_is_part_of_the_result() {
    let options = |text: &str| -> AlignOptions {
        serde_json::from_value(serde_json::json!({ "spans": "dtw", "dtw_text": text })).unwrap()
    };
    assert_ne!(options("decoded").changing(), options("pieces").changing());
    // By bytes it changes nothing.
    let offsets = AlignOptions {
        dtw_text: DtwText::Pieces,
        ..AlignOptions::default()
    };
    assert_eq!(offsets.changing(), AlignOptions::default().changing());
}

#[test]
fn a_vocabulary_that_does_not_say_how_it_decodes() {
    let (plain, blank) = (spelled(&[("a", "a")]), spelled(&[("▁a", " a")]));
    let decoded = options(DtwTies::default(), None);
    let error = Warp::new(&plain, &blank, &decoded).unwrap_err();
    assert!(error.to_string().contains("dtw_text: pieces"), "{error}");
    let pieces = AlignOptions {
        dtw_text: DtwText::Pieces,
        ..decoded
    };
    Warp::new(&plain, &blank, &pieces).unwrap();
}

/// Russian, Chinese and other texts under real tokenizers, against the definition over what their
/// own decoders make of each token.
#[test]
fn real_texts_as_they_decode() {
    let shared = std::env::var("FUSELM_TEST_SHARED").unwrap_or_else(|_| "../shared".to_owned());
    let root = Path::new(&shared).join("assets/tokenizers");
    if !root.is_dir() {
        eprintln!("skipped: no {}", root.display());
        return;
    }
    let texts = [
        "Быстрая лиса прыгает через ленивую собаку, а потом засыпает.",
        "敏捷的棕色狐狸跳过了懒狗。今天天气很好,我们去公园吧!",
        "The self outweighs the costs  of altruism;\n\tnaïve façade — 12 345 🙂.",
    ];
    let load = |name: &str| {
        let dir = root.join(name);
        let ours = crate::vocab::Tokenizer::load(&dir).unwrap();
        let theirs = tokenizers::Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
        (ours, theirs)
    };
    let pairs = [("mistral-v1", "qwen2"), ("llama-3", "internlm2")];
    let mut differ = 0;
    for (pivot, source) in pairs {
        let (pivot, source) = (load(pivot), load(source));
        for text in texts {
            let row = |tokenizer: &crate::vocab::Tokenizer| tokenizer.encode(text).unwrap();
            let (ours, theirs) = (row(&pivot.0), row(&source.0));
            let alone = |tokenizer: &tokenizers::Tokenizer, ids: &[u32]| -> Vec<String> {
                let text = ids.iter().map(|id| tokenizer.decode(&[*id], false));
                text.map(Result::unwrap).collect()
            };
            let [a, b] = [alone(&pivot.1, &ours.ids), alone(&source.1, &theirs.ids)];
            for ties in [DtwTies::Fusechat, DtwTies::Fusellm] {
                let expected = definition(&a, &b, ties);
                let path = |dtw_text: DtwText| {
                    let options = AlignOptions {
                        dtw_text,
                        ..options(ties, None)
                    };
                    let vocabularies = (pivot.0.vocabulary(), source.0.vocabulary());
                    let mut warp = Warp::new(vocabularies.0, vocabularies.1, &options).unwrap();
                    let sample = |ids, ends| Sample {
                        ids,
                        ends,
                        begins: false,
                    };
                    let (path, cost) = warp.path(
                        &sample(&ours.ids, &ours.byte_end),
                        &sample(&theirs.ids, &theirs.byte_end),
                    );
                    let path = path.iter().map(|(from, to)| (*from..*to).collect());
                    (path.collect::<Vec<Vec<u32>>>(), cost)
                };
                assert_eq!(path(DtwText::Decoded), expected, "{text}");
                differ += usize::from(path(DtwText::Pieces).0 != expected.0);
            }
        }
    }
    assert!(differ > 2, "{differ}");
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

/// Full-table maps of real text pairs, made of pieces by a program of its own that follows the
/// published code.
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
