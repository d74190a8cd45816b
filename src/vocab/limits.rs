//! What a `tokenizer.json` may ask of the library that runs it.
//!
//! The library believes what the file says: it sets memory aside for lengths that a file claims, and lets
//! replacements grow without bound. These are refused before it sees them; what makes it panic is caught
//! (`crate::contain`).

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::pieces::flatten;
use crate::error::{Error, Result};

/// By how much normalisers, or decoders, may lengthen a text altogether.
const MOST_GROWTH: usize = 1000;

/// Checks normalisers, pre-tokenizers and decoders of a `tokenizer.json`.
///
/// # Errors
/// The step, and what is wrong with it.
pub(super) fn check(path: &Path, spec: &Value) -> Result<()> {
    for step in ["normalizer", "pre_tokenizer", "decoder"] {
        let mut growth = 1_usize;
        for part in spec.get(step).into_iter().flat_map(flatten) {
            let factor = factor(part).map_err(|what| {
                let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
                Error::file(path, format!("`{step}`, `{kind}`: {what}"))
            })?;
            growth = growth.saturating_mul(factor);
        }
        if growth > MOST_GROWTH {
            let problem = format!(
                "`{step}` may make a text {growth} times as long, expected {MOST_GROWTH} at most"
            );
            return Err(Error::file(path, problem).remedy("get the model's own tokenizer again"));
        }
    }
    Ok(())
}

/// By how much a step may lengthen a text, at least 1.
fn factor(part: &Value) -> std::result::Result<usize, String> {
    let text = |key: &str| part.get(key).and_then(Value::as_str);
    match text("type") {
        Some("Replace") => {
            let content = text("content").unwrap_or_default().len();
            let pattern = part.get("pattern");
            let literal = pattern.and_then(|pattern| pattern.get("String")?.as_str());
            // A regular expression may match a single byte.
            let length = literal.map_or(1, str::len);
            match length {
                0 => Err("an empty pattern".to_owned()),
                _ => Ok(content.div_ceil(length).max(1)),
            }
        }
        Some("Prepend") => Ok(text("prepend").unwrap_or_default().len().max(1)),
        Some("Precompiled") => charsmap(text("precompiled_charsmap").unwrap_or_default()),
        _ => Ok(1),
    }
}

/// The length of the longest replacement in a table of SentencePiece: the length of a trie in bytes, the
/// trie as numbers of four bytes, and replacements that end with NUL.
fn charsmap(encoded: &str) -> std::result::Result<usize, String> {
    let table = STANDARD
        .decode(encoded)
        .map_err(|error| error.to_string())?;
    let (length, rest) = table.split_first_chunk::<4>().ok_or("an empty table")?;
    let length = u32::from_le_bytes(*length) as usize;
    let replacements = rest
        .get(length..)
        .filter(|_| length >= 4 && length.is_multiple_of(4))
        .ok_or_else(|| {
            format!(
                "a table that claims a trie of {length} bytes and has {}",
                rest.len()
            )
        })?;
    let longest = replacements.split(|byte| *byte == 0).map(<[u8]>::len).max();
    Ok(longest.unwrap_or(0).max(1))
}
