//! The token at the least edit distance.
//!
//! The naive product of two real vocabularies takes over an hour. Here candidates lie in buckets
//! by length, searched from the query's own length outwards until the difference alone is more
//! than the best distance found; each carries a 64-bit set of its symbols (hashed), so that the
//! symbols which one has and the other lacks bound the distance from below.

use std::collections::BTreeMap;

use crate::units::TokenId;
use crate::vocab::edits::{Query, symbols};
use crate::vocab::{Kind, Vocabulary};

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
        let query = (symbols, symbol_set(symbols), Query::new(symbols));
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
    /// `query` is a token's symbols, their set, and the same prepared for distances.
    fn search(
        &self,
        (symbols, own_set, query): &(&[u32], u64, Query<'_>),
        length: usize,
        best: &mut Option<Rank>,
    ) {
        for (at, set) in self.sets.iter().enumerate() {
            let missing = (own_set & !set).count_ones();
            let surplus = (set & !own_set).count_ones();
            let limit = best.map_or(u32::MAX, |best| best.0);
            if missing.max(surplus) > limit {
                continue;
            }
            let candidate = &self.symbols[at * length..(at + 1) * length];
            let distance = query.distance(candidate);
            if distance > limit {
                continue;
            }
            let pairs = symbols.iter().zip(candidate);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::vocab::{Token, distance};

    fn vocabulary(words: &[Vec<u8>]) -> Vocabulary {
        let tokens = words.iter().map(|bytes| Token {
            bytes: bytes.clone(),
            kind: Kind::Ordinary,
            ..Token::hole()
        });
        Vocabulary::new(tokens.collect(), "test".to_owned(), [])
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
