//! What the warping compares: the spellings of tokens, and the roles of special ones.

use std::collections::HashMap;

use super::dtw::Costs;
use super::{DtwText, Sample};
use crate::error::{Error, Result};
use crate::units::TokenId;
use crate::vocab::edits::Query;
use crate::vocab::{Role, Vocabulary};

/// The most that a pair of tokens costs; no piece has so many characters.
pub(super) const MOST: u32 = 4095;

/// The letters that stand for a space in pieces; they are left out of comparisons.
const SPACES: [char; 2] = ['▁', 'Ġ'];

/// The spellings of a vocabulary's tokens, as they are compared.
///
/// # Memory
/// 4 bytes a character and 5 bytes a token.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// Characters of all pieces, one after the other.
    characters: Vec<u32>,
    /// Where each piece ends in `characters`.
    ends: Vec<u32>,
    /// The roles of special tokens.
    special: HashMap<TokenId, Roles>,
}

/// A set of roles, one bit each.
type Roles = u8;

/// A piece: its characters, and its roles if it is a special token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    characters: &'a [u32],
    special: Option<Roles>,
}

/// What is left of a piece; one space stands for nothing.
fn plain(piece: &str) -> impl Iterator<Item = u32> + '_ {
    let rest = piece.chars().filter(|c| !SPACES.contains(c)).map(u32::from);
    let none = piece.chars().all(|c| SPACES.contains(&c));
    rest.chain(none.then_some(u32::from(' ')))
}

impl Pieces {
    /// # Errors
    /// It is not known how the tokens decode.
    pub(super) fn new(vocabulary: &Vocabulary, text: DtwText) -> Result<Self> {
        let mut pieces = match text {
            DtwText::Pieces => {
                Self::from_spellings(vocabulary.tokens.iter().map(|token| &*token.display))
            }
            DtwText::Decoded => Self::decoded(vocabulary)?,
        };
        for (id, token) in (0u32..).zip(&vocabulary.tokens) {
            let roles = vocabulary
                .roles_of(id)
                .fold(0, |roles, role| roles | bit(role));
            if token.special || roles != 0 {
                pieces.special.insert(id, roles);
            }
        }
        Ok(pieces)
    }

    /// The texts of the tokens: blanks count, and a token without text has no letter.
    fn decoded(vocabulary: &Vocabulary) -> Result<Self> {
        let mut pieces = Self::default();
        for id in 0..vocabulary.len() as u32 {
            let text = vocabulary.decoded(id).ok_or_else(|| {
                Error::usage("a `vocab` artifact does not say how its tokens decode: it was written by an earlier version")
                    .remedy("run `corpus` again with `--force`, or use `dtw_text: pieces`")
            })?;
            pieces.push(text.chars().map(u32::from));
        }
        Ok(pieces)
    }

    fn push(&mut self, spelling: impl Iterator<Item = u32>) {
        self.characters.extend(spelling);
        self.ends.push(self.characters.len() as u32);
    }

    /// Pieces without special tokens.
    pub(super) fn from_spellings<'a>(spellings: impl Iterator<Item = &'a str>) -> Self {
        let mut pieces = Self::default();
        for spelling in spellings {
            pieces.push(plain(spelling));
        }
        pieces
    }

    /// The piece of an id; what begins a sequence counts as BOS whatever the token is.
    fn piece(&self, id: TokenId, begins: bool) -> Piece<'_> {
        let at = id as usize;
        let start = at.checked_sub(1).and_then(|before| self.ends.get(before));
        let end = self.ends.get(at).copied().unwrap_or(0) as usize;
        let start = start.copied().unwrap_or(0) as usize;
        let special = self.special.get(&id).copied();
        Piece {
            characters: self.characters.get(start..end).unwrap_or_default(),
            special: match begins {
                true => Some(special.unwrap_or(0) | bit(Role::Bos)),
                false => special,
            },
        }
    }
}

fn bit(role: Role) -> Roles {
    1 << role as u8
}

impl Piece<'_> {
    /// What linking the two costs: the edit distance of their characters; special tokens cost
    /// nothing with one of the same role, and have no character in common with anything else.
    fn cost(&self, query: &Query<'_>, other: &Piece<'_>) -> u32 {
        match (self.special, other.special) {
            (None, None) => query.distance(other.characters),
            (Some(ours), Some(theirs)) if ours & theirs != 0 => 0,
            _ => self.characters.len().max(other.characters.len()) as u32,
        }
    }
}

/// The distinct pieces of a sample, and which of them each token is. What begins a transcript is
/// apart.
fn distinct<'a>(sample: &Sample<'_>, pieces: &'a Pieces) -> (Vec<Piece<'a>>, Vec<u32>) {
    let mut known: HashMap<(TokenId, bool), u32> = HashMap::with_capacity(sample.ids.len() / 2);
    let mut distinct = Vec::new();
    let mut which = Vec::with_capacity(sample.ids.len());
    for (at, id) in sample.ids.iter().enumerate() {
        let begins = sample.begins && at == 0;
        which.push(*known.entry((*id, begins)).or_insert_with(|| {
            distinct.push(pieces.piece(*id, begins));
            distinct.len() as u32 - 1
        }));
    }
    (distinct, which)
}

/// The costs of all pairs: each pair of distinct pieces is compared once.
pub(super) fn costs(
    (pivot, pivot_pieces): (&Sample<'_>, &Pieces),
    (source, source_pieces): (&Sample<'_>, &Pieces),
) -> Costs {
    let (ours, row_of) = distinct(pivot, pivot_pieces);
    let (theirs, column_of) = distinct(source, source_pieces);
    let stride = Costs::stride(source.ids.len());
    let mut rows = vec![0u16; ours.len() * stride];
    let mut distances = vec![0u16; theirs.len()];
    for (piece, row) in ours.iter().zip(rows.chunks_exact_mut(stride)) {
        let query = Query::new(piece.characters);
        for (other, distance) in theirs.iter().zip(&mut distances) {
            *distance = piece.cost(&query, other).min(MOST) as u16;
        }
        for (cost, column) in row.iter_mut().zip(&column_of) {
            *cost = distances[*column as usize];
        }
    }
    Costs {
        row_of,
        rows,
        sources: source.ids.len(),
    }
}
