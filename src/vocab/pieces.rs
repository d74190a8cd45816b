//! What bytes of text each token stands for, read from the parts of `tokenizer.json`.
//!
//! The scheme is told from the normaliser, pre-tokenizer, decoder and model, never from class
//! names: byte-level tokenizers spell bytes as printable characters, SentencePiece-style ones
//! spell a space as `▁` and a byte without a piece as `<0x0A>`.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::Kind;

/// GPT-2's printable character of every byte: the printable Latin-1 characters stand for
/// themselves, the others for U+0100 upwards, in order.
static CHAR_OF_BYTE: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        let code = if matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) {
            byte as u32
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).unwrap_or('\u{FFFD}')
    })
});

static BYTE_OF_CHAR: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
    (0u8..=255)
        .map(|byte| (CHAR_OF_BYTE[byte as usize], byte))
        .collect()
});

/// `bytes` as a byte-level tokenizer spells them.
pub(super) fn byte_level_spelling(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| CHAR_OF_BYTE[*byte as usize])
        .collect()
}

/// The parts of `value` (a normaliser, pre-tokenizer or decoder), sequences flattened.
pub(super) fn flatten(value: &Value) -> Vec<&Value> {
    let inner = ["normalizers", "pretokenizers", "decoders", "processors"]
        .iter()
        .find_map(|key| value.get(key).and_then(Value::as_array));
    match inner {
        Some(parts) => parts.iter().flat_map(flatten).collect(),
        None if value.is_object() => vec![value],
        None => Vec::new(),
    }
}

fn is(part: &Value, kind: &str) -> bool {
    part.get("type").and_then(Value::as_str) == Some(kind)
}

/// When a tokenizer adds a space before a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefix {
    /// Never.
    None,
    /// Always, at the start of the text and after every added token.
    Always,
    /// Where the text (or what follows an added token) does not begin with a space itself.
    Missing,
    /// The same, but at the start of the text only: not after an added token, and so not after
    /// BOS.
    First,
}

/// How a tokenizer spells bytes.
#[derive(Clone, Debug)]
pub(super) struct Scheme {
    pub(super) byte_level: bool,
    /// The pre-tokenizer spells bytes as characters (not the normaliser, before it).
    late_bytes: bool,
    pub(super) byte_fallback: bool,
    pub(super) prefix: Prefix,
    space: Option<String>,
    continuing: Option<String>,
    word_end: Option<String>,
}

impl Scheme {
    /// Reads the scheme from the parsed `tokenizer.json`.
    pub(super) fn of(spec: &Value) -> Self {
        let null = Value::Null;
        let part = |key: &str| flatten(spec.get(key).unwrap_or(&null));
        let (normalizers, pre, decoders) =
            (part("normalizer"), part("pre_tokenizer"), part("decoder"));
        let model = spec.get("model").unwrap_or(&null);
        let all = || normalizers.iter().chain(&pre).chain(&decoders);
        let text = |value: &Value, key: &str| {
            value
                .get(key)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };

        let metaspace = all()
            .find(|part| is(part, "Metaspace"))
            .map(|part| text(part, "replacement").unwrap_or_else(|| "▁".to_owned()));
        let replaced = normalizers.iter().find_map(|part| {
            let pattern = part.get("pattern")?;
            let pattern = pattern.get("String").or_else(|| pattern.get("Regex"))?;
            (is(part, "Replace") && pattern == " ").then(|| text(part, "content"))?
        });
        let restored = decoders.iter().find_map(|part| {
            let pattern = part.get("pattern")?.get("String")?.as_str()?;
            (is(part, "Replace") && text(part, "content").as_deref() == Some(" "))
                .then(|| pattern.to_owned())
        });

        let wordpiece = decoders.iter().find(|part| is(part, "WordPiece"));
        let continuing = text(model, "continuing_subword_prefix")
            .or_else(|| wordpiece.and_then(|part| text(part, "prefix")));
        let bpe_decoder = decoders.iter().find(|part| is(part, "BPEDecoder"));
        let word_end = text(model, "end_of_word_suffix")
            .or_else(|| bpe_decoder.and_then(|part| text(part, "suffix")));

        let yes = |part: &Value, key: &str| part.get(key).and_then(Value::as_bool) == Some(true);
        let added_if_missing = |part: &&Value| {
            if is(part, "ByteLevel") && yes(part, "add_prefix_space") {
                return Some(Prefix::Missing);
            }
            let added = is(part, "Metaspace")
                && part.get("add_prefix_space").and_then(Value::as_bool) != Some(false);
            match part.get("prepend_scheme").and_then(Value::as_str) {
                _ if !added => None,
                Some("never") => None,
                Some("first") => Some(Prefix::First),
                _ => Some(Prefix::Missing),
            }
        };
        let prefix = match normalizers.iter().any(|part| is(part, "Prepend")) {
            true => Prefix::Always,
            false => pre
                .iter()
                .find_map(added_if_missing)
                .unwrap_or(Prefix::None),
        };

        Self {
            // What a decoder says is of no account: the model sees what comes before it.
            byte_level: normalizers
                .iter()
                .chain(&pre)
                .any(|part| is(part, "ByteLevel")),
            late_bytes: pre.iter().any(|part| is(part, "ByteLevel")),
            byte_fallback: yes(model, "byte_fallback")
                || decoders.iter().any(|part| is(part, "ByteFallback")),
            prefix,
            space: metaspace.or(replaced).or(restored),
            continuing,
            word_end,
        }
    }

    /// Whether the pre-tokenizer's words are spelled byte by byte.
    pub(super) fn spells_bytes(&self) -> bool {
        self.late_bytes
    }

    /// The byte that a character of a byte-level spelling stands for.
    pub(super) fn byte_of(&self, char: char) -> Option<u8> {
        BYTE_OF_CHAR.get(&char).copied()
    }

    /// Whether a character of a word (as the pre-tokenizer leaves it) is a space.
    pub(super) fn is_space(&self, char: char) -> bool {
        match self.late_bytes {
            true => self.byte_of(char) == Some(b' '),
            false => {
                char == ' '
                    || self
                        .space
                        .as_deref()
                        .is_some_and(|space| space.chars().eq([char]))
            }
        }
    }

    /// A piece without the marks that tell its place in a word.
    pub(super) fn bare<'a>(&self, piece: &'a str) -> &'a str {
        // A piece that is nothing but the mark stands for itself.
        let cut = |cut: Option<&'a str>, whole: &'a str| match cut {
            Some(rest) if !rest.is_empty() => rest,
            _ => whole,
        };
        let prefix = self.continuing.as_deref();
        let piece = cut(prefix.and_then(|prefix| piece.strip_prefix(prefix)), piece);
        let suffix = self.word_end.as_deref();
        cut(suffix.and_then(|suffix| piece.strip_suffix(suffix)), piece)
    }

    /// The bytes that a part of a word (as the pre-tokenizer leaves it) stands for.
    pub(super) fn bytes_of_text(&self, text: &str) -> Vec<u8> {
        if self.byte_level {
            let bytes: Option<Vec<u8>> = text.chars().map(|char| self.byte_of(char)).collect();
            return bytes.unwrap_or_else(|| text.as_bytes().to_vec());
        }
        match &self.space {
            Some(space) => text.replace(space.as_str(), " ").into_bytes(),
            None => text.as_bytes().to_vec(),
        }
    }

    /// The bytes that a piece of the model stands for, and its kind.
    pub(super) fn bytes(&self, piece: &str) -> (Vec<u8>, Kind) {
        if self.byte_fallback
            && !self.byte_level
            && let Some(byte) = byte_token(piece)
        {
            return (vec![byte], Kind::Byte);
        }
        (self.bytes_of_text(self.bare(piece)), Kind::Ordinary)
    }
}

/// In which texts a normaliser can make several bytes of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Growth {
    None,
    BeyondAscii,
    Any,
}

impl Growth {
    pub(super) fn of(spec: &Value, is_piece: &dyn Fn(&str) -> bool) -> Self {
        let parts = flatten(spec.get("normalizer").unwrap_or(&Value::Null));
        let growth = parts.into_iter().map(|part| {
            let text = |value: &Value| value.as_str().map(str::to_owned).unwrap_or_default();
            match text(&part["type"]).as_str() {
                "Prepend" | "Strip" | "StripAccents" => Self::None,
                "Replace" if part["pattern"]["String"] == " " => {
                    match is_piece(&text(&part["content"])) {
                        true => Self::None,
                        false => Self::Any,
                    }
                }
                "NFC" | "NFD" | "NFKC" | "NFKD" | "Nmt" | "Lowercase" | "BertNormalizer" => {
                    Self::BeyondAscii
                }
                _ => Self::Any,
            }
        });
        growth
            .max_by_key(|growth| *growth as u8)
            .unwrap_or(Self::None)
    }
}

/// The byte of a byte-fallback token: `<0x0A>` is 10.
fn byte_token(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2)
        .then(|| u8::from_str_radix(digits, 16).ok())
        .flatten()
}
