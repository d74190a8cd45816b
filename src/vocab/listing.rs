//! The tokens of a tokenizer in the order of their ids, and the digest.

use std::collections::HashMap;

use serde_json::Value;
use tokenizers::Decoder;

use super::pieces::Scheme;
use super::{Kind, Role, Token, Vocabulary};

/// A vocabulary, and what it does not tell.
pub(super) struct Listed {
    pub(super) vocabulary: Vocabulary,
    /// Whether pieces share an id.
    pub(super) shares_ids: bool,
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
) -> Listed {
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
    let roles = roles.iter().map(|(role, id)| (*role, *id));
    Listed {
        vocabulary: Vocabulary::new(tokens, digest, roles).dropping_blanks(Some(drops_blank)),
        shares_ids: !others.is_empty(),
    }
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
