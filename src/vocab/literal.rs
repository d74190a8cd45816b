//! Special tokens that a text spells out: the template's are tokens, a content's are text.
//!
//! A user who writes `</s>` does not end the text, and a model whose special tokens a document
//! happens to spell out must not be spared that part of it. So where the contents of a transcript
//! spell special tokens, it is read by a twin of the tokenizer: the same in all but that its special
//! tokens have private spellings, which the transcript gets where its template writes them. What
//! stands around special tokens (prefixes, blanks that they take) is as it would be.

use std::collections::HashMap;
use std::sync::OnceLock;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

use super::{Role, Tokenizer};
use crate::error::{Context, Error, Result};

/// What special tokens are that a content spells out.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum SpecialTokens {
    /// Text, whatever it spells; only the template writes special tokens.
    #[default]
    Text,
    /// Special tokens, as transformers reads them unless it is told to sanitise.
    Tokens,
}

/// What a tokenizer needs to tell its special tokens in a text; made when first asked for.
#[derive(Default)]
pub(super) struct Literal {
    spellings: OnceLock<Option<Spellings>>,
    twin: OnceLock<std::result::Result<Box<Tokenizer>, Error>>,
}

/// The spellings of the special tokens, and their ids.
struct Spellings {
    search: AhoCorasick,
    ids: Vec<u32>,
}

/// Encloses a private spelling; in no text that anyone writes.
const PRIVATE: char = '\u{10FF3C}';

fn private(id: u32) -> String {
    format!("{PRIVATE}{id}{PRIVATE}")
}

impl Tokenizer {
    /// The special tokens that a text spells out, `(start, end, id)`, from left to right, the
    /// longest first.
    pub(super) fn spelled(&self, text: &str) -> Vec<(usize, usize, u32)> {
        let Some(spellings) = self.literal.spellings.get_or_init(|| self.spellings()) else {
            return Vec::new();
        };
        let found = spellings.search.find_iter(text);
        let place = found.map(|at| (at.start(), at.end(), spellings.ids[at.pattern().as_usize()]));
        place.collect()
    }

    fn spellings(&self) -> Option<Spellings> {
        let tokens = (0u32..).zip(&self.vocabulary().tokens);
        let (texts, ids): (Vec<&[u8]>, Vec<u32>) = tokens
            .filter(|(_, token)| token.special && !token.bytes.is_empty())
            .map(|(id, token)| (token.bytes.as_slice(), id))
            .unzip();
        let mut search = AhoCorasick::builder();
        let search = search
            .match_kind(MatchKind::LeftmostLongest)
            .build(texts)
            .ok()?;
        Some(Spellings { search, ids })
    }

    /// The twin that reads special tokens by their private spellings only.
    ///
    /// # Errors
    /// A `tokenizer.json` that is none without the usual spellings of its special tokens; a text
    /// that has the private ones.
    pub(super) fn literal(&self, text: &str) -> Result<&Self> {
        if text.contains(PRIVATE) {
            let problem = format!(
                "the text spells special tokens out, and has the private character U+{:X}",
                PRIVATE as u32
            );
            return Err(Error::input("sample", problem)
                .remedy("remove the character, or set `special_tokens: tokens`"));
        }
        let twin = self.literal.twin.get_or_init(|| self.twin().map(Box::new));
        twin.as_deref().map_err(|error| {
            Error::file(
                self.path(),
                format!("special tokens cannot be read as text: {error}"),
            )
            .remedy("set `special_tokens: tokens` to read them as tokens")
        })
    }

    fn twin(&self) -> Result<Self> {
        let mut spec: Value = serde_json::from_str(self.spec()).at(self.path())?;
        let mut renamed: HashMap<String, String> = HashMap::new();
        let added = spec.get_mut("added_tokens").and_then(Value::as_array_mut);
        for token in added.into_iter().flatten() {
            if token["special"] != true {
                continue;
            }
            let (Some(content), Some(id)) = (token["content"].as_str(), token["id"].as_u64())
            else {
                continue;
            };
            let spelling = private(id as u32);
            renamed.insert(content.to_owned(), spelling.clone());
            token["content"] = spelling.into();
        }
        spec["post_processor"] = Value::Null;
        if let Some(model) = spec.get_mut("model") {
            rename(model, &renamed);
        }
        let roles = Role::ALL.into_iter();
        let roles = roles.filter_map(|role| Some((role, self.vocabulary().id_with_role(role)?)));
        let twin = Self::from_spec(self.path(), &spec, None, &roles.collect())?;
        // Renamed tokens keep their ids, or every id that follows would be another's.
        for (content, spelling) in &renamed {
            if twin.inner.token_to_id(spelling) != self.inner.token_to_id(content) {
                let problem = format!("the special token `{content}` has no id of its own");
                return Err(Error::file(self.path(), problem));
            }
        }
        Ok(twin)
    }
}

/// Renames pieces of a model: where a special token is one of its pieces, it must not be made of
/// text either.
fn rename(model: &mut Value, renamed: &HashMap<String, String>) {
    match model.get_mut("vocab") {
        Some(Value::Object(pieces)) => {
            *pieces = std::mem::take(pieces)
                .into_iter()
                .map(|(piece, id)| (renamed.get(&piece).cloned().unwrap_or(piece), id))
                .collect();
        }
        Some(Value::Array(pieces)) => {
            for piece in pieces {
                if let Some(spelling) = piece[0].as_str().and_then(|piece| renamed.get(piece)) {
                    piece[0] = spelling.as_str().into();
                }
            }
        }
        _ => {}
    }
    if let Some(spelling) = model["unk_token"]
        .as_str()
        .and_then(|unknown| renamed.get(unknown))
    {
        model["unk_token"] = spelling.as_str().into();
    }
}
