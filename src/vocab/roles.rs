//! Which token plays which role.

use std::collections::HashMap;

use serde_json::Value;

use super::Role;
use crate::text::{ChatTemplate, TURN_ENDS, TokenFacts};

/// Spellings of the token that opens a turn, the commonest first.
const TURN_STARTS: [&str; 6] = [
    "<|im_start|>",
    "<|start_header_id|>",
    "<start_of_turn>",
    "<|turn>",
    "<|start_of_role|>",
    "<|START_OF_TURN_TOKEN|>",
];

/// The roles of a model folder's tokens; `spec` is the completed `tokenizer.json`.
pub(super) fn read(
    spec: &Value,
    tokens: &TokenFacts,
    template: Option<&ChatTemplate>,
) -> HashMap<Role, u32> {
    let model = spec.get("model").unwrap_or(&Value::Null);
    let piece = |text: &str| {
        let id = model.get("vocab")?.get(text)?.as_u64()?;
        u32::try_from(id).ok()
    };
    let id = |text: &str| tokens.id(text).or_else(|| piece(text));
    let named = |key: &str| tokens.named(key).and_then(id);
    let first = |known: &[&str]| known.iter().find_map(|text| tokens.id(text));
    // The model's own token for what it does not know comes before the configuration's.
    let unknown = { model.get("unk_token").and_then(Value::as_str).and_then(id) }
        .or_else(|| u32::try_from(model.get("unk_id")?.as_u64()?).ok())
        .or_else(|| named("unk_token"));
    // What the template really writes after an answer comes first.
    let probed = template.and_then(ChatTemplate::turn_end).and_then(id);
    let roles = [
        (Role::Bos, named("bos_token")),
        (Role::Eos, named("eos_token")),
        (Role::Pad, named("pad_token")),
        (Role::Unk, unknown),
        (Role::TurnStart, first(&TURN_STARTS)),
        (Role::TurnEnd, probed.or_else(|| first(&TURN_ENDS))),
    ];
    roles
        .into_iter()
        .filter_map(|(role, id)| Some((role, id?)))
        .collect()
}
