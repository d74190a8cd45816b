use std::collections::BTreeMap;

use arrow::record_batch::RecordBatch;
use proptest::prelude::*;

use super::*;
use crate::artifact::PartInfo;
use crate::artifact::alignment::{AlignmentBuilder, Link, LinkKind};
use crate::artifact::distribution::Distribution;
use crate::artifact::token_map::{MapMethod, MapRow};
use crate::vocab::{Kind as TokenKind, Role, Token};

/// What one row became.
#[derive(Clone, Debug)]
struct Row {
    pos: u32,
    list: Vec<(TokenId, f64)>,
    tail: f64,
    target_logprob: f32,
    projection: Projection,
    source_nll: Option<f32>,
    written: bool,
}

/// A vocabulary whose id 0 is BOS.
fn vocabulary(name: &str, words: &[&str]) -> Vocabulary {
    let bos = Token {
        bytes: b"<s>".to_vec(),
        special: true,
        role: Some(Role::Bos),
        kind: TokenKind::Added,
        ..Token::hole()
    };
    let words = words.iter().map(|word| Token {
        bytes: word.as_bytes().to_vec(),
        kind: TokenKind::Ordinary,
        ..Token::hole()
    });
    let tokens = std::iter::once(bos).chain(words).collect();
    Vocabulary::new(tokens, name.to_owned(), [])
}

/// The longest token, of at most `longest` bytes, that begins the bytes.
fn first_of(vocabulary: &Vocabulary, bytes: &[u8], longest: usize) -> Option<TokenId> {
    (1u32..)
        .zip(&vocabulary.tokens[1..])
        .filter(|(_, token)| token.bytes.len() <= longest && bytes.starts_with(&token.bytes))
        .max_by_key(|(_, token)| token.bytes.len())
        .map(|(id, _)| id)
}

fn map_row(source_id: TokenId, pivot_id: TokenId, weight: f32, rank: u16) -> MapRow {
    MapRow {
        source_id,
        pivot_id,
        count: 0,
        weight,
        edit_distance: 0,
        method: MapMethod::Prefix,
        rank,
    }
}

/// Links by definition.
fn links(pivot: &SampleTokens, source_ids: &[TokenId], source_end: &[u32]) -> RecordBatch {
    let mut rows = AlignmentBuilder::default();
    for pos in 0..pivot.ids.len() {
        let (start, end) = (pivot.byte_start(pos), pivot.byte_end[pos]);
        let overlapping: Vec<u32> = (0..source_end.len() as u32)
            .filter(|at| {
                let at = *at as usize;
                let from = if at == 0 { 0 } else { source_end[at - 1] };
                from < source_end[at] && from < end && source_end[at] > start
            })
            .collect();
        let source_pos = source_end.iter().rposition(|e| *e == end);
        let link = Link {
            source_begin: overlapping.first().copied().unwrap_or(0),
            source_end: overlapping.last().map_or(1, |last| last + 1),
            source_pos: source_pos.map(|at| at as u32),
            kind: if start == end && pos > 0 {
                LinkKind::Unlinked
            } else {
                LinkKind::ManyToMany
            },
        };
        let ids = overlapping.iter().map(|at| source_ids[*at as usize]);
        rows.push(pivot.sample_id, pos as u32, pivot.ids[pos], link, ids);
    }
    rows.finish().unwrap()
}

/// Position, next token, and listed probabilities of a row; the rest is the tail.
type SourceRow = (u32, TokenId, Vec<(TokenId, f32)>);

fn source_rows(rows: &[SourceRow]) -> RecordBatch {
    let mut builder = DistributionBuilder::topk();
    for (pos, target_id, list) in rows {
        let ids: Vec<TokenId> = list.iter().map(|entry| entry.0).collect();
        let logprobs: Vec<f32> = list.iter().map(|entry| entry.1.ln()).collect();
        let tail = 1.0 - list.iter().map(|entry| entry.1).sum::<f32>();
        let listed = ids.iter().position(|id| id == target_id);
        let row = Distribution {
            pos: *pos,
            target_id: *target_id,
            target_logprob: listed.map_or(-5.0, |at| logprobs[at]),
            tail_logprob: tail.max(0.0).ln(),
            ids: &ids,
            logprobs: &logprobs,
        };
        builder.push(0, row);
    }
    builder.finish().unwrap()
}

#[derive(Debug)]
struct Case {
    source: Vocabulary,
    pivot: Vocabulary,
    longest: usize,
    map: Vec<MapRow>,
    tokens: SampleTokens,
    links: RecordBatch,
    rows: RecordBatch,
}

impl Case {
    fn follow(&self, width: u64) -> Follow {
        Follow::from_rows(&self.map, width, self.source.len(), self.pivot.len()).unwrap()
    }

    fn project(&self, options: &ProjectOptions) -> Vec<Row> {
        self.try_project(options, 1).unwrap()
    }

    fn try_project(
        &self,
        options: &ProjectOptions,
        width: u64,
    ) -> std::result::Result<Vec<Row>, projector::BadRow> {
        let nowhere = Path::new("");
        let first_token = |bytes: &[u8]| first_of(&self.pivot, bytes, self.longest);
        let inputs = ProjectInputs {
            topk: nowhere,
            alignment: nowhere,
            token_map: nowhere,
            pivot_tokens: nowhere,
            source: &self.source,
            pivot: &self.pivot,
            first_token: &first_token,
            pivot_topk: None,
        };
        let follow = self.follow(width);
        let mut projector = Projector::new(&inputs, options, &follow);
        let mut out = Vec::new();
        projector.sample(
            &self.tokens,
            &Links::new(&self.links).unwrap(),
            Some(&Distributions::new(&self.rows).unwrap()),
            &mut |row| {
                let d = row.distribution;
                let probs = d.logprobs.iter().map(|lp| f64::from(*lp).exp());
                out.push(Row {
                    pos: d.pos,
                    list: d.ids.iter().copied().zip(probs).collect(),
                    tail: f64::from(d.tail_logprob).exp(),
                    target_logprob: d.target_logprob,
                    projection: row.projection,
                    source_nll: row.source_nll,
                    written: row.written,
                });
            },
        )?;
        Ok(out)
    }
}

const TH: TokenId = 1;
const EN: TokenId = 2;
const E: TokenId = 3;
const CAT: TokenId = 4;
const A: TokenId = 5;

/// `thencat`, for the pivot `th|en|cat`, for the source `then|cat`.
fn thencat() -> Case {
    let pivot = vocabulary("pivot", &["th", "en", "e", "cat", "a"]);
    let source = vocabulary("source", &["the", "then", "cat", "there", "a", "zzz"]);
    let tokens = SampleTokens {
        sample_id: 0,
        ids: vec![0, TH, EN, CAT],
        byte_end: vec![0, 2, 4, 7],
        supervised: vec![false, true, true, true],
    };
    Case {
        links: links(&tokens, &[0, 2, 3], &[0, 4, 7]),
        rows: source_rows(&[
            (
                0,
                2,
                vec![(2, 0.5), (1, 0.2), (4, 0.1), (5, 0.1), (6, 0.05)],
            ),
            (1, 3, vec![(3, 0.9)]),
        ]),
        map: vec![
            map_row(0, 0, 1.0, 1),
            map_row(1, TH, 1.0, 1),
            map_row(2, TH, 1.0, 1),
            map_row(3, CAT, 1.0, 1),
            map_row(4, TH, 0.75, 1),
            map_row(4, E, 0.25, 2),
            map_row(5, A, 1.0, 1),
        ],
        source,
        pivot,
        longest: 9,
        tokens,
    }
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 5e-3
}

fn check(row: &Row, projection: Projection, list: &[(TokenId, f64)], tail: f64) {
    assert_eq!(row.projection, projection, "{row:?}");
    let same = row.list.len() == list.len()
        && row
            .list
            .iter()
            .zip(list)
            .all(|(a, b)| a.0 == b.0 && near(a.1, b.1));
    assert!(
        same && near(row.tail, tail),
        "{row:?}, expected {list:?} and {tail}"
    );
}

#[test]
fn same_end_and_conditioned_by_hand() {
    let rows = thencat().project(&ProjectOptions::default());
    assert_eq!(rows.len(), 3);
    // `the`, `then` and `there` add up on `th`; `zzz` has no counterpart.
    check(&rows[0], Projection::SameEnd, &[(TH, 0.8), (A, 0.1)], 0.1);
    assert!(near(rows[0].target_logprob.into(), 0.8f64.ln()));
    assert!(near(rows[0].source_nll.unwrap().into(), -(0.5f64.ln())));
    // After `th`: `then` goes on with `en`, `the` and `there` with `e`.
    let scale = 0.95 / 0.8;
    check(
        &rows[1],
        Projection::Conditioned,
        &[(EN, 0.5 * scale), (E, 0.3 * scale)],
        0.05,
    );
    assert!(near(
        rows[1].source_nll.unwrap().into(),
        -((0.5 / 0.8f64).ln())
    ));
    check(&rows[2], Projection::SameEnd, &[(CAT, 0.9)], 0.1);
    assert!(rows.iter().all(|row| row.written));
}

#[test]
fn lists_are_cut_to_k_and_width_splits() {
    let options = ProjectOptions {
        top_k: Some(1),
        ..Default::default()
    };
    let rows = thencat().project(&options);
    check(&rows[0], Projection::SameEnd, &[(TH, 0.8)], 0.2);
    let rows = thencat()
        .try_project(&ProjectOptions::default(), 2)
        .unwrap();
    let split = [(TH, 0.775), (A, 0.1), (E, 0.025)];
    check(&rows[0], Projection::SameEnd, &split, 0.1);
}

#[test]
fn fallbacks_stand_where_too_little_arrives() {
    let with = |inside, fallback, min_mass| {
        let options = ProjectOptions {
            inside,
            fallback,
            min_mass,
            top_k: None,
        };
        thencat().project(&options)
    };
    let rows = with(Inside::Fallback, Fallback::OneHot, 0.3);
    check(&rows[1], Projection::OneHot, &[(EN, 1.0)], 0.0);
    assert_eq!((rows[1].target_logprob, rows[1].source_nll), (0.0, None));
    let rows = with(Inside::Condition, Fallback::Skip, 0.85);
    check(&rows[1], Projection::Skipped, &[], 1.0);
    assert_eq!(rows[2].projection, Projection::SameEnd);
    let rows = with(Inside::Condition, Fallback::Pivot, 0.95);
    assert!(rows.iter().all(|row| !row.written));

    // The fallback names the *next* token.
    let rows = with(Inside::Condition, Fallback::OneHot, 0.95);
    let named: Vec<TokenId> = rows.iter().map(|row| row.list[0].0).collect();
    assert_eq!(named, [TH, EN, CAT]);
}

#[test]
fn missing_rows_are_missing_and_bad_ones_an_error() {
    let mut case = thencat();
    case.rows = source_rows(&[(1, 3, vec![(3, 0.9)])]);
    let rows = case.project(&ProjectOptions::default());
    check(&rows[0], Projection::Missing, &[], 1.0);
    check(&rows[1], Projection::Missing, &[], 1.0);
    check(&rows[2], Projection::SameEnd, &[(CAT, 0.9)], 0.1);

    case.rows = source_rows(&[(0, 2, vec![(2, 0.5)]), (1, 3, vec![(3, f32::NAN)])]);
    let bad = case.try_project(&ProjectOptions::default(), 1).unwrap_err();
    assert_eq!(bad.pos, 1);
}

#[test]
fn an_added_prefix_is_counted_from_the_end_of_the_token() {
    // The text is `then`; the source's token has a space that the text has not.
    let mut case = thencat();
    case.source = vocabulary("source", &[" then", " there", " this", "then"]);
    case.map = vec![map_row(1, TH, 1.0, 1)];
    case.tokens = SampleTokens {
        sample_id: 0,
        ids: vec![0, TH, EN],
        byte_end: vec![0, 2, 4],
        supervised: vec![false, false, true],
    };
    case.links = links(&case.tokens, &[0, 1], &[0, 4]);
    case.rows = source_rows(&[(0, 1, vec![(1, 0.5), (2, 0.2), (3, 0.2), (4, 0.1)])]);
    let rows = case.project(&ProjectOptions::default());
    // ` then` and ` there` begin with ` th`; ` this` too, but no pivot token begins `is`.
    let scale = 1.0 / 0.9;
    let list = [(EN, 0.5 * scale), (E, 0.2 * scale)];
    check(&rows[0], Projection::Conditioned, &list, 0.2 * scale);
}

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

fn write(dir: &Path, provenance: Provenance, rows: &RecordBatch) {
    let info = PartInfo {
        samples: u64::from(provenance.kind.per_sample()),
        ..PartInfo::ONLY
    };
    let writer = Writer::create(dir, provenance, Existing::Replace).unwrap();
    let mut part = writer.part(info).unwrap();
    part.write(rows).unwrap();
    part.finish().unwrap();
}

#[test]
fn the_stage_reads_and_writes_artifacts() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let case = thencat();
    let pair = |kind| {
        Provenance::new(kind)
            .vocabulary("pivot")
            .input("source_vocabulary", "source")
    };
    let tokens_rows = tokens::to_batch(std::slice::from_ref(&case.tokens)).unwrap();
    let tokens_of = Provenance::new(Kind::Tokens).vocabulary("pivot");
    write(&at("tokens"), tokens_of, &tokens_rows);
    write(&at("alignment"), pair(Kind::Alignment), &case.links);
    let map = token_map::to_batch(&case.map).unwrap();
    let width = serde_json::json!({ "width": 2 });
    write(&at("map"), pair(Kind::TokenMap).options(width), &map);
    let topk = || Provenance::new(Kind::Topk).vocabulary("source").model("m");
    write(&at("topk"), topk(), &case.rows);
    let own = source_rows(&[
        (0, TH, vec![(TH, 0.99)]),
        (1, EN, vec![(EN, 0.1)]),
        (2, CAT, vec![(CAT, 0.2)]),
    ]);
    let own_of = Provenance::new(Kind::Topk).vocabulary("pivot");
    write(&at("own"), own_of, &own);

    let paths = ["topk", "alignment", "map", "tokens", "own"].map(at);
    let first_token = |bytes: &[u8]| first_of(&case.pivot, bytes, 9);
    let inputs = ProjectInputs {
        topk: &paths[0],
        alignment: &paths[1],
        token_map: &paths[2],
        pivot_tokens: &paths[3],
        source: &case.source,
        pivot: &case.pivot,
        first_token: &first_token,
        pivot_topk: Some(&paths[4]),
    };
    let options = ProjectOptions::default();
    let go = |out: &str| run(&inputs, &at(out), &options, Existing::Refuse);
    let summary = go("out").unwrap();
    assert_eq!(summary.positions, 3);
    assert_eq!(summary.of(Projection::SameEnd).rows, 2);
    assert_eq!(summary.of(Projection::Conditioned).top1, 1);
    let (projected, own) = summary.cross_entropies().unwrap();
    let expected = -(0.775f64 * 0.59375 * 0.9).ln() / 3.0;
    assert!(near(projected, expected), "{projected} {expected}");
    assert!(near(own, -(0.99f64 * 0.1 * 0.2).ln() / 3.0));
    let artifact = Artifact::open(&at("out"), Kind::Projected).unwrap();
    artifact.check_vocabulary("pivot").unwrap();
    assert_eq!(artifact.rows(), 3);
    assert_eq!(artifact.provenance().model.as_deref(), Some("m"));

    // A source that knows less than the pivot shows it.
    let poor = source_rows(&[(0, 2, vec![(5, 0.9)]), (1, 3, vec![(1, 0.9)])]);
    write(&at("topk"), topk().input("x", "poor"), &poor);
    let (projected, own) = go("out2").unwrap().cross_entropies().unwrap();
    assert!(projected > own, "{projected} {own}");
    let bad = source_rows(&[(0, 2, vec![(5, 0.9)]), (1, 3, vec![(1, f32::NAN)])]);
    write(&at("topk"), topk().input("x", "bad"), &bad);
    let error = go("out3").unwrap_err().to_string();
    assert!(error.contains("sample 0 position 1"), "{error}");
    assert_eq!(std::fs::read_dir(at("out3")).unwrap().count(), 0);

    write(&at("topk"), topk().vocabulary("other"), &case.rows);
    let error = go("out4").unwrap_err().to_string();
    assert!(error.contains("vocabulary `other`"), "{error}");
}

/// Projected positions per second on one core, k = 10 at most.
#[test]
#[ignore = "a measurement"]
fn projection_speed() {
    let mut state = 1u32;
    let mut random = |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % below
    };
    let n = 100_000;
    let text: String = (0..n)
        .map(|_| if random(2) == 0 { 'a' } else { 'b' })
        .collect();
    let ours: Vec<usize> = (0..n).map(|_| random(3) as usize + 1).collect();
    let theirs: Vec<usize> = (0..n).map(|_| random(3) as usize + 1).collect();
    let lists: Vec<(u32, f32)> = (0..12 * n)
        .map(|_| (random(14) + 1, random(1000) as f32 + 1.0))
        .collect();
    let (case, _, source_end) = cut_case(text, &ours, &theirs, &lists);
    let started = std::time::Instant::now();
    let positions = 20 * case.tokens.predicted().count();
    let first_token = |bytes: &[u8]| first_of(&case.pivot, bytes, case.longest);
    let nowhere = Path::new("");
    let inputs = ProjectInputs {
        topk: nowhere,
        alignment: nowhere,
        token_map: nowhere,
        pivot_tokens: nowhere,
        source: &case.source,
        pivot: &case.pivot,
        first_token: &first_token,
        pivot_topk: None,
    };
    let options = ProjectOptions::default();
    let follow = case.follow(1);
    let mut builder = DistributionBuilder::projected();
    for _ in 0..20 {
        let mut projector = Projector::new(&inputs, &options, &follow);
        projector
            .sample(
                &case.tokens,
                &Links::new(&case.links).unwrap(),
                Some(&Distributions::new(&case.rows).unwrap()),
                &mut |row| {
                    builder.push_projected(0, row.distribution, row.projection, row.source_nll);
                },
            )
            .unwrap();
        builder.finish().unwrap();
    }
    let rate = positions as f64 / started.elapsed().as_secs_f64();
    eprintln!("{rate:.0} positions/s, {} source tokens", source_end.len());
}
