//! The bytes of a vocabulary's tokens, side by side.

use crate::units::TokenId;
use crate::vocab::Vocabulary;

/// The candidates of a row lie all over the vocabulary: in one piece of memory, most of them are
/// found in the cache.
#[derive(Debug)]
pub(super) struct Spellings {
    /// Where the bytes of each id begin, and the end.
    begins: Vec<u32>,
    bytes: Vec<u8>,
    special: Vec<bool>,
    /// Ids of text tokens in the order of their bytes.
    sorted: Vec<TokenId>,
}

impl Spellings {
    pub(super) fn new(vocabulary: &Vocabulary) -> Self {
        let mut spellings = Self {
            begins: vec![0],
            bytes: Vec::new(),
            special: Vec::new(),
            sorted: Vec::new(),
        };
        for (id, token) in (0..).zip(&vocabulary.tokens) {
            spellings.bytes.extend_from_slice(&token.bytes);
            spellings.begins.push(spellings.bytes.len() as u32);
            spellings.special.push(token.special);
            if !token.special && !token.bytes.is_empty() {
                spellings.sorted.push(id);
            }
        }
        let mut sorted = std::mem::take(&mut spellings.sorted);
        sorted.sort_by(|a, b| spellings.of(*a).cmp(spellings.of(*b)).then(a.cmp(b)));
        spellings.sorted = sorted;
        spellings
    }

    /// Where the bytes of an id begin among those of all.
    #[inline]
    pub(super) fn place(&self, id: TokenId) -> Option<usize> {
        self.begins.get(id as usize).map(|begin| *begin as usize)
    }

    /// Bytes of all tokens together.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes of an id; none for an id without a token.
    #[inline]
    pub(super) fn of(&self, id: TokenId) -> &[u8] {
        let range = self.begins.get(id as usize..);
        match range.and_then(<[u32]>::first_chunk::<2>) {
            Some([begin, end]) => &self.bytes[*begin as usize..*end as usize],
            None => &[],
        }
    }

    /// Whether an id is a special token.
    #[inline]
    pub(super) fn is_special(&self, id: TokenId) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// By id: whether longer tokens of text begin with its bytes.
    pub(super) fn extended(&self) -> Vec<bool> {
        let mut extended = vec![false; self.special.len()];
        for (at, id) in self.sorted.iter().enumerate() {
            let bytes = self.of(*id);
            // Those that begin with it follow it, the same bytes first.
            let longer = self.sorted[at + 1..]
                .iter()
                .map(|next| self.of(*next))
                .find(|next| next.len() != bytes.len() || *next != bytes);
            extended[*id as usize] = longer.is_some_and(|longer| longer.starts_with(bytes));
        }
        extended
    }

    /// Whether a token of text that is longer than `at_least` bytes begins `bytes`.
    pub(super) fn begins(&self, bytes: &[u8], at_least: usize) -> bool {
        (at_least + 1..=bytes.len()).any(|length| {
            let part = &bytes[..length];
            let found = self.sorted.binary_search_by(|id| self.of(*id).cmp(part));
            found.is_ok()
        })
    }
}
