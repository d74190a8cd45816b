//! Which token plays which role, from a model folder's tokenizer files.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::Role;
use crate::error::Result;
use crate::text::{ChatTemplate, read_json};

/// Spellings of the token that opens a turn, the commonest first.
const TURN_STARTS: [&str; 6] = [
    "<|im_start|>",
    "<|start_header_id|>",
    "<start_of_turn>",
    "<|turn>",
    "<|start_of_role|>",
    "<|START_OF_TURN_TOKEN|>",
];

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

/// The roles of a model folder's tokens. `added` are the ids of the added tokens by spelling,
/// `id` finds any token.
pub(super) fn read(
    dir: &Path,
    spec: &Value,
    template: Option<&ChatTemplate>,
    added: &HashMap<String, u32>,
    id: impl Fn(&str) -> Option<u32>,
) -> Result<HashMap<Role, u32>> {
    let config = read_json(&dir.join("tokenizer_config.json"))?;
    let map = read_json(&dir.join("special_tokens_map.json"))?;
    let named = |key: &str| {
        [&config, &map]
            .into_iter()
            .flatten()
            .find_map(|file| spelling(file.get(key)?))
            .and_then(&id)
    };
    let mut roles = HashMap::new();
    let mut set = |role, id: Option<u32>| {
        if let Some(id) = id {
            roles.insert(role, id);
        }
    };
    let first = |known: &[&str]| known.iter().find_map(|text| added.get(*text).copied());
    let configured = config.is_some() || map.is_some();
    let or_known =
        |named: Option<u32>, known| named.or_else(|| (!configured).then(|| first(known))?);

    let eos = or_known(named("eos_token"), &ENDS);
    set(Role::Bos, or_known(named("bos_token"), &BEGINNINGS));
    set(Role::Eos, eos);
    set(Role::Pad, named("pad_token"));
    let unknown = spec.get("model").and_then(|model| {
        let by_name = model.get("unk_token").and_then(Value::as_str).and_then(&id);
        by_name.or_else(|| u32::try_from(model.get("unk_id")?.as_u64()?).ok())
    });
    set(Role::Unk, unknown.or_else(|| named("unk_token")));
    set(Role::TurnStart, first(&TURN_STARTS));
    // What the template really writes after an answer comes first.
    let probed = template
        .and_then(ChatTemplate::turn_end)
        .and_then(|text| added.get(text).copied().or_else(|| id(text)));
    set(
        Role::TurnEnd,
        probed.or_else(|| first(&crate::text::TURN_ENDS)),
    );
    Ok(roles)
}

/// A special token in a configuration: a string, or an object with its `content`.
fn spelling(value: &Value) -> Option<&str> {
    value
        .as_str()
        .or_else(|| value.get("content")?.as_str())
        .filter(|text| !text.is_empty())
}
