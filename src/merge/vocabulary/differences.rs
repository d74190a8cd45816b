//! Whether models give the same ids to the same tokens.

use std::path::Path;

use serde_json::Value;

use crate::merge::config::MergeConfig;
use crate::merge::inputs::Model;

/// A digest of the tokens and their ids in a folder's `tokenizer.json`, if it has one that can be
/// read. The order of entries does not matter.
fn digest(dir: &Path) -> Option<[u8; 32]> {
    let text = std::fs::read(dir.join("tokenizer.json")).ok()?;
    let tokenizer: Value = serde_json::from_slice(&text).ok()?;
    let mut tokens: Vec<(u64, &str)> = match tokenizer.get("model")?.get("vocab")? {
        Value::Object(map) => map
            .iter()
            .filter_map(|(token, id)| Some((id.as_u64()?, token.as_str())))
            .collect(),
        Value::Array(list) => (0..)
            .zip(list)
            .filter_map(|(id, entry)| Some((id, entry.get(0)?.as_str()?)))
            .collect(),
        _ => return None,
    };
    let added = tokenizer.get("added_tokens").and_then(Value::as_array);
    tokens.extend(
        added.into_iter().flatten().filter_map(|token| {
            Some((token.get("id")?.as_u64()?, token.get("content")?.as_str()?))
        }),
    );
    tokens.sort_unstable();
    tokens.dedup();
    let mut hasher = blake3::Hasher::new();
    for (id, token) in tokens {
        hasher.update(&id.to_le_bytes());
        hasher.update(&(token.len() as u64).to_le_bytes());
        hasher.update(token.as_bytes());
    }
    Some(*hasher.finalize().as_bytes())
}

/// What to tell the user where rows of embeddings and heads, which come from these models, do not
/// stand for the same tokens.
pub(in crate::merge) fn differences(config: &MergeConfig, models: &[&Model]) -> Option<String> {
    if config.tokenizer.is_some() {
        return None;
    }
    let mut known = models
        .iter()
        .filter_map(|model| Some((&model.name, digest(&model.dir)?)));
    let (first, vocabulary) = known.next()?;
    let others: Vec<&str> = known
        .filter(|(_, other)| *other != vocabulary)
        .map(|(name, _)| name.as_str())
        .collect();
    (!others.is_empty()).then(|| {
        format!(
            "the tokenizers of `{first}` and `{}` give ids to different tokens: rows of embeddings \
             that are merged do not belong together; `tokenizer_source: base` or `union` places \
             them by token",
            others.join("`, `")
        )
    })
}
