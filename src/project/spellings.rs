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
    outlines: Vec<Outline>,
    special: Vec<bool>,
    /// Ids of text tokens in the order of their bytes.
    sorted: Vec<TokenId>,
}

/// What tells most tokens apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outline {
    pub(super) id: TokenId,
    /// In bytes.
    pub(super) length: u32,
    /// The first bytes, zeros where there are fewer.
    pub(super) head: u64,
}

impl Outline {
    /// Which bytes of `head` are the token's.
    pub(super) fn mask(&self) -> u64 {
        match self.length {
            8.. => u64::MAX,
            length => !(u64::MAX << (8 * length)),
        }
    }

    fn of(id: TokenId, bytes: &[u8]) -> Self {
        let mut head = [0; 8];
        let length = bytes.len().min(head.len());
        head[..length].copy_from_slice(&bytes[..length]);
        Self {
            id,
            length: bytes.len() as u32,
            head: u64::from_le_bytes(head),
        }
    }
}

impl Spellings {
    pub(super) fn new(vocabulary: &Vocabulary) -> Self {
        let mut spellings = Self {
            begins: vec![0],
            bytes: Vec::new(),
            outlines: Vec::new(),
            special: Vec::new(),
            sorted: Vec::new(),
        };
        let mut sorted = Vec::new();
        for (id, token) in (0..).zip(&vocabulary.tokens) {
            spellings.bytes.extend_from_slice(&token.bytes);
            spellings.begins.push(spellings.bytes.len() as u32);
            spellings.outlines.push(Outline::of(id, &token.bytes));
            spellings.special.push(token.special);
            if !token.special && !token.bytes.is_empty() {
                sorted.push((spellings.outlines[id as usize].head.swap_bytes(), id));
            }
        }
        // The first bytes tell most of them apart.
        sorted.sort_unstable_by(|a, b| {
            let (left, right) = (spellings.of(a.1), spellings.of(b.1));
            a.0.cmp(&b.0)
                .then_with(|| left.cmp(right).then(a.1.cmp(&b.1)))
        });
        spellings.sorted = sorted.into_iter().map(|(_, id)| id).collect();
        spellings
    }

    /// Where the bytes of an id begin among those of all.
    #[inline]
    pub(super) fn place(&self, id: TokenId) -> Option<usize> {
        self.begins.get(id as usize).map(|begin| *begin as usize)
    }

    /// Number of ids.
    pub(super) fn len(&self) -> usize {
        self.special.len()
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

    /// The bytes of an id from an offset on.
    pub(super) fn rest(&self, id: TokenId, offset: u32) -> &[u8] {
        let rest = self.of(id).get(offset as usize..);
        rest.unwrap_or_default()
    }

    /// An id for quick comparisons.
    pub(super) fn outline(&self, id: TokenId) -> Outline {
        let outline = self.outlines.get(id as usize).copied();
        outline.unwrap_or_else(|| Outline::of(id, &[]))
    }

    /// Whether an id is a special token.
    #[inline]
    pub(super) fn is_special(&self, id: TokenId) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// Whether a blank after a letter or digit ends a word: no token goes on beyond it.
    pub(super) fn blanks_end_words(&self) -> bool {
        let goes_on = |pair: &[u8]| pair[0].is_ascii_alphanumeric() && pair[1] == b' ';
        let mut texts = self.sorted.iter().map(|id| self.of(*id));
        !texts.any(|bytes| bytes.windows(2).any(goes_on))
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
