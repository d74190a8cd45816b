//! The shapes of a record: which fields make it a chat or a text.

use serde_json::{Map, Value};

use super::chat::{Chat, Message};
use super::formats::{Format, Record};
use crate::error::{Error, Result};

impl Format {
    const ALL: [Self; 5] = [
        Self::Messages,
        Self::Conversations,
        Self::Prompt,
        Self::Instruction,
        Self::Text,
    ];

    /// The fields that a record of this shape has: in each group, at least one.
    fn fields(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Messages => &[&["messages"]],
            Self::Conversations => &[&["conversations", "conversation"]],
            Self::Prompt => &[&["prompt"], &["response", "completion"]],
            Self::Instruction => &[&["instruction"], &["output", "response"]],
            Self::Text => &[&["text"]],
        }
    }

    fn describe(self) -> String {
        let groups = self.fields().iter().map(|names| format!("`{}`", names[0]));
        groups.collect::<Vec<_>>().join(" and ")
    }
}

/// The record in a JSON object; its shape is `format`, or the first that its fields show.
pub(super) fn record(
    place: &str,
    value: Value,
    format: Option<Format>,
    row: u64,
) -> Result<Record> {
    let Value::Object(mut fields) = value else {
        return Err(Error::input(
            place,
            format!("expected an object, found {}", kind(&value)),
        ));
    };
    let has = |fields: &Map<String, Value>, format: Format| {
        format.fields().iter().all(|names| {
            names
                .iter()
                .any(|name| fields.get(*name).is_some_and(|v| !v.is_null()))
        })
    };
    let format = match format {
        Some(format) if has(&fields, format) => format,
        Some(format) => {
            return Err(Error::input(
                place,
                format!("expected {}, found {}", format.describe(), names(&fields)),
            ));
        }
        None => Format::ALL
            .into_iter()
            .find(|format| has(&fields, *format))
            .ok_or_else(|| {
                let known: Vec<_> = Format::ALL.iter().map(|f| f.describe()).collect();
                Error::input(
                    place,
                    format!("no known shape of a record, found {}", names(&fields)),
                )
                .remedy(format!("expected one of: {}", known.join("; ")))
            })?,
    };
    let mut take = |names: &[&str]| {
        let name = names
            .iter()
            .find(|name| fields.get(**name).is_some_and(|value| !value.is_null()));
        name.and_then(|name| Some(((*name).to_owned(), fields.remove(*name)?)))
    };
    let mut text = |names: &[&str]| match take(names) {
        Some((name, value)) => content(place, &name, value).map(Some),
        None => Ok(None),
    };
    let message = |role: &str, content: String| Message::new(role, content);
    let messages = match format {
        Format::Text => vec![message("text", text(&["text"])?.unwrap_or_default())],
        Format::Messages => return chat(place, take(&["messages"]), row),
        Format::Conversations => {
            return chat(place, take(&["conversations", "conversation"]), row);
        }
        Format::Prompt | Format::Instruction => {
            let mut messages = Vec::new();
            if let Some(system) = text(&["system"])?.filter(|text| !text.is_empty()) {
                messages.push(message("system", system));
            }
            let mut question = text(&["instruction", "prompt"])?.unwrap_or_default();
            if format == Format::Instruction
                && let Some(input) = text(&["input"])?.filter(|text| !text.is_empty())
            {
                question = format!("{question}\n\n{input}");
            }
            messages.push(message("user", question));
            let answer = text(&["output", "response", "completion"])?.unwrap_or_default();
            messages.push(message("assistant", answer));
            messages
        }
    };
    Ok(Record {
        source_row: row,
        place: place.to_owned(),
        chat: Chat::new(messages),
    })
}

/// A record that is a list of messages.
fn chat(place: &str, list: Option<(String, Value)>, row: u64) -> Result<Record> {
    let Some((name, Value::Array(items))) = list else {
        return Err(Error::input(place, "expected a list of messages"));
    };
    if items.is_empty() {
        return Err(Error::input(place, format!("`{name}` has no message")));
    }
    let messages = items.into_iter().enumerate().map(|(i, item)| {
        let field = format!("{name}[{i}]");
        let Value::Object(mut item) = item else {
            return Err(Error::input(
                place,
                format!("`{field}`: expected an object, found {}", kind(&item)),
            ));
        };
        let from = item.remove("role").or_else(|| item.remove("from"));
        let Some(Value::String(from)) = from else {
            return Err(Error::input(
                place,
                format!(
                    "`{field}` has no `role` (or `from`), found {}",
                    names(&item)
                ),
            ));
        };
        let role = role(&from).ok_or_else(|| {
            Error::input(place, format!("`{field}`: `{from}` is no known role"))
                .remedy("expected `system`, `user`, `assistant` or `tool`")
        })?;
        let said = item.remove("content").or_else(|| item.remove("value"));
        let content = match said {
            // An assistant that only calls a tool says nothing.
            None | Some(Value::Null) if item.contains_key("tool_calls") => String::new(),
            None | Some(Value::Null) => {
                return Err(Error::input(
                    place,
                    format!(
                        "`{field}` has no `content` (or `value`), found {}",
                        names(&item)
                    ),
                ));
            }
            Some(said) => content(place, &field, said)?,
        };
        Ok(Message::new(role, content))
    });
    Ok(Record {
        source_row: row,
        place: place.to_owned(),
        chat: Chat::new(messages.collect::<Result<Vec<_>>>()?),
    })
}

fn role(name: &str) -> Option<&'static str> {
    Some(match name.to_ascii_lowercase().as_str() {
        "system" | "developer" => "system",
        "user" | "human" | "prompter" => "user",
        "assistant" | "gpt" | "model" | "bot" | "chatgpt" | "function_call" => "assistant",
        "tool" | "function" | "observation" | "ipython" | "function_response" => "tool",
        _ => return None,
    })
}

/// A text, or a list of parts of which each is or has a text.
fn content(place: &str, field: &str, value: Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Array(parts) => parts
            .into_iter()
            .map(|part| match part {
                Value::String(text) => Ok(text),
                Value::Object(mut part) => match part.remove("text") {
                    Some(Value::String(text)) => Ok(text),
                    _ => Err(Error::input(
                        place,
                        format!(
                            "`{field}`: only parts with `text` can be read, found {}",
                            names(&part)
                        ),
                    )),
                },
                other => content(place, field, other),
            })
            .collect(),
        other => Err(Error::input(
            place,
            format!("`{field}`: expected a text, found {}", kind(&other)),
        )),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn names(fields: &Map<String, Value>) -> String {
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
