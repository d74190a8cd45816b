//! The special and added tokens of a model folder, as transformers' fast tokenizers have them.
//!
//! `tokenizer.json` alone does not say them all. Read are, as transformers 5 does (and 4.5x, but
//! for what is said at the end):
//!
//! * `added_tokens_decoder` in `tokenizer_config.json`: tokens with their ids, and how they are
//!   matched, which wins over `tokenizer.json`. Where it stands, the two next files are not read.
//! * `special_tokens_map.json`: its names win over those of `tokenizer_config.json`.
//! * `added_tokens.json`: tokens and ids.
//! * `bos_token`, `eos_token` and other `…_token`, `additional_special_tokens` and
//!   `extra_special_tokens` in `tokenizer_config.json`; an explicit null is no token.
//! * The defaults of the tokenizer's class, where no file names a token.
//!
//! A token that stands in one of them only is added to the tokenizer, in transformers' order.
//! Where transformers would give it another id than the file says, where an id is another token's,
//! and where a BOS or EOS that a file names is no token at all, transformers goes on with an id
//! that nobody trained; these are errors here. Left out instead of added are: defaults of a class
//! that are no tokens, and tokens to fill up a batch and the like for which the model has no row.
//!
//! Versions differ in two things, and 5 is followed: a `…_token` that is none of the usual ones is
//! a special token too, and tokens of `added_tokens.json` are found in the text as it is where the
//! normaliser adds a prefix (4.5x finds them at the start of a text only).

mod classes;
mod complete;
mod declared;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::Value;

use self::declared::Declared;
use crate::checkpoint::companion_json;
use crate::error::Result;

/// Spellings of BOS and EOS where no configuration names them.
const BEGINNINGS: [&str; 5] = [
    "<s>",
    "<bos>",
    "<|begin_of_text|>",
    "<|startoftext|>",
    "[CLS]",
];
const ENDS: [&str; 6] = [
    "</s>",
    "<eos>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|im_end|>",
    "[SEP]",
];

/// The special and added tokens of a model folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenFacts {
    /// Spellings by what files call them (`bos_token`).
    named: BTreeMap<String, String>,
    /// Ids of added tokens by spelling.
    ids: HashMap<String, u32>,
    /// The special ones among them, in the tokenizer's order.
    specials: Vec<String>,
    /// Those that are not in `tokenizer.json`.
    completed: Vec<String>,
}

impl TokenFacts {
    /// Reads the files of a model folder, and completes `spec`, the parsed `tokenizer.json`:
    /// tokens that other files add are then in its `added_tokens`. Returns whether that changed it.
    ///
    /// # Errors
    /// An unreadable or damaged file; files that contradict each other; a BOS or EOS that is no
    /// token.
    pub(crate) fn complete(dir: &Path, spec: &mut Value) -> Result<(Self, bool)> {
        let declared = Declared::read(dir)?;
        let mut facts = Self::default();
        let changed = facts.add(dir, &declared, spec)?;
        if !declared.configured {
            let is_known = |text: &&&str| facts.ids.contains_key(**text);
            for (key, known) in [("bos_token", &BEGINNINGS[..]), ("eos_token", &ENDS[..])] {
                let first = known.iter().find(is_known);
                if let Some(first) = first.filter(|_| !facts.named.contains_key(key)) {
                    facts.named.insert(key.to_owned(), (*first).to_owned());
                }
            }
        }
        Ok((facts, changed))
    }

    /// Those of a folder, whether or not it has a `tokenizer.json`.
    ///
    /// # Errors
    /// Those of [`TokenFacts::complete`].
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        if let Some(mut spec) = companion_json(dir, "tokenizer.json")? {
            return Ok(Self::complete(dir, &mut spec)?.0);
        }
        let declared = Declared::read(dir)?;
        let given = declared.given.into_iter().map(|given| given.token);
        let special = given.filter(|token| token.special).chain(declared.extra);
        let named = declared.named.into_iter();
        Ok(Self {
            specials: special.map(|token| token.content).collect(),
            named: named
                .map(|named| (named.key, named.token.content))
                .collect(),
            ..Self::default()
        })
    }

    /// Tokens by name alone.
    pub(super) fn of_names<'a>(
        names: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
    ) -> Self {
        let names = names.into_iter();
        Self {
            named: names
                .filter_map(|(key, text)| Some((key.to_owned(), text?.to_owned())))
                .collect(),
            ..Self::default()
        }
    }

    /// The spelling of the token that files call `key` (`eos_token`).
    pub(crate) fn named(&self, key: &str) -> Option<&str> {
        self.named.get(key).map(String::as_str)
    }

    /// All names with their spellings.
    pub(super) fn names(&self) -> impl Iterator<Item = (&str, &str)> {
        let names = self.named.iter();
        names.map(|(key, text)| (key.as_str(), text.as_str()))
    }

    /// The id of an added token.
    pub(crate) fn id(&self, spelling: &str) -> Option<u32> {
        self.ids.get(spelling).copied()
    }

    /// Whether any token is known by its id.
    pub(super) fn has_ids(&self) -> bool {
        !self.ids.is_empty()
    }

    /// The special added tokens.
    pub(super) fn specials(&self) -> &[String] {
        &self.specials
    }

    /// The tokens that other files than `tokenizer.json` added, with their ids.
    pub(crate) fn completed(&self) -> impl Iterator<Item = (&str, u32)> {
        let texts = self.completed.iter();
        texts.filter_map(|text| Some((text.as_str(), self.id(text)?)))
    }
}
