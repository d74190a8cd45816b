//! The first token of bytes in mid-text.

use std::borrow::Cow;

use serde_json::Value;
use tokenizers::utils::SysRegex;
use tokenizers::{
    Model, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType,
    PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
};

use super::Tokenizer;
use super::pieces::{byte_level_spelling, flatten};
use crate::contain::contained;

/// The words of GPT-2, which `ByteLevel` has built in.
const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// What a tokenizer does with text before its model sees it, without adding a prefix.
pub(super) struct MidText {
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    words: Option<Words>,
}

/// The same for the commonest kinds, without the library's record of where each character came
/// from: projection asks for millions of first words.
struct Words {
    /// Whether a normaliser changes text beyond ASCII.
    only_ascii: bool,
    /// What a blank is spelled as.
    space: Option<String>,
    /// What a word is, which is then spelled byte by byte; all of the text if there is none.
    regex: Option<SysRegex>,
}

impl MidText {
    /// Reads the parsed `tokenizer.json`.
    pub(super) fn of(spec: &Value) -> serde_json::Result<Self> {
        let part = |key: &str| {
            let part = spec.get(key).cloned().unwrap_or(Value::Null);
            without_prefixes(part).filter(|part| !part.is_null())
        };
        let (normalizer, pre_tokenizer) = (part("normalizer"), part("pre_tokenizer"));
        Ok(Self {
            words: Words::of(&normalizer, &pre_tokenizer),
            normalizer: normalizer.map(serde_json::from_value).transpose()?,
            pre_tokenizer: pre_tokenizer.map(serde_json::from_value).transpose()?,
        })
    }

    /// Whether first words are found without the library.
    #[cfg(test)]
    pub(super) fn is_quick(&self) -> bool {
        self.words.is_some()
    }

    /// What the normaliser makes of a part of a text.
    pub(super) fn normalize(&self, part: &str) -> String {
        let mut normalized = NormalizedString::from(part);
        match &self.normalizer {
            Some(normalizer) if normalizer.normalize(&mut normalized).is_ok() => {
                normalized.get().to_owned()
            }
            _ => part.to_owned(),
        }
    }

    /// The first word of a text, as the model sees it.
    pub(super) fn first_word<'t>(&self, text: &'t str) -> Option<Cow<'t, str>> {
        let words = self.words.as_ref();
        let quickly = words.and_then(|words| words.first(text));
        quickly.or_else(|| self.first_word_by_library(text).map(Cow::Owned))
    }

    /// The same by the library alone.
    pub(super) fn first_word_by_library(&self, text: &str) -> Option<String> {
        let mut normalized = NormalizedString::from(text);
        if let Some(normalizer) = &self.normalizer {
            normalizer.normalize(&mut normalized).ok()?;
        }
        let mut splits = PreTokenizedString::from(normalized);
        if let Some(pre_tokenizer) = &self.pre_tokenizer {
            pre_tokenizer.pre_tokenize(&mut splits).ok()?;
        }
        let splits = splits.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.first().map(|(word, ..)| (*word).to_owned())
    }
}

impl Words {
    fn of(normalizer: &Option<Value>, pre_tokenizer: &Option<Value>) -> Option<Self> {
        let mut words = Self {
            only_ascii: false,
            space: None,
            regex: None,
        };
        for part in normalizer.iter().flat_map(flatten) {
            match part["type"].as_str()? {
                "NFC" | "NFD" | "NFKC" | "NFKD" => words.only_ascii = true,
                "Replace" if part["pattern"]["String"] == " " && words.space.is_none() => {
                    words.space = Some(part["content"].as_str()?.to_owned());
                }
                _ => return None,
            }
        }
        let parts: Vec<&Value> = pre_tokenizer.iter().flat_map(flatten).collect();
        let kinds: Option<Vec<&str>> = parts.iter().map(|part| part["type"].as_str()).collect();
        match (kinds?.as_slice(), parts.as_slice()) {
            ([], _) => {}
            (["Metaspace"], [part]) if part["split"] == false && words.space.is_none() => {
                words.space = Some(part["replacement"].as_str()?.to_owned());
            }
            (["ByteLevel"], [part]) if part["use_regex"] != false => {
                words.regex = Some(SysRegex::new(GPT_2).ok()?);
            }
            (["Split", "ByteLevel"], [split, bytes])
                if split["behavior"] == "Isolated"
                    && split["invert"] == false
                    && bytes["use_regex"] == false =>
            {
                let pattern = split["pattern"]["Regex"].as_str()?;
                words.regex = Some(SysRegex::new(pattern).ok()?);
            }
            _ => return None,
        }
        Some(words)
    }

    /// None where the library must be asked.
    fn first<'t>(&self, text: &'t str) -> Option<Cow<'t, str>> {
        if self.only_ascii && !text.is_ascii() {
            return None;
        }
        let spaced = match &self.space {
            Some(space) if text.contains(' ') => Cow::Owned(text.replace(' ', space)),
            _ => Cow::Borrowed(text),
        };
        let Some(regex) = &self.regex else {
            return Some(spaced);
        };
        // What comes before the first match is a word of its own.
        let end = match regex.find_iter(&spaced).next() {
            Some((0, end)) => end,
            Some((start, _)) => start,
            None => spaced.len(),
        };
        let word = spaced.get(..end).filter(|word| !word.is_empty())?;
        Some(byte_level_spelling(word.as_bytes()).into())
    }
}

impl Tokenizer {
    /// The first token with which this tokenizer starts `bytes` in mid-text (no prefix is added,
    /// special tokens are plain text). Bytes that begin inside a character are tokenised as
    /// bytes. None where no token of the vocabulary begins them.
    pub fn first_token(&self, bytes: &[u8]) -> Option<u32> {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            // Complete characters decide the first token.
            Err(error) => std::str::from_utf8(bytes.get(..error.valid_up_to())?).ok()?,
        };
        if text.is_empty() {
            return self.first_of_bytes(bytes);
        }
        if let Some((_, id)) = self
            .added_text
            .iter()
            .find(|(added, _)| text.starts_with(added.as_str()))
        {
            return Some(*id);
        }
        // A pattern that gives up on these bytes begins no token with them.
        contained(|| self.first_of_word(&self.mid_text.first_word(text)?)).ok()?
    }

    fn first_of_word(&self, word: &str) -> Option<u32> {
        let tokens = self.inner.get_model().tokenize(word).ok()?;
        tokens
            .first()
            .map(|token| token.id)
            .filter(|id| Some(*id) != self.unknown || self.is_text(*id))
    }

    fn first_of_bytes(&self, bytes: &[u8]) -> Option<u32> {
        if self.scheme.byte_level {
            let token = self.first_of_word(&byte_level_spelling(bytes));
            return token.filter(|_| !bytes.is_empty());
        }
        (1..=bytes.len())
            .rev()
            .find_map(|length| self.id_with_bytes(bytes.get(..length)?))
    }

    /// Whether the unknown token is a token of the text as well (GPT-2's `<|endoftext|>`): its
    /// model knows every byte and never needs it.
    fn is_text(&self, id: u32) -> bool {
        self.scheme.byte_level && self.vocabulary().token(id).is_some()
    }
}

/// A normaliser or pre-tokenizer that adds nothing before a text and strips nothing off its ends.
fn without_prefixes(part: Value) -> Option<Value> {
    let Value::Object(mut part) = part else {
        return None;
    };
    for key in ["normalizers", "pretokenizers"] {
        if let Some(Value::Array(parts)) = part.get_mut(key) {
            *parts = std::mem::take(parts)
                .into_iter()
                .filter_map(without_prefixes)
                .collect();
        }
    }
    match part.get("type").and_then(Value::as_str) {
        Some("Prepend" | "Strip") => return None,
        Some("Metaspace") => {
            part.remove("add_prefix_space");
            part.insert("prepend_scheme".to_owned(), Value::from("never"));
        }
        Some("ByteLevel") if part.contains_key("add_prefix_space") => {
            part.insert("add_prefix_space".to_owned(), Value::Bool(false));
        }
        _ => {}
    }
    Some(Value::Object(part))
}
