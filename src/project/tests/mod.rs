//! A text, two ways to cut it into tokens, and rows of the source: what the tests project.

mod cases;
mod examples;
mod oracle;
mod properties;
mod stage;
mod warped;
mod words;

use arrow::record_batch::RecordBatch;

use super::*;
use crate::artifact::alignment::{AlignmentBuilder, Link, LinkKind};
use crate::artifact::distribution::{Distribution, Origin};
use crate::artifact::token_map::{MapMethod, MapRow};
use crate::artifact::{Provenance, Writer};
use crate::units::TokenId;
use crate::vocab::{Kind as TokenKind, Role, Token, Vocabulary};

/// What one row became.
#[derive(Clone, Debug)]
struct Row {
    pos: u32,
    list: Vec<(TokenId, f64)>,
    tail: f64,
    target_logprob: f32,
    projection: Projection,
    origin: Origin,
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
    /// Whether the map says where readings of one token go.
    by_map: bool,
    matching: Matching,
    text: String,
    tokens: SampleTokens,
    source_tokens: SampleTokens,
    links: RecordBatch,
    rows: RecordBatch,
    /// The pivot's own.
    own: Option<RecordBatch>,
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
    ) -> std::result::Result<Vec<Row>, rows::BadRow> {
        let first_token = |bytes: &[u8]| first_of(&self.pivot, bytes, self.longest);
        let follow = self.follow(width);
        let spellings = (Spellings::new(&self.source), Spellings::new(&self.pivot));
        let first = FirstTokens::new(&first_token, &spellings.0, &spellings.1);
        let shared = Shared {
            source: &self.source,
            pivot: &self.pivot,
            spellings: (&spellings.0, &spellings.1),
            first: &first,
            follow: &follow,
            matching: &self.matching,
            by_map: self.by_map,
        };
        let short = options.short(self.own.is_some());
        let mut projector = Projector::new(&shared, options, short);
        let own = self
            .own
            .as_ref()
            .map(|own| Distributions::new(own).unwrap());
        let mut out = Vec::new();
        let sample = Sample {
            tokens: &self.tokens,
            links: &Links::new(&self.links).unwrap(),
            rows: Some(&Distributions::new(&self.rows).unwrap()),
            source: &self.source_tokens,
            text: self.text.as_bytes(),
            pivot_rows: own.as_ref(),
        };
        projector.sample(&sample, &mut |row| {
            let d = row.distribution;
            let probs = d.logprobs.iter().map(|lp| f64::from(*lp).exp());
            out.push(Row {
                pos: d.pos,
                list: d.ids.iter().copied().zip(probs).collect(),
                tail: f64::from(d.tail_logprob).exp(),
                target_logprob: d.target_logprob,
                projection: row.projection,
                origin: row.origin,
                written: row.written,
            });
        })?;
        Ok(out)
    }
}

/// Tokens that end at these bytes, all but the first supervised.
fn sample_tokens(ids: &[TokenId], ends: &[u32]) -> SampleTokens {
    SampleTokens {
        sample_id: 0,
        ids: ids.to_vec(),
        byte_end: ends.to_vec(),
        supervised: (0..ids.len()).map(|at| at > 0).collect(),
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
    let tokens = sample_tokens(&[0, TH, EN, CAT], &[0, 2, 4, 7]);
    let source_tokens = sample_tokens(&[0, 2, 3], &[0, 4, 7]);
    Case {
        text: "thencat".to_owned(),
        links: links(&tokens, &source_tokens.ids, &source_tokens.byte_end),
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
        by_map: false,
        matching: Matching::Offsets,
        source,
        pivot,
        longest: 9,
        tokens,
        source_tokens,
        own: None,
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
