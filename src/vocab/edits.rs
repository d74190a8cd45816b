//! Edit distance of short strings (insertions, deletions, substitutions).
//!
//! Computed with bit-parallel columns (Myers 1999, in Hyyrö's form) for queries of up to 64
//! symbols, which are nearly all tokens, and row by row beyond.

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

/// Bytes as symbols of a [`Query`].
pub(crate) fn symbols(bytes: &[u8]) -> Vec<u32> {
    bytes.iter().map(|byte| u32::from(*byte)).collect()
}

/// A string prepared for many distances.
pub(crate) struct Query<'a> {
    symbols: &'a [u32],
    /// Positions of each ASCII symbol, as bits.
    low: [u64; 128],
    /// The same for other symbols.
    high: Vec<(u32, u64)>,
}

impl<'a> Query<'a> {
    /// Prepares a string of symbols (characters or bytes).
    pub(crate) fn new(symbols: &'a [u32]) -> Self {
        let mut query = Self {
            symbols,
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

    /// The edit distance to another string of symbols.
    pub(crate) fn distance(&self, other: &[u32]) -> u32 {
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

    proptest! {
        #[test]
        fn bit_parallel_equals_the_table(
            a in proptest::collection::vec(0u32..5, 1..64),
            b in proptest::collection::vec(0u32..5, 0..70),
        ) {
            prop_assert_eq!(Query::new(&a).distance(&b), by_rows(&a, &b));
        }
    }
}
