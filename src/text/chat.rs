//! A chat: what a template renders.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// One message of a chat; a plain text is one message of the role `text`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, `text`, or what else the template knows
    /// (`developer`, `ipython`).
    pub role: String,
    /// Whether a model learns it, where it is an assistant's or a text: not if its record gives it
    /// the weight 0.
    pub learned: bool,
    /// Its other fields as the template gets them: `content` (a text, a list of parts, null, or
    /// absent), `reasoning_content`, `tool_calls`, `name`.
    pub fields: Map<String, Value>,
}

impl Message {
    /// A message that says `content`, and nothing else.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        let mut fields = Map::new();
        fields.insert("content".to_owned(), Value::String(content.into()));
        Self {
            role: role.into(),
            learned: true,
            fields,
        }
    }

    /// What it says: the texts of its parts one after the other; empty where there are none.
    pub fn content(&self) -> Cow<'_, str> {
        match self.fields.get("content") {
            Some(Value::String(text)) => Cow::Borrowed(text),
            Some(Value::Array(parts)) => {
                let text = |part: &Value| match part {
                    Value::String(text) => Some(text.clone()),
                    part => part.get("text")?.as_str().map(str::to_owned),
                };
                Cow::Owned(parts.iter().filter_map(text).collect())
            }
            _ => Cow::Borrowed(""),
        }
    }

    /// The same message with its text cut and a mark after it, in its last part that has one.
    pub(super) fn ending_in(&self, mark: &str, cut: fn(&str) -> &str) -> Self {
        let mut message = self.clone();
        let add = |text: &mut String| *text = format!("{}{mark}", cut(text));
        match message.fields.get_mut("content") {
            Some(Value::String(text)) => add(text),
            Some(Value::Array(parts)) => {
                if let Some(text) = parts.iter_mut().rev().find_map(text_of) {
                    add(text);
                }
            }
            _ => {}
        }
        message
    }

    /// Whether it has nothing but a role and a text.
    pub(crate) fn is_plain(&self) -> bool {
        self.fields.len() == 1 && matches!(self.fields.get("content"), Some(Value::String(_)))
    }

    /// The part that it plays: `system`, `user`, `assistant`, `tool` or `text`; `other` for a role
    /// that only its template knows.
    pub fn part(&self) -> &'static str {
        match self.role.as_str() {
            "system" | "developer" => "system",
            "user" => "user",
            "assistant" => "assistant",
            "tool" | "function" | "ipython" | "observation" => "tool",
            "text" => "text",
            _ => "other",
        }
    }
}

/// The text of a part of a content.
fn text_of(part: &mut Value) -> Option<&mut String> {
    match part {
        Value::String(text) => Some(text),
        Value::Object(part) => match part.get_mut("text") {
            Some(Value::String(text)) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// What a template renders: messages, and what `apply_chat_template` takes beside them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chat {
    /// The messages, in order.
    pub messages: Vec<Message>,
    /// The functions that the assistant may call, as JSON schemas.
    pub tools: Option<Value>,
    /// More variables of the template (`chat_template_kwargs`): `enable_thinking`, `documents`.
    pub kwargs: Map<String, Value>,
}

impl Chat {
    /// A chat of these messages, without tools.
    pub fn new(messages: impl Into<Vec<Message>>) -> Self {
        Self {
            messages: messages.into(),
            ..Self::default()
        }
    }

    /// Whether it is a plain text.
    pub fn is_text(&self) -> bool {
        matches!(self.messages.as_slice(), [message] if message.role == "text")
    }
}
