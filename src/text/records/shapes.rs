//! The shapes of a record: which fields make it a chat or a text.

use serde_json::{Map, Value};

use super::fields::Fields;
use super::formats::{Format, Reading};
use super::messages;
use crate::error::{Error, Result};

/// A published shape of records, by the names of its fields.
struct Shape {
    format: Format,
    /// Groups of fields; a record of this shape has one of each.
    needs: &'static [&'static [&'static str]],
    /// What else of a record it reads.
    also: &'static [&'static str],
}

/// What every chat may have beside its messages. `label` and `kto_tag` are TRL's and
/// LLaMA-Factory's: whether the answer is a good one.
const ALSO: [&str; 7] = [
    "system",
    "system_prompt",
    "tools",
    "functions",
    "chat_template_kwargs",
    "label",
    "kto_tag",
];

/// The shapes, in the order in which they are tried.
const SHAPES: [Shape; 7] = [
    // OpenAI, TRL, axolotl, SmolTalk, Tulu 3; UltraChat repeats the first question as `prompt`.
    Shape {
        format: Format::Messages,
        needs: &[&["messages"]],
        also: &["prompt", "chosen", "rejected"],
    },
    // ShareGPT, OpenHermes, LLaMA-Factory.
    Shape {
        format: Format::Conversations,
        needs: &[&["conversations", "conversation"]],
        also: &["prompt", "chosen", "rejected"],
    },
    // TRL's prompt and completion, either a text or a list of messages; ms-swift's `query`.
    Shape {
        format: Format::Prompt,
        needs: &[&["prompt", "query"], &["response", "completion"]],
        also: &["input", "context", "history"],
    },
    // Alpaca (`input`, `output`, LLaMA-Factory's `history`), Dolly (`context`, `response`).
    Shape {
        format: Format::Instruction,
        needs: &[&["instruction"], &["output", "response"]],
        also: &["input", "context", "history"],
    },
    // TRL's and LLaMA-Factory's preferences.
    Shape {
        format: Format::Preference,
        needs: &[&["chosen"]],
        also: &[
            "rejected",
            "prompt",
            "instruction",
            "question",
            "input",
            "history",
        ],
    },
    // UltraChat before it had messages.
    Shape {
        format: Format::Turns,
        needs: &[&["data"]],
        also: &[],
    },
    Shape {
        format: Format::Text,
        needs: &[&["text"]],
        also: &[],
    },
];

/// What rows of OpenAssistant's trees have: each is one message of many.
const TREE: [&str; 3] = ["message_tree_id", "parent_id", "message_id"];

impl Shape {
    fn describe(&self) -> String {
        let groups = self.needs.iter().map(|names| format!("`{}`", names[0]));
        groups.collect::<Vec<_>>().join(" and ")
    }

    /// Whether a record has what this shape needs; if so, whether all of it says something.
    fn fits(&self, fields: &Map<String, Value>, other: &Fields) -> Option<bool> {
        let mut full = true;
        for names in self.needs {
            let values = names.iter().filter_map(|name| get(fields, other, name));
            let values = values.filter(|(name, value)| is_possible(name, value));
            let empty = values.map(|(_, value)| is_empty(value)).min()?;
            full &= !empty;
        }
        Some(full)
    }

    /// Whether a field that it needs is given another name.
    fn is_named(&self, other: &Fields) -> bool {
        let mut needs = self.needs.iter().flat_map(|names| names.iter());
        needs.any(|name| other.other(name).is_some())
    }
}

/// Whether a field of records is read in some shape.
pub(super) fn reads(name: &str) -> bool {
    let read = |shape: &Shape| {
        shape.also.contains(&name) || shape.needs.iter().any(|names| names.contains(&name))
    };
    SHAPES.iter().any(read) || ALSO.contains(&name) || TREE.contains(&name) || name == "role"
}

/// The ignored fields that would be read: what ignoring them changes.
pub(super) fn ignored<'a>(ignored: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    ignored
        .filter(|name| reads(name) || messages::reads(name))
        .collect()
}

/// A field that is not null, by its published name or the one that it is given.
pub(super) fn get<'a>(
    fields: &'a Map<String, Value>,
    other: &'a Fields,
    name: &'a str,
) -> Option<(&'a str, &'a Value)> {
    let present = |name: &'a str| match fields.get(name) {
        None | Some(Value::Null) => None,
        Some(value) => Some((name, value)),
    };
    other
        .other(name)
        .and_then(present)
        .or_else(|| present(name))
}

/// Names that are also common for other things are told by what they hold.
fn is_possible(name: &str, value: &Value) -> bool {
    match name {
        "data" => value
            .as_array()
            .is_some_and(|items| items.iter().all(Value::is_string)),
        "chosen" => matches!(value, Value::String(_) | Value::Array(_) | Value::Object(_)),
        _ => true,
    }
}

/// Whether a value says nothing.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The shape of a record, and its fields.
pub(super) fn shape(
    place: &str,
    value: Value,
    reading: &Reading,
) -> Result<(Format, Map<String, Value>)> {
    let Value::Object(mut fields) = value else {
        return Err(Error::input(
            place,
            format!("expected an object, found {}", kind(&value)),
        ));
    };
    let other = &reading.fields;
    fields.retain(|name, _| !other.ignores(name));
    if let Some(format) = reading.format {
        let mut shapes = SHAPES.iter().filter(|shape| shape.format == format);
        return match shapes.next() {
            Some(shape) if shape.fits(&fields, other).is_none() => Err(Error::input(
                place,
                format!("expected {}, found {}", shape.describe(), names(&fields)),
            )),
            _ => Ok((format, fields)),
        };
    }
    let fitting: Vec<(bool, &Shape)> = SHAPES
        .iter()
        .filter_map(|shape| Some((shape.fits(&fields, other)?, shape)))
        .collect();
    // One whose fields are given names, one that says something, the first.
    let best = fitting
        .iter()
        .min_by_key(|(full, shape)| (!shape.is_named(other), !full));
    let format = best.map(|(_, shape)| shape.format);
    let in_tree = TREE.iter().any(|name| fields.contains_key(*name));
    if in_tree
        && (format.is_none() || (format == Some(Format::Text) && fields.contains_key("role")))
    {
        return Err(Error::input(
            place,
            format!("a message of a tree (OpenAssistant), no chat: found {}", names(&fields)),
        )
        .remedy("follow each tree from its root to an answer that is good, and write each way as `messages`"));
    }
    match format {
        Some(format) => Ok((format, fields)),
        None => {
            let known: Vec<_> = SHAPES.iter().map(Shape::describe).collect();
            Err(Error::input(
                place,
                format!("no known shape of a record, found {}", names(&fields)),
            )
            .remedy(format!(
                "expected one of: {}; or name its fields, such as `corpus.fields: {{ prompt: question, response: answer }}`",
                known.join("; ")
            )))
        }
    }
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

pub(super) fn names(fields: &Map<String, Value>) -> String {
    match fields.len() {
        0 => "no fields".to_owned(),
        _ => fields
            .keys()
            .take(12)
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", "),
    }
}
