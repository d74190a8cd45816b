//! Vocabularies and tokenizers, with every token known by its *bytes*.
//!
//! A [`Vocabulary`] lists the tokens of one tokenizer: the bytes that each stands for, how it is
//! shown, and what role it plays. A [`Tokenizer`] wraps the Hugging Face tokenizer that the
//! vocabulary came from and adds what fusion needs: the byte at which each token of a text ends
//! ([`Tokenizer::encode`]), transcripts in which special tokens are exchanged by role
//! ([`Tokenizer::encode_transcript`]), and the first token of some bytes in mid-text
//! ([`Tokenizer::first_token`]).

pub(crate) mod edits;
mod first;
mod gguf;
mod limits;
mod listing;
mod literal;
mod load;
pub(crate) mod merges;
mod normal;
mod pieces;
mod roles;
mod spans;
mod split;
mod store;
#[cfg(test)]
mod tests;
mod tokenizer;
mod trace;
mod transcripts;
mod vocabularies;

pub use edits::distance;
pub use gguf::check_tokens;
pub use literal::SpecialTokens;
pub use tokenizer::{Encoded, Tokenizer};
pub use transcripts::TokenRow;
pub use vocabularies::{FirstToken, Vocabularies};

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// What a special token is for; tokens of the same role correspond across vocabularies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Begins a sequence.
    Bos,
    /// Ends a sequence.
    Eos,
    /// Fills up a batch.
    Pad,
    /// Stands for text that the tokenizer cannot express.
    Unk,
    /// Opens a turn of a chat.
    TurnStart,
    /// Closes a turn of a chat.
    TurnEnd,
}

impl Role {
    /// Every role, in the order in which they are looked up.
    pub const ALL: [Self; 6] = [
        Self::Bos,
        Self::Eos,
        Self::Pad,
        Self::Unk,
        Self::TurnStart,
        Self::TurnEnd,
    ];

    /// The name in artifacts: `bos`, `eos`, `pad`, `unk`, `turn_start`, `turn_end`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bos => "bos",
            Self::Eos => "eos",
            Self::Pad => "pad",
            Self::Unk => "unk",
            Self::TurnStart => "turn_start",
            Self::TurnEnd => "turn_end",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|role| role.name() == name)
            .ok_or_else(|| Error::usage(format!("`{name}` is no role of a token")))
    }
}

/// How a token came into the vocabulary; several tokens can have the same bytes, and then an
/// ordinary piece is meant before an added one, and a byte token last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A piece that the model itself produces.
    Ordinary,
    /// A token added beside the model (special or not).
    Added,
    /// A byte-fallback token such as `<0x0A>`.
    Byte,
    /// An id without a token.
    Hole,
}

/// One token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The token as the tokenizer's file spells it (`▁the`, `Ġthe`, `<0x0A>`), for people.
    pub display: String,
    /// The bytes of text that it stands for; a special token's are its spelling.
    pub bytes: Vec<u8>,
    /// Whether it is a special token: never a part of ordinary text.
    pub special: bool,
    /// Its role, if it has one. A token can have several (`<|endoftext|>` as BOS and EOS); this
    /// is the first of them in the order of [`Role`], except that a token which is both EOS and
    /// the end of a turn counts as the latter. [`Vocabulary::id_with_role`] knows them all.
    pub role: Option<Role>,
    /// How it came into the vocabulary.
    pub kind: Kind,
}

impl Token {
    /// An id without a token: empty, not special, and never matched.
    pub fn hole() -> Self {
        Self {
            display: String::new(),
            bytes: Vec::new(),
            special: false,
            role: None,
            kind: Kind::Hole,
        }
    }
}

/// The tokens of one tokenizer, by id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// The tokens; the index is the id. Ids without a token are [`Token::hole`].
    pub tokens: Vec<Token>,
    /// BLAKE3 (hex) of all that determines tokenisation: tokenizers with equal digests are
    /// interchangeable.
    pub digest: String,
    roles: HashMap<Role, u32>,
    /// Whether a token that is decoded alone loses the blank that it begins with
    /// (SentencePiece's added prefix); `vocab` artifacts from before do not say.
    drops_blank: Option<bool>,
}

impl Vocabulary {
    /// A vocabulary of `tokens` (index = id). `roles` are the roles beyond those that the tokens
    /// themselves name, where one token has several.
    pub fn new(
        tokens: Vec<Token>,
        digest: String,
        roles: impl IntoIterator<Item = (Role, u32)>,
    ) -> Self {
        let mut by_role: HashMap<Role, u32> = roles.into_iter().collect();
        for (id, token) in (0u32..).zip(&tokens) {
            if let Some(role) = token.role {
                by_role.entry(role).or_insert(id);
            }
        }
        Self {
            tokens,
            digest,
            roles: by_role,
            drops_blank: None,
        }
    }

    /// Says whether a token that is decoded alone loses the blank that it begins with.
    #[must_use]
    fn dropping_blanks(mut self, drops: Option<bool>) -> Self {
        self.drops_blank = drops;
        self
    }

    /// The number of ids, holes included: one more than the highest id.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The token of an id, if there is one.
    pub fn token(&self, id: u32) -> Option<&Token> {
        self.tokens
            .get(id as usize)
            .filter(|token| token.kind != Kind::Hole)
    }

    /// The bytes of an id; empty for an id without a token.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.tokens
            .get(id as usize)
            .map_or(&[], |token| &token.bytes)
    }

    /// What the tokenizer's decoder makes of a token alone; bytes that are no whole character
    /// become U+FFFD. None where that is not known.
    pub fn decoded(&self, id: u32) -> Option<Cow<'_, str>> {
        let token = self.tokens.get(id as usize)?;
        let text = String::from_utf8_lossy(&token.bytes);
        if token.kind == Kind::Added || !text.starts_with(' ') {
            return Some(text);
        }
        Some(match (self.drops_blank?, text) {
            (false, text) => text,
            (true, Cow::Borrowed(text)) => Cow::Borrowed(&text[1..]),
            (true, Cow::Owned(text)) => Cow::Owned(text[1..].to_owned()),
        })
    }

    /// The id of the token with this role.
    pub fn id_with_role(&self, role: Role) -> Option<u32> {
        self.roles.get(&role).copied()
    }

    /// The roles that an id has, in the order of [`Role`].
    pub fn roles_of(&self, id: u32) -> impl Iterator<Item = Role> + '_ {
        Role::ALL
            .into_iter()
            .filter(move |role| self.id_with_role(*role) == Some(id))
    }
}
