//! Lists of messages as they are published, made what a template gets.

use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::notes::{Notes, Owner};
use super::shapes::{is_empty, kind, names};
use crate::error::{Error, Result};
use crate::text::chat::Message;

/// Whose message it is: OpenAI's name, ShareGPT's.
const ROLE: [&str; 2] = ["role", "from"];

/// What it says: OpenAI's name, ShareGPT's.
const CONTENT: [&str; 2] = ["content", "value"];

/// Whether it is learnt: OpenAI and mistral-finetune, axolotl (two), ms-swift.
const LEARNED: [&str; 4] = ["weight", "train", "training", "loss"];

/// What templates read beside role and content; handed on as it is given.
const HANDED: [&str; 9] = [
    "reasoning_content",
    "reasoning",
    "thinking",
    "tool_calls",
    "tool_call_id",
    "name",
    // Cohere's Command, and OLMo 3.
    "tool_plan",
    "functions",
    "function_calls",
];

/// OpenAI's call of one function, before there were `tool_calls`.
const FUNCTION_CALL: &str = "function_call";

/// Roles that reach the template as they are.
const ROLES: [&str; 8] = [
    "system",
    "developer",
    "user",
    "assistant",
    "tool",
    "function",
    "ipython",
    "observation",
];

/// Other names of roles. `function_call` is an assistant whose content is the call.
const ALIASES: [(&str, &str); 8] = [
    ("human", "user"),
    ("prompter", "user"),
    ("gpt", "assistant"),
    ("chatgpt", "assistant"),
    ("bot", "assistant"),
    ("model", "assistant"),
    (FUNCTION_CALL, "assistant"),
    ("function_response", "tool"),
];

/// Whether a field of messages is read.
pub(super) fn reads(name: &str) -> bool {
    let known = [&ROLE[..], &CONTENT, &LEARNED, &HANDED, &[FUNCTION_CALL]];
    known.iter().any(|known| known.contains(&name))
}

/// Whether a value is a message, or a list of them.
pub(super) fn are_messages(value: &Value) -> bool {
    match value {
        Value::Array(items) => {
            items.iter().any(Value::is_object) && items.iter().all(|item| !is_part(item))
        }
        Value::Object(_) => !is_part(value),
        _ => false,
    }
}

/// A part of a content, `{"type": "text", "text": ..}`, is no message.
fn is_part(value: &Value) -> bool {
    let has = |name: &&str| value.get(name).is_some_and(|role| !role.is_null());
    value.get("text").is_some() && !ROLE.iter().any(has)
}

/// Reads the messages in `value`, a list of them or one, which is the field `name`.
pub(super) fn messages(
    place: &str,
    name: &str,
    value: Value,
    fields: &Fields,
    notes: &mut Notes,
) -> Result<Vec<Message>> {
    let items = match value {
        Value::Array(items) => items,
        Value::Object(_) => vec![value],
        other => {
            let problem = format!(
                "`{name}`: expected a list of messages, found {}",
                kind(&other)
            );
            return Err(Error::input(place, problem));
        }
    };
    let last = items.len().saturating_sub(1);
    let mut messages = Vec::with_capacity(items.len());
    for (at, item) in items.into_iter().enumerate() {
        let reader = Reader {
            place,
            field: format_args!("{name}[{at}]").to_string(),
            fields,
        };
        messages.extend(reader.message(item, at == last, notes)?);
    }
    if messages.is_empty() {
        return Err(Error::input(place, format!("`{name}` has no message")));
    }
    Ok(messages)
}

struct Reader<'a> {
    place: &'a str,
    field: String,
    fields: &'a Fields,
}

impl Reader<'_> {
    fn wrong(&self, problem: impl std::fmt::Display) -> Error {
        Error::input(self.place, format!("`{}`{problem}", self.field))
    }

    /// One message; none if it is the last and an assistant's that says nothing.
    fn message(&self, item: Value, last: bool, notes: &mut Notes) -> Result<Option<Message>> {
        let Value::Object(mut item) = item else {
            return Err(self.wrong(format_args!(": expected an object, found {}", kind(&item))));
        };
        let (key, role) = match self.take(&mut item, &ROLE) {
            Some((key, Value::String(role))) => (key, role),
            found => {
                let known = names(&item);
                return Err(match found {
                    Some((key, value)) => self.wrong(format_args!(
                        ": expected a text as `{key}`, found {}",
                        kind(&value)
                    )),
                    None => self.wrong(format_args!(" has no `role` (or `from`), found {known}")),
                });
            }
        };
        let content = self.take(&mut item, &CONTENT).map(|(_, content)| content);
        let calls = role.eq_ignore_ascii_case(FUNCTION_CALL);
        let role = self.role(key, role, notes)?;
        let learned = self.learned(&mut item, &role, notes)?;
        let mut fields = Map::new();
        match content {
            Some(Value::String(call)) if calls => {
                fields.insert("tool_calls".to_owned(), self.calls(&call)?);
            }
            Some(content) => {
                fields.insert("content".to_owned(), self.content(content)?);
            }
            None => {}
        }
        for (name, value) in item {
            self.hand(name, value, &mut fields, notes)?;
        }
        let says = [
            "content",
            "tool_calls",
            "function_calls",
            "reasoning_content",
            "reasoning",
            "thinking",
        ];
        if !says.iter().any(|name| fields.contains_key(*name)) {
            if last && role == "assistant" {
                return Ok(None);
            }
            let known = names(&fields);
            return Err(self.wrong(format_args!(
                " has no `content` (or `value`), found {known}"
            )));
        }
        Ok(Some(Message {
            role,
            learned,
            fields,
        }))
    }

    /// The first of these fields that is not null, by the name that it has in the records.
    fn take(
        &self,
        item: &mut Map<String, Value>,
        known: &[&'static str],
    ) -> Option<(&'static str, Value)> {
        if let Some(other) = self.fields.other(known[0])
            && item.get(other).is_some_and(|value| !value.is_null())
        {
            return Some((known[0], item.swap_remove(other)?));
        }
        known.iter().find_map(|name| match item.get(*name) {
            None | Some(Value::Null) => None,
            Some(_) => Some((*name, item.swap_remove(*name)?)),
        })
    }

    /// The role as the template gets it. ShareGPT's `observation` is a tool's answer.
    fn role(&self, key: &str, role: String, notes: &mut Notes) -> Result<String> {
        if key == "from" && role == "observation" {
            return Ok("tool".to_owned());
        }
        if ROLES.contains(&role.as_str()) {
            return Ok(role);
        }
        let same = |known: &str| known.eq_ignore_ascii_case(&role);
        let alias = ALIASES
            .iter()
            .find(|(name, _)| same(name))
            .map(|(_, role)| *role);
        if let Some(known) = alias.or_else(|| ROLES.into_iter().find(|known| same(known))) {
            return Ok(known.to_owned());
        }
        if role == "text" || role.is_empty() {
            return Err(self
                .wrong(format_args!(": `{role}` is no role of a message"))
                .remedy("expected `system`, `user`, `assistant` or `tool`"));
        }
        notes.role(&role);
        Ok(role)
    }

    /// Whether the message is learnt: if nothing says otherwise. Of the turns of others nothing is,
    /// which is noted where axolotl would.
    fn learned(
        &self,
        item: &mut Map<String, Value>,
        role: &str,
        notes: &mut Notes,
    ) -> Result<bool> {
        let mut learned = true;
        for name in LEARNED {
            let value = item.swap_remove(name).filter(|value| !value.is_null());
            let Some(value) = value.filter(|_| !self.fields.ignores(name)) else {
                continue;
            };
            let weight = match &value {
                Value::Bool(learned) => *learned,
                Value::Number(weight) if weight.as_f64() == Some(0.0) => false,
                Value::Number(weight) if weight.as_f64() == Some(1.0) => true,
                other => {
                    let problem = format_args!(": `{name}` is {other}, expected 0 or 1");
                    return Err(self.wrong(problem).remedy(
                        "a message is learnt or not; leave the weight out, or ignore it with `corpus.fields`",
                    ));
                }
            };
            if weight && role != "assistant" && name.starts_with("train") {
                notes.unread(Owner::Message, name.to_owned());
            }
            learned &= weight;
        }
        Ok(learned)
    }

    /// A text, or a list of parts which have one; nulls in a part are left out.
    fn content(&self, content: Value) -> Result<Value> {
        match content {
            Value::String(_) => Ok(content),
            Value::Array(parts) => {
                let parts = parts.into_iter().map(|part| self.part(part));
                parts.collect::<Result<_>>().map(Value::Array)
            }
            other => Err(self.wrong(format_args!(": expected a text, found {}", kind(&other)))),
        }
    }

    fn part(&self, part: Value) -> Result<Value> {
        match part {
            Value::String(_) => Ok(part),
            Value::Object(mut part) => {
                part.retain(|_, value| !value.is_null());
                match part.get("text") {
                    Some(Value::String(_)) => Ok(Value::Object(part)),
                    _ => Err(self.wrong(format_args!(
                        ": only parts with `text` can be read, found {}",
                        names(&part)
                    ))),
                }
            }
            other => Err(self.wrong(format_args!(
                ": expected parts with `text`, found {}",
                kind(&other)
            ))),
        }
    }

    /// Puts a field where its template finds it, or notes that nothing reads it.
    fn hand(
        &self,
        name: String,
        value: Value,
        fields: &mut Map<String, Value>,
        notes: &mut Notes,
    ) -> Result<()> {
        if value.is_null() || self.fields.ignores(&name) {
            return Ok(());
        }
        if name == FUNCTION_CALL {
            if !fields.contains_key("tool_calls") {
                fields.insert("tool_calls".to_owned(), self.called(value)?);
            }
        } else if HANDED.contains(&name.as_str()) {
            // Templates that allow one call refuse an empty list of them.
            if name != "tool_calls" || !is_empty(&value) {
                fields.insert(name, value);
            }
        } else if !is_empty(&value) {
            notes.unread(Owner::Message, name);
        }
        Ok(())
    }

    /// The calls in a turn that is a call: an object or a list of them, as JSON.
    fn calls(&self, text: &str) -> Result<Value> {
        let call: Value = serde_json::from_str(text).map_err(|_| self.no_call())?;
        self.called(call)
    }

    /// Calls as transformers gives them to templates.
    fn called(&self, call: Value) -> Result<Value> {
        let calls = match call {
            Value::Array(calls) if !calls.is_empty() => calls,
            call => vec![call],
        };
        let call = |call: Value| match call.get("name") {
            Some(Value::String(_)) => Ok(json!({ "type": "function", "function": call })),
            _ if call.get("function").is_some_and(Value::is_object) => Ok(call),
            _ => Err(self.no_call()),
        };
        calls
            .into_iter()
            .map(call)
            .collect::<Result<_>>()
            .map(Value::Array)
    }

    fn no_call(&self) -> Error {
        self.wrong(": the call of a function, expected JSON with `name` and `arguments`")
    }
}
