//! Readings against enumeration: toy worlds in which the probability of every text is known.
//!
//! A world is a random language model over the tokens of all strings up to a length; pivot and
//! source cut the strings by different merges. The plain way to project, with strings instead of
//! offsets, stands beside the fast one, and both beside the probabilities of the world.

use std::collections::BTreeMap;

use super::super::first::FirstTokens;
use super::super::readings::{Languages, Next, Reader, Readings, Rows, Scratch};
use super::super::rows::{BadRow, SourceRow};
use super::super::short::ShortRule;
use super::*;

/// The token that ends a text, in both vocabularies.
const END: &str = "$";

/// Numbers that look random, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() * n as f64) as usize
    }
}

type Merges = Vec<(String, String)>;

fn merges(pairs: &[(&str, &str)]) -> Merges {
    pairs
        .iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect()
}

/// Random merges of what earlier ones made.
fn random_merges(random: &mut Random, count: usize) -> Merges {
    let mut known: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
    let mut made = Merges::new();
    while made.len() < count {
        let pair = (
            known[random.below(known.len())].clone(),
            known[random.below(known.len())].clone(),
        );
        let merged = format!("{}{}", pair.0, pair.1);
        if merged.len() <= 4 && !known.contains(&merged) {
            known.push(merged);
            made.push(pair);
        }
    }
    made
}

fn bpe(merges: &Merges, text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = text.chars().map(String::from).collect();
    for (left, right) in merges {
        let mut merged = Vec::with_capacity(tokens.len());
        let mut at = 0;
        while at < tokens.len() {
            if at + 1 < tokens.len() && tokens[at] == *left && tokens[at + 1] == *right {
                merged.push(format!("{left}{right}"));
                at += 2;
            } else {
                merged.push(tokens[at].clone());
                at += 1;
            }
        }
        tokens = merged;
    }
    tokens
}

fn tokens_of(merges: &Merges, text: &str) -> Vec<String> {
    let mut tokens = bpe(merges, text);
    tokens.push(END.to_owned());
    tokens
}

/// A list with probabilities, and what is left.
type List = (BTreeMap<String, f64>, f64);

struct World {
    tokens: BTreeMap<String, Vec<String>>,
    prob: BTreeMap<String, f64>,
    rows: BTreeMap<Vec<String>, BTreeMap<String, f64>>,
}

impl World {
    fn new(merges: &Merges, length: usize, random: &mut Random) -> Self {
        let mut strings = vec![String::new()];
        let mut last = strings.clone();
        for _ in 0..length {
            last = last
                .iter()
                .flat_map(|s| ["a", "b", "c"].map(|c| format!("{s}{c}")))
                .collect();
            strings.extend(last.clone());
        }
        let tokens: BTreeMap<String, Vec<String>> = strings
            .iter()
            .map(|s| (s.clone(), tokens_of(merges, s)))
            .collect();
        let mut scores: BTreeMap<(String, String), f64> = BTreeMap::new();
        let mut weight = BTreeMap::new();
        for (text, tokens) in &tokens {
            let mut product = 0.35f64.powi(text.len() as i32);
            let mut before = "^".to_owned();
            for token in tokens {
                let score = scores.entry((before, token.clone()));
                product *=
                    *score.or_insert_with(|| -(1.0 - random.next()).ln() * random.next() + 0.01);
                before = token.clone();
            }
            weight.insert(text.clone(), product);
        }
        let total: f64 = weight.values().sum();
        let prob: BTreeMap<String, f64> = weight.into_iter().map(|(s, w)| (s, w / total)).collect();
        let mut rows: BTreeMap<Vec<String>, BTreeMap<String, f64>> = BTreeMap::new();
        for (text, tokens) in &tokens {
            for at in 0..tokens.len() {
                let row = rows.entry(tokens[..at].to_vec()).or_default();
                *row.entry(tokens[at].clone()).or_default() += prob[text];
            }
        }
        for row in rows.values_mut() {
            let sum: f64 = row.values().sum();
            row.values_mut().for_each(|p| *p /= sum);
        }
        Self { tokens, prob, rows }
    }

    /// The k best of the row that predicts token `at`, which is always known, and the tail.
    fn row(&self, tokens: &[String], at: usize, k: usize) -> List {
        let full = &self.rows[&tokens[..at]];
        let mut best: Vec<(&String, &f64)> = full.iter().collect();
        best.sort_by(|a, b| b.1.total_cmp(a.1).then(a.0.cmp(b.0)));
        let known =
            |(place, (token, _)): &(usize, (&String, &f64))| *place < k || **token == tokens[at];
        let list: BTreeMap<String, f64> = best
            .iter()
            .copied()
            .enumerate()
            .filter(known)
            .map(|(_, (token, p))| (token.clone(), *p))
            .collect();
        let tail = full
            .iter()
            .filter(|(token, _)| !list.contains_key(*token))
            .map(|(_, p)| p)
            .sum();
        (list, tail)
    }
}

/// One row of the plain way: v, what arrives, what does not, and the share of the unknown.
struct Plain {
    token: String,
    list: BTreeMap<String, f64>,
    rest: f64,
    owed: f64,
}

/// The rule with strings, as `algorithms` words it.
fn plain(world: &World, pivot: &Merges, text: &str, k: usize) -> Vec<Plain> {
    let first = |bytes: &str| bpe(pivot, bytes)[0].clone();
    let source = &world.tokens[text];
    let (mut at, mut ahead, mut path) = (0, String::new(), 1.0);
    let (mut live, mut unknown): (Vec<(String, f64)>, f64) = (Vec::new(), 0.0);
    let mut found = Vec::new();
    for v in tokens_of(pivot, text) {
        let mut mass: BTreeMap<String, f64> = BTreeMap::new();
        let (mut rest, mut readings) = (unknown, live);
        let mut over = false;
        while !over && (ahead.is_empty() || ahead.len() < v.len()) {
            let (list, tail) = world.row(source, at, k);
            rest += path * tail;
            for (token, p) in &list {
                if *token == source[at] {
                } else if token == END {
                    let here = if ahead.is_empty() {
                        END.to_owned()
                    } else {
                        first(&ahead)
                    };
                    *mass.entry(here).or_default() += path * p;
                } else {
                    readings.push((format!("{ahead}{token}"), path * p));
                }
            }
            path *= list[&source[at]];
            over = source[at] == END;
            if !over {
                ahead += &source[at];
            }
            at += 1;
        }
        let mut left = Vec::new();
        for (bytes, weight) in readings {
            let token = first(&bytes);
            if token == v {
                left.push((bytes[v.len()..].to_owned(), weight));
            }
            *mass.entry(token).or_default() += weight;
        }
        *mass.entry(v.clone()).or_default() += path;
        let total = mass.values().sum::<f64>() + rest;
        mass.values_mut().for_each(|m| *m /= total);
        unknown = left.iter().filter(|r| r.0.is_empty()).map(|r| r.1).sum();
        live = left.into_iter().filter(|r| !r.0.is_empty()).collect();
        let alive = path + unknown + live.iter().map(|r| r.1).sum::<f64>();
        path /= alive;
        unknown /= alive;
        live.iter_mut().for_each(|r| r.1 /= alive);
        if v != END {
            ahead = ahead[v.len()..].to_owned();
        }
        found.push(Plain {
            token: v,
            list: mass,
            rest: rest / total,
            owed: -path.ln(),
        });
    }
    found
}

/// The ids of some tokens: BOS, the end of a text, the tokens.
fn vocabulary_of(name: &str, tokens: impl Iterator<Item = String>) -> Vocabulary {
    let mut words: Vec<String> = tokens.filter(|token| token != END).collect();
    words.sort();
    words.dedup();
    let bos = Token {
        bytes: b"<s>".to_vec(),
        special: true,
        role: Some(Role::Bos),
        kind: TokenKind::Added,
        ..Token::hole()
    };
    let eos = Token {
        bytes: END.as_bytes().to_vec(),
        role: Some(Role::Eos),
        ..bos.clone()
    };
    let words = words.into_iter().map(|word| Token {
        bytes: word.into_bytes(),
        kind: TokenKind::Ordinary,
        ..Token::hole()
    });
    Vocabulary::new(
        [bos, eos].into_iter().chain(words).collect(),
        name.to_owned(),
        [],
    )
}

fn id_of(vocabulary: &Vocabulary, token: &str) -> TokenId {
    let at = vocabulary
        .tokens
        .iter()
        .skip(1)
        .position(|known| known.bytes == token.as_bytes());
    at.unwrap() as TokenId + 1
}

fn sample(vocabulary: &Vocabulary, tokens: &[String]) -> SampleTokens {
    let mut end = 0;
    let ends = tokens.iter().map(|token| {
        end += token.len() as u32;
        end
    });
    SampleTokens {
        sample_id: 0,
        ids: std::iter::once(0)
            .chain(tokens.iter().map(|token| id_of(vocabulary, token)))
            .collect(),
        byte_end: std::iter::once(0).chain(ends).collect(),
        supervised: std::iter::once(false)
            .chain(tokens.iter().map(|_| true))
            .collect(),
    }
}

struct TextRows<'a> {
    world: &'a World,
    vocabulary: &'a Vocabulary,
    tokens: &'a [String],
    k: usize,
}

impl Rows for TextRows<'_> {
    fn read(&mut self, pos: u32, row: &mut SourceRow) -> std::result::Result<bool, BadRow> {
        let (list, tail) = self.world.row(self.tokens, pos as usize, self.k);
        let target = &self.tokens[pos as usize];
        let others = list.iter().filter(|(token, _)| *token != target);
        *row = SourceRow {
            target: id_of(self.vocabulary, target),
            target_prob: list[target],
            others: others
                .map(|(token, p)| (id_of(self.vocabulary, token), *p))
                .collect(),
            tail,
            k: self.k,
        };
        Ok(true)
    }
}

/// Projects every text of the world in both ways; fails where they differ, or where the product
/// is not the source's own probability.
fn check(
    source_merges: &Merges,
    pivot_merges: &Merges,
    length: usize,
    k: usize,
    random: &mut Random,
) {
    let world = World::new(source_merges, length, random);
    let source = vocabulary_of("source", world.tokens.values().flatten().cloned());
    let pivot_tokens = world
        .tokens
        .keys()
        .flat_map(|text| tokens_of(pivot_merges, text));
    let pivot = vocabulary_of("pivot", pivot_tokens);
    let first_token = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).ok()?;
        let first = bpe(pivot_merges, text).first()?.clone();
        Some(id_of(&pivot, &first))
    };
    let (from, to) = (Spellings::new(&source), Spellings::new(&pivot));
    let first = FirstTokens::new(&first_token, &from, &to);
    let specials = [map_row(0, 0, 1.0, 1), map_row(1, 1, 1.0, 1)];
    let follow = Follow::from_rows(&specials, 1, source.len(), pivot.len()).unwrap();
    let with = Languages {
        source: &from,
        pivot: &to,
        first: &first,
        follow: &follow,
        by_map: false,
        unknown: None,
    };
    let mut scratch = Scratch::default();
    let mut readings = Readings::default();
    for (text, prob) in &world.prob {
        let tokens = &world.tokens[text];
        let (ours, theirs) = (
            sample(&pivot, &tokens_of(pivot_merges, text)),
            sample(&source, tokens),
        );
        let whole = format!("{text}{END}");
        let reader = Reader {
            text: whole.as_bytes(),
            source: &theirs,
        };
        let mut rows = TextRows {
            world: &world,
            vocabulary: &source,
            tokens,
            k,
        };
        readings.start(1, 0, 0);
        let (mut product, mut source_nll) = (0.0, 0.0);
        for (at, expected) in plain(&world, pivot_merges, text, k).iter().enumerate() {
            let next = Next {
                token: ours.ids[at + 1],
                begin: ours.byte_end[at],
                end: ours.byte_end[at + 1],
                sources: (0, u32::MAX),
                whole: false,
            };
            let found = readings.predict(
                &with,
                &reader,
                &next,
                &mut rows,
                &mut ShortRule::First,
                &mut scratch,
            );
            let found = found.unwrap();
            product += found.prob.ln();
            source_nll += found.source_nll;
            let mut sum = scratch.out.rest;
            for (token, mass) in &expected.list {
                let here = scratch.out.of(id_of(&pivot, token));
                assert!(
                    (here - mass).abs() < 1e-12,
                    "`{text}` {at} `{token}`: {here}, expected {mass}"
                );
                sum += here;
            }
            assert!(
                (sum - 1.0).abs() < 1e-12 && (scratch.out.rest - expected.rest).abs() < 1e-12,
                "`{text}` {at}: {sum}"
            );
            assert!(
                (found.owed - expected.owed).abs() < 1e-9,
                "`{text}` {at}: {}",
                found.owed
            );
            assert!((found.prob - expected.list[&expected.token]).abs() < 1e-12);
            if source_merges == pivot_merges {
                let (list, tail) = world.row(tokens, at, k);
                assert!(found.clean && found.rows == 1 && found.owed.abs() < 1e-12);
                assert!((scratch.out.rest - tail).abs() < 1e-12);
                assert!(
                    list.iter()
                        .all(|(token, p)| (expected.list[token] - p).abs() < 1e-12)
                );
            }
            // Up to here, too.
            assert!(
                (source_nll + product - found.owed).abs() < 1e-9,
                "`{text}` {at}"
            );
        }
        assert!(
            (product - prob.ln()).abs() < 1e-9,
            "`{text}`: {product}, expected {}",
            prob.ln()
        );
    }
}

#[test]
fn the_product_over_every_text_is_the_probability_of_the_source() {
    let long = merges(&[("a", "b"), ("ab", "c"), ("b", "c"), ("c", "a")]);
    let other = merges(&[("b", "a"), ("c", "c")]);
    let letters = Merges::new();
    let part = long[..2].to_vec();
    let mut random = Random(1);
    for (source, pivot) in [
        (&long, &letters),
        (&letters, &long),
        (&long, &other),
        (&other, &long),
        (&long, &long),
        (&long, &part),
        (&part, &long),
    ] {
        for k in [1, 2, 3, 99] {
            check(source, pivot, 5, k, &mut random);
        }
    }
}

#[test]
fn so_it_is_for_random_vocabularies() {
    let mut random = Random(2);
    for _ in 0..12 {
        let (a, b) = (2 + random.below(6), 2 + random.below(6));
        let (source, pivot) = (random_merges(&mut random, a), random_merges(&mut random, b));
        let k = 1 + random.below(4);
        check(&source, &pivot, 5, k, &mut random);
        check(&pivot, &source, 5, k, &mut random);
    }
}
