//! The token at the least edit distance.
//!
//! The naive product of two real vocabularies takes over an hour. Here candidates lie in buckets
//! by length, searched from the query's own length outwards until the difference alone is more
//! than the best distance found; each carries a 64-bit set of its symbols (hashed), so that the
//! symbols which one has and the other lacks bound the distance from below; and the distance
//! itself is computed with bit-parallel columns (Myers 1999, in Hyyrö's form) for queries of up
//! to 64 symbols.

use std::collections::BTreeMap;

use crate::units::TokenId;
use crate::vocab::{Kind, Vocabulary};

/// Longest query, in symbols, that one machine word holds.
const WORD: usize = 64;

/// Edit distance (insertions, deletions, substitutions) of two tokens: over Unicode characters
/// where both are valid UTF-8, over bytes otherwise.
pub fn distance(a: &[u8], b: &[u8]) -> u32 {
    match (std::str::from_utf8(a), std::str::from_utf8(b)) {
        (Ok(a), Ok(b)) => {
            let (a, b): (Vec<u32>, Vec<u32>) = (
                a.chars().map(u32::from).collect(),
                b.chars().map(u32::from).collect(),
            );
            Query::new(&a).distance(&b)
        }
        _ => Query::new(&symbols(a)).distance(&symbols(b)),
    }
}

/// Bytes as symbols.
fn symbols(bytes: &[u8]) -> Vec<u32> {
    bytes.iter().map(|byte| u32::from(*byte)).collect()
}

/// The nearest token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// The token.
    pub id: TokenId,
    /// Its edit distance.
    pub distance: u32,
}

/// The text tokens of a vocabulary, for [`EditIndex::nearest`].
///
/// # Memory
/// About 8 bytes a symbol (characters and bytes are both kept) and 40 bytes a token.
#[derive(Debug, Default)]
pub struct EditIndex {
    characters: Buckets,
    bytes: Buckets,
}

impl EditIndex {
    /// Indexes the ordinary tokens of a vocabulary: not special, with bytes.
    pub fn new(vocabulary: &Vocabulary) -> Self {
        let mut index = Self::default();
        for (id, token) in (0u32..).zip(&vocabulary.tokens) {
            if token.special || token.kind == Kind::Hole || token.bytes.is_empty() {
                continue;
            }
            if let Ok(text) = std::str::from_utf8(&token.bytes) {
                let characters: Vec<u32> = text.chars().map(u32::from).collect();
                index.characters.insert(id, &characters);
            }
            index.bytes.insert(id, &symbols(&token.bytes));
        }
        index
    }

    /// The token at the least edit distance from `token`: over characters, among the tokens that
    /// are valid UTF-8, if `token` is; over bytes, among all, if it is not. Ties: the longer
    /// common prefix (in the same symbols), then the lower id. `None` if there is no candidate.
    pub fn nearest(&self, token: &[u8]) -> Option<Nearest> {
        match std::str::from_utf8(token) {
            Ok(text) if !self.characters.is_empty() => {
                let characters: Vec<u32> = text.chars().map(u32::from).collect();
                self.characters.nearest(&characters)
            }
            _ => self.bytes.nearest(&symbols(token)),
        }
    }
}

/// Tokens by length.
#[derive(Debug, Default)]
struct Buckets {
    by_length: BTreeMap<usize, Bucket>,
}

/// Tokens of one length, one after the other.
#[derive(Debug, Default)]
struct Bucket {
    ids: Vec<TokenId>,
    sets: Vec<u64>,
    symbols: Vec<u32>,
}

/// The best candidate so far; smaller is better.
type Rank = (u32, std::cmp::Reverse<usize>, TokenId);

impl Buckets {
    fn is_empty(&self) -> bool {
        self.by_length.is_empty()
    }

    fn insert(&mut self, id: TokenId, symbols: &[u32]) {
        let bucket = self.by_length.entry(symbols.len()).or_default();
        bucket.ids.push(id);
        bucket.sets.push(symbol_set(symbols));
        bucket.symbols.extend_from_slice(symbols);
    }

    fn nearest(&self, symbols: &[u32]) -> Option<Nearest> {
        let query = Query::new(symbols);
        let mut best: Option<Rank> = None;
        let mut lengths: Vec<(usize, &usize)> = self
            .by_length
            .keys()
            .map(|length| (length.abs_diff(symbols.len()), length))
            .collect();
        lengths.sort_unstable();
        for (difference, length) in lengths {
            if best.is_some_and(|(distance, ..)| difference > distance as usize) {
                break;
            }
            self.by_length[length].search(&query, *length, &mut best);
        }
        best.map(|(distance, _, id)| Nearest { id, distance })
    }
}

impl Bucket {
    fn search(&self, query: &Query<'_>, length: usize, best: &mut Option<Rank>) {
        for (at, set) in self.sets.iter().enumerate() {
            let missing = (query.set & !set).count_ones();
            let surplus = (set & !query.set).count_ones();
            let limit = best.map_or(u32::MAX, |best| best.0);
            if missing.max(surplus) > limit {
                continue;
            }
            let candidate = &self.symbols[at * length..(at + 1) * length];
            let distance = query.distance(candidate);
            if distance > limit {
                continue;
            }
            let pairs = query.symbols.iter().zip(candidate);
            let common = pairs.take_while(|(a, b)| a == b).count();
            let rank = (distance, std::cmp::Reverse(common), self.ids[at]);
            if best.is_none_or(|best| rank < best) {
                *best = Some(rank);
            }
        }
    }
}

/// The set of hashed symbols. A symbol of one string whose bit the other lacks costs an edit of
/// its own, so set differences bound the distance from below.
fn symbol_set(symbols: &[u32]) -> u64 {
    symbols.iter().fold(0, |set, symbol| {
        set | 1 << (symbol.wrapping_mul(0x9E37_79B1) >> 26)
    })
}

/// A string prepared for many distances.
struct Query<'a> {
    symbols: &'a [u32],
    set: u64,
    /// Positions of each ASCII symbol, as bits.
    low: [u64; 128],
    /// The same for other symbols.
    high: Vec<(u32, u64)>,
}

impl<'a> Query<'a> {
    fn new(symbols: &'a [u32]) -> Self {
        let mut query = Self {
            symbols,
            set: symbol_set(symbols),
            low: [0; 128],
            high: Vec::new(),
        };
        for (at, symbol) in symbols.iter().enumerate().take(WORD) {
            let bit = 1 << at;
            match query.low.get_mut(*symbol as usize) {
                Some(positions) => *positions |= bit,
                None => match query.high.iter_mut().find(|(known, _)| known == symbol) {
                    Some((_, positions)) => *positions |= bit,
                    None => query.high.push((*symbol, bit)),
                },
            }
        }
        query
    }

    fn positions(&self, symbol: u32) -> u64 {
        match self.low.get(symbol as usize) {
            Some(positions) => *positions,
            None => {
                let known = self.high.iter().find(|(known, _)| *known == symbol);
                known.map_or(0, |(_, positions)| *positions)
            }
        }
    }

    fn distance(&self, other: &[u32]) -> u32 {
        match self.symbols.len() {
            0 => other.len() as u32,
            length if length <= WORD => self.bit_parallel(other),
            _ => by_rows(self.symbols, other),
        }
    }

    /// One column of the table per symbol of `other`, as vertical differences in two words.
    fn bit_parallel(&self, other: &[u32]) -> u32 {
        let last = 1u64 << (self.symbols.len() - 1);
        let (mut plus, mut minus) = (u64::MAX, 0u64);
        let mut distance = self.symbols.len() as u32;
        for symbol in other {
            let equal = self.positions(*symbol);
            let diagonal = (((equal & plus).wrapping_add(plus)) ^ plus) | equal | minus;
            let up = minus | !(diagonal | plus);
            let down = plus & diagonal;
            distance += u32::from(up & last != 0);
            distance -= u32::from(down & last != 0);
            let up = (up << 1) | 1;
            minus = up & diagonal;
            plus = (down << 1) | !(diagonal | up);
        }
        distance
    }
}

/// The textbook table, one row at a time.
fn by_rows(a: &[u32], b: &[u32]) -> u32 {
    let mut row: Vec<u32> = (0..=b.len() as u32).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i as u32 + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + u32::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vocab::Token;

    fn vocabulary(words: &[Vec<u8>]) -> Vocabulary {
        let tokens = words.iter().map(|bytes| Token {
            bytes: bytes.clone(),
            kind: Kind::Ordinary,
            ..Token::hole()
        });
        Vocabulary::new(tokens.collect(), "test".to_owned(), [])
    }

    #[test]
    fn distances_by_hand() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("größe", "grosse", 3),
            ("flaw", "lawn", 2),
        ] {
            assert_eq!(distance(a.as_bytes(), b.as_bytes()), expected, "{a} {b}");
            assert_eq!(distance(b.as_bytes(), a.as_bytes()), expected, "{b} {a}");
        }
        // Bytes where one is no valid UTF-8.
        assert_eq!(distance("ö".as_bytes(), &[0xC3]), 1);
        let long = "x".repeat(100);
        assert_eq!(distance(long.as_bytes(), b"y"), 100);
        assert_eq!(distance(b"y", long.as_bytes()), 100);
    }

    #[test]
    fn ties_go_to_the_longer_prefix_then_the_lower_id() {
        let words = ["bat", "cut", "cat", "caz"].map(|w| w.as_bytes().to_vec());
        let index = EditIndex::new(&vocabulary(&words));
        let nearest = |word: &str| index.nearest(word.as_bytes()).unwrap();
        assert_eq!(nearest("cax").id, 2);
        assert_eq!(nearest("cut").distance, 0);
        // `bat` and `cat` are both one off; no common prefix.
        assert_eq!(nearest("at").id, 0);
        assert!(EditIndex::default().nearest(b"a").is_none());
    }

    proptest! {
        #[test]
        fn bit_parallel_equals_the_table(
            a in proptest::collection::vec(0u32..5, 1..64),
            b in proptest::collection::vec(0u32..5, 0..70),
        ) {
            prop_assert_eq!(Query::new(&a).distance(&b), by_rows(&a, &b));
        }

        #[test]
        fn the_index_equals_a_full_search(
            words in proptest::collection::vec("[abcé]{1,6}", 1..60),
            query in "[abcéx]{1,7}",
        ) {
            let words: Vec<Vec<u8>> = words.into_iter().map(String::into_bytes).collect();
            let found = EditIndex::new(&vocabulary(&words)).nearest(query.as_bytes());
            let expected = words
                .iter()
                .enumerate()
                .map(|(id, word)| {
                    let word = std::str::from_utf8(word).unwrap();
                    let common = word.chars().zip(query.chars()).take_while(|(a, b)| a == b);
                    let edits = distance(word.as_bytes(), query.as_bytes());
                    (edits, std::cmp::Reverse(common.count()), id as u32)
                })
                .min()
                .map(|(distance, _, id)| Nearest { id, distance });
            prop_assert_eq!(found, expected);
        }
    }
}
