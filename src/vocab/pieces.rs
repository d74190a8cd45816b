//! What bytes of text each token stands for, read from the parts of `tokenizer.json`.
//!
//! The scheme is told from the normaliser, pre-tokenizer, decoder and model, never from class
//! names: byte-level tokenizers spell bytes as printable characters, SentencePiece-style ones
//! spell a space as `▁` and a byte without a piece as `<0x0A>`.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;
use tokenizers::Decoder;

use super::{Kind, Role, Token, Vocabulary};

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

/// The pieces of the model and their ids, in the file's order.
fn pieces(spec: &Value, tokenizer: &tokenizers::Tokenizer) -> Vec<(String, u32)> {
    let vocabulary = spec.get("model").and_then(|model| model.get("vocab"));
    match vocabulary.and_then(Value::as_object) {
        Some(vocabulary) => {
            let piece = |(piece, id): (&String, &Value)| {
                Some((piece.clone(), u32::try_from(id.as_u64()?).ok()?))
            };
            vocabulary.iter().filter_map(piece).collect()
        }
        // In a list every id has one spelling.
        None => {
            let mut pieces: Vec<(String, u32)> = tokenizer.get_vocab(false).into_iter().collect();
            pieces.sort_by_key(|(_, id)| *id);
            pieces
        }
    }
}

/// The vocabulary of a tokenizer: its tokens in the order of their ids, and the digest.
///
/// Of several pieces with one id, the first in the file is the token (which of them the library
/// shows is left to chance); the digest counts the others as well.
pub(super) fn vocabulary(
    spec: &Value,
    tokenizer: &tokenizers::Tokenizer,
    scheme: &Scheme,
    roles: &HashMap<Role, u32>,
) -> Vocabulary {
    let model = pieces(spec, tokenizer);
    let added = tokenizer.get_added_tokens_decoder();
    let ids = model.iter().map(|(_, id)| id).chain(added.keys());
    // An id far beyond the number of tokens is a broken file, not a reason to allocate for it.
    let limit = (model.len() + added.len()).saturating_mul(4).max(1 << 20) as u32;
    let size = ids
        .copied()
        .filter(|id| *id < limit)
        .max()
        .map_or(0, |id| id as usize + 1);
    let mut tokens = vec![Token::hole(); size];
    let mut others = Vec::new();
    for (piece, id) in model {
        match tokens.get_mut(id as usize) {
            Some(token) if token.kind == Kind::Hole => {
                let (bytes, kind) = scheme.bytes(&piece);
                *token = Token {
                    display: piece,
                    bytes,
                    special: false,
                    role: None,
                    kind,
                };
            }
            Some(_) => others.push((id, piece)),
            None => {}
        }
    }
    for (id, token) in added {
        if let Some(slot) = tokens.get_mut(id as usize) {
            // The model makes a piece of many texts (Gemma's `▁▁` of two blanks); that its
            // spelling is taken out of a text as well is the exception.
            if slot.kind != Kind::Hole && !token.special {
                continue;
            }
            *slot = Token {
                bytes: token.content.clone().into_bytes(),
                display: token.content,
                special: token.special,
                role: None,
                kind: Kind::Added,
            };
        }
    }
    // The first role in this order is the one that a token shows.
    for role in [
        Role::Bos,
        Role::TurnStart,
        Role::TurnEnd,
        Role::Eos,
        Role::Pad,
        Role::Unk,
    ] {
        if let Some(token) = roles.get(&role).and_then(|id| tokens.get_mut(*id as usize)) {
            token.special = true;
            token.role = token.role.or(Some(role));
        }
    }
    let digest = digest(spec, &tokens, &others, roles);
    let drops_blank = drops_blank(&tokens, tokenizer);
    Vocabulary::new(tokens, digest, roles.iter().map(|(role, id)| (*role, *id)))
        .dropping_blanks(Some(drops_blank))
}

/// Whether the decoder drops the blank that a token alone begins with, told from a token that has
/// one and text after it.
fn drops_blank(tokens: &[Token], tokenizer: &tokenizers::Tokenizer) -> bool {
    let word = tokens.iter().find(|token| {
        let text = std::str::from_utf8(&token.bytes).ok();
        let word = text.and_then(|text| text.strip_prefix(' '));
        token.kind == Kind::Ordinary && word.is_some_and(|word| !word.trim_start().is_empty())
    });
    let alone = word.and_then(|word| {
        let word = vec![word.display.clone()];
        tokenizer.get_decoder()?.decode(word).ok()
    });
    alone.is_some_and(|text| !text.starts_with(' '))
}

/// BLAKE3 over every token and over the parts of the file that determine tokenisation.
fn digest(
    spec: &Value,
    tokens: &[Token],
    others: &[(u32, String)],
    roles: &HashMap<Role, u32>,
) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(b"fuselm vocabulary 1");
    for token in tokens {
        field(&token.bytes);
        field(&[u8::from(token.special), token.kind as u8]);
    }
    for (id, piece) in others {
        field(&id.to_le_bytes());
        field(piece.as_bytes());
    }
    for role in Role::ALL {
        let id = roles.get(&role).map(|id| id.to_le_bytes());
        field(id.as_ref().map_or(&[], |id| id.as_slice()));
    }
    for key in ["normalizer", "pre_tokenizer", "model", "added_tokens"] {
        let mut canonical = Vec::new();
        if let Some(part) = spec.get(key) {
            // The pieces are above (except that scores of a unigram model count as well).
            let skip = part.get("vocab").is_some_and(Value::is_object);
            write_canonical(part, skip, &mut canonical);
        }
        field(&canonical);
    }
    hasher.finalize().to_hex().to_string()
}

/// JSON with sorted keys and without blanks; `null` members and, at the top, `vocab` are left out.
fn write_canonical(value: &Value, skip_vocab: bool, out: &mut Vec<u8>) {
    match value {
        Value::Object(map) => {
            let mut members: Vec<_> = map
                .iter()
                .filter(|(key, value)| !(value.is_null() || skip_vocab && *key == "vocab"))
                .collect();
            members.sort_by_key(|(key, _)| *key);
            out.push(b'{');
            for (key, value) in members {
                out.extend_from_slice(Value::from(key.as_str()).to_string().as_bytes());
                out.push(b':');
                write_canonical(value, false, out);
                out.push(b',');
            }
            out.push(b'}');
        }
        Value::Array(items) => {
            out.push(b'[');
            for item in items {
                write_canonical(item, false, out);
                out.push(b',');
            }
            out.push(b']');
        }
        other => out.extend_from_slice(other.to_string().as_bytes()),
    }
}
