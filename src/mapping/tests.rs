use std::collections::HashMap as Map;

use super::*;
use crate::artifact::alignment::{AlignmentBuilder, Link, LinkKind};
use crate::artifact::{PartInfo, Provenance, Writer};

fn token(bytes: &str, kind: TokenKind) -> Token {
    Token {
        display: bytes.to_owned(),
        bytes: bytes.as_bytes().to_vec(),
        kind,
        ..Token::hole()
    }
}

fn special(bytes: &str, role: Option<Role>) -> Token {
    Token {
        special: true,
        role,
        ..token(bytes, TokenKind::Added)
    }
}

fn vocabulary(name: &str, tokens: Vec<Token>) -> Vocabulary {
    Vocabulary::new(tokens, name.to_owned(), [])
}

fn word(bytes: &str) -> Token {
    token(bytes, TokenKind::Ordinary)
}

fn pivot() -> Vocabulary {
    vocabulary(
        "pivot",
        vec![
            special("<s>", Some(Role::Bos)),            // 0
            special("<|im_end|>", Some(Role::TurnEnd)), // 1
            token(",", TokenKind::Byte),                // 2
            word(","),                                  // 3
            word(" sto"),                               // 4
            word("ry"),                                 // 5
            word("a"),                                  // 6
            special("<|code|>", None),                  // 7
        ],
    )
}

fn source() -> Vocabulary {
    vocabulary(
        "source",
        vec![
            special("<bos>", Some(Role::Bos)),    // 0
            special("</s>", Some(Role::TurnEnd)), // 1
            token(",", TokenKind::Byte),          // 2
            word(" story"),                       // 3
            word("rye"),                          // 4
            special("<unused>", None),            // 5
            Token::hole(),                        // 6
            special("<|code|>", None),            // 7
        ],
    )
}

/// The longest token that begins the bytes.
fn greedy(vocabulary: &Vocabulary, bytes: &[u8]) -> Option<TokenId> {
    (0u32..)
        .zip(&vocabulary.tokens)
        .filter(|(_, token)| !token.special && bytes.starts_with(&token.bytes))
        .max_by_key(|(id, token)| (token.bytes.len(), token.kind == TokenKind::Ordinary, *id))
        .map(|(id, _)| id)
}

fn rows(method: Method, counted: &[(u32, u32, u64)]) -> Vec<MapRow> {
    let (source, pivot) = (source(), pivot());
    let inputs = Vocabularies {
        source: &source,
        pivot: &pivot,
        first_token: Box::new(|bytes| greedy(&pivot, bytes)),
    };
    let options = MapOptions { method, width: 1 };
    map(&inputs, &options, counted.to_vec()).unwrap()
}

fn brief(rows: &[MapRow]) -> Vec<(u32, u32, &'static str, u16)> {
    let row = |r: &MapRow| (r.source_id, r.pivot_id, r.method.name(), r.rank);
    rows.iter().map(row).collect()
}

const ALWAYS: [(u32, u32, &str, u16); 3] = [
    (0, 0, "special", 1),
    (1, 1, "special", 1),
    (2, 3, "exact", 1),
];
const CODE: (u32, u32, &str, u16) = (7, 7, "special", 1);

#[test]
fn roles_and_bytes_come_first_and_pieces_before_byte_tokens() {
    let mut expected = ALWAYS.to_vec();
    expected.push(CODE);
    assert_eq!(brief(&rows(Method::Em, &[])), expected);
}

#[test]
fn what_is_left_follows_the_method() {
    let with = |story: &[(u32, u32, &'static str, u16)]| {
        let mut expected = ALWAYS.to_vec();
        expected.extend_from_slice(story);
        expected.push(CODE);
        expected
    };
    // ` story` is 2 edits from ` sto`; `rye` 1 from `ry`.
    let edited = with(&[(3, 4, "edited", 1), (4, 5, "edited", 1)]);
    let mined = rows(Method::Mined, &[]);
    assert_eq!(brief(&mined), edited);
    assert_eq!((mined[3].edit_distance, mined[4].edit_distance), (2, 1));
    let prefix = with(&[(3, 4, "prefix", 1), (4, 5, "prefix", 1)]);
    assert_eq!(brief(&rows(Method::Prefix, &[])), prefix);

    // Counts: ties by edit distance, specials of the pivot left out, exact tokens keep theirs.
    let counted = [
        (3, 6, 5),
        (3, 5, 5),
        (3, 4, 10),
        (3, 1, 99),
        (2, 3, 7),
        (2, 6, 8),
    ];
    let ms = rows(Method::Ms, &counted);
    let expected = with(&[
        (3, 4, "counted", 1),
        (3, 5, "counted", 2),
        (3, 6, "counted", 3),
        (4, 5, "prefix", 1),
    ]);
    assert_eq!(brief(&ms), expected);
    assert_eq!((ms[2].count, ms[2].weight), (7, 1.0));
    let weights: Vec<f32> = ms[3..6].iter().map(|row| row.weight).collect();
    assert_eq!(weights, [0.5, 0.25, 0.25]);
}

#[test]
fn a_vocabulary_maps_to_itself_and_counted_order_does_not_matter() {
    let pivot = pivot();
    let inputs = Vocabularies {
        source: &pivot,
        pivot: &pivot,
        first_token: Box::new(|_| None),
    };
    for row in map(&inputs, &MapOptions::default(), Vec::new()).unwrap() {
        assert_eq!(
            row.pivot_id,
            if row.source_id == 2 { 3 } else { row.source_id }
        );
        assert_eq!((row.weight, row.edit_distance), (1.0, 0));
    }
    let (a, b) = ([(3, 4, 2), (3, 5, 2)], [(3, 5, 2), (3, 4, 2)]);
    assert_eq!(rows(Method::Ms, &a), rows(Method::Ms, &b));
    let error = check_ids(&[(8, 0, 1)], &inputs, Path::new("a")).unwrap_err();
    assert!(
        error.to_string().contains("beyond its vocabulary"),
        "{error}"
    );
}

#[test]
fn the_stage_counts_an_alignment_and_writes_the_map() {
    let dir = tempfile::tempdir().unwrap();
    let aligned = dir.path().join("alignment/teacher=big");
    let provenance = Provenance::new(Kind::Alignment)
        .vocabulary("pivot")
        .input("source_vocabulary", "source");
    let writer = Writer::create(&aligned, provenance, Existing::Refuse).unwrap();
    let mut builder = AlignmentBuilder::default();
    let link = Link {
        source_begin: 0,
        source_end: 1,
        source_pos: None,
        kind: LinkKind::ManyToMany,
    };
    let mut reference: Map<(u32, u32), u64> = Map::new();
    for (pos, (pivot_id, sources)) in [(4, vec![3]), (5, vec![3]), (4, vec![3, 3, 4]), (6, vec![])]
        .into_iter()
        .enumerate()
    {
        builder.push(0, pos as u32, pivot_id, link, sources.iter().copied());
        let mut distinct = sources;
        distinct.dedup();
        for source_id in distinct {
            *reference.entry((source_id, pivot_id)).or_default() += 1;
        }
    }
    let info = PartInfo {
        samples: 1,
        ..PartInfo::ONLY
    };
    let mut part = writer.part(info).unwrap();
    part.write(&builder.finish().unwrap()).unwrap();
    part.finish().unwrap();

    let artifact = Artifact::open(&aligned, Kind::Alignment).unwrap();
    let mut found = counts::aligned_pairs(&artifact).unwrap();
    found.sort_unstable();
    let mut expected: Vec<(u32, u32, u64)> =
        reference.into_iter().map(|((s, p), c)| (s, p, c)).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(found, counts::simple(&artifact).unwrap());

    let (source, pivot) = (source(), pivot());
    let out = dir.path().join("map");
    let stage = |source, alignment: Option<&Path>| super::Map {
        vocabularies: Vocabularies {
            source,
            pivot: &pivot,
            first_token: Box::new(|bytes| greedy(&pivot, bytes)),
        },
        alignment: alignment.map(Path::to_path_buf),
        out: out.clone(),
        options: MapOptions {
            method: Method::Ms,
            width: 2,
        },
    };
    let summary = stage(&source, Some(&aligned))
        .perform(Existing::Refuse)
        .unwrap();
    assert_eq!((summary.tokens, summary.unmapped), (7, 1));
    assert_eq!(summary.methods, [3, 1, 2, 0, 0]);
    let map = token_map::read(&Artifact::open(&out, Kind::TokenMap).unwrap()).unwrap();
    let story: Vec<_> = map.iter().filter(|row| row.source_id == 3).collect();
    assert_eq!(
        (story[0].pivot_id, story[0].count, story[0].rank),
        (4, 2, 1)
    );
    assert_eq!(
        (story[1].pivot_id, story[1].count, story[1].rank),
        (5, 1, 2)
    );

    let other = vocabulary("other", source.tokens.clone());
    let error = stage(&other, Some(&aligned))
        .perform(Existing::Replace)
        .unwrap_err();
    assert!(error.to_string().contains("expected `other`"), "{error}");
    let error = stage(&other, None).perform(Existing::Replace).unwrap_err();
    assert_eq!(error.exit_code(), 2);
}

/// Every pair of tokenizers in the shared assets: each source token that stands for text finds a
/// pivot token, and `mined` equals a full search on a few.
#[test]
fn maps_between_real_vocabularies_are_complete() {
    let shared = std::env::var("FUSELM_TEST_SHARED").unwrap_or_else(|_| "../shared".to_owned());
    let models = Path::new(&shared).join("assets/models");
    let Ok(entries) = std::fs::read_dir(&models) else {
        eprintln!(
            "no {}: maps between real vocabularies are not tested",
            models.display()
        );
        return;
    };
    let mut dirs: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    dirs.sort();
    let tokenizers: Vec<crate::vocab::Tokenizer> = dirs
        .iter()
        .map(|dir| crate::vocab::Tokenizer::load(dir).unwrap())
        .collect();
    for source in &tokenizers {
        for pivot in &tokenizers {
            let inputs = Vocabularies::of(source, pivot);
            for method in [Method::Mined, Method::Prefix] {
                let options = MapOptions { method, width: 1 };
                let rows = map(&inputs, &options, Vec::new()).unwrap();
                let mapped: std::collections::HashSet<u32> =
                    rows.iter().map(|row| row.source_id).collect();
                for (id, token) in (0u32..).zip(&inputs.source.tokens) {
                    let text = !token.special && !token.bytes.is_empty();
                    assert!(!text || mapped.contains(&id), "{method:?} {id} {token:?}");
                }
                for row in rows
                    .iter()
                    .filter(|row| row.method == MapMethod::Edited)
                    .step_by(997)
                {
                    let bytes = inputs.source.bytes(row.source_id);
                    let valid = std::str::from_utf8(bytes).is_ok();
                    let least = inputs.pivot.tokens.iter().filter(|token| {
                        let fits = !valid || std::str::from_utf8(&token.bytes).is_ok();
                        fits && !token.special && !token.bytes.is_empty()
                    });
                    let least = least.map(|token| {
                        if valid {
                            distance(bytes, &token.bytes)
                        } else {
                            distance(
                                &[bytes, &[0xFF]].concat(),
                                &[&token.bytes[..], &[0xFF]].concat(),
                            )
                        }
                    });
                    assert_eq!(least.min(), Some(u32::from(row.edit_distance)), "{row:?}");
                }
            }
        }
    }
}
