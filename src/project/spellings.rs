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
}

impl Spellings {
    pub(super) fn new(vocabulary: &Vocabulary) -> Self {
        let mut spellings = Self {
            begins: vec![0],
            bytes: Vec::new(),
            special: Vec::new(),
        };
        for token in &vocabulary.tokens {
            spellings.bytes.extend_from_slice(&token.bytes);
            spellings.begins.push(spellings.bytes.len() as u32);
            spellings.special.push(token.special);
        }
        spellings
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

    /// What remains of a token of text after its first bytes; `None` if it has others, or no more.
    #[inline]
    pub(super) fn after(&self, prefix: &[u8], id: TokenId) -> Option<&[u8]> {
        let bytes = self.of(id);
        // Most differ in the first byte.
        if bytes.first() != prefix.first() {
            return None;
        }
        let rest = bytes.strip_prefix(prefix)?;
        (!rest.is_empty() && !self.special[id as usize]).then_some(rest)
    }
}
