//! What the fields of a record of a known shape become.

use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::formats::Format;
use super::messages::{are_messages, messages};
use super::notes::{Notes, Owner};
use super::shapes::{get, is_empty, kind};
use crate::error::{Error, Result};
use crate::text::chat::{Chat, Message};

/// Variables of a template that are no arguments of it.
const NO_KWARGS: [&str; 3] = ["messages", "tools", "add_generation_prompt"];

/// The chat in a record of a known shape, and what of it is not read.
pub(super) fn chat(
    place: &str,
    format: Format,
    fields: Map<String, Value>,
    other: &Fields,
) -> Result<(Chat, Notes)> {
    let mut open = Open {
        place,
        format,
        fields,
        other,
        notes: Notes::default(),
    };
    let mut chat = Chat::new(match format {
        Format::Messages => open.listed(&["messages"])?,
        Format::Conversations => open.listed(&["conversations", "conversation"])?,
        Format::Prompt => open.pair(&["prompt", "query"], &["response", "completion"])?,
        Format::Instruction => open.pair(&["instruction"], &["output", "response"])?,
        Format::Preference => open.preferred()?,
        Format::Turns => open.turns()?,
        Format::Text => vec![Message::new(
            "text",
            open.text(&["text"])?.unwrap_or_default(),
        )],
    });
    if !chat.is_text() {
        open.system(&mut chat.messages)?;
        open.label(&mut chat.messages);
        chat.tools = open.tools()?;
        chat.kwargs = open.kwargs()?;
    }
    let Open {
        fields, mut notes, ..
    } = open;
    for (name, value) in fields {
        if !is_empty(&value) {
            notes.unread(Owner::Record, name);
        }
    }
    Ok((chat, notes))
}

/// A record that is being read: what is read is taken out.
struct Open<'a> {
    place: &'a str,
    format: Format,
    fields: Map<String, Value>,
    other: &'a Fields,
    notes: Notes,
}

impl Open<'_> {
    fn wrong(&self, problem: impl Into<String>) -> Error {
        Error::input(self.place, problem)
    }

    /// The first of these fields that says something, or else that is there, with its own name.
    fn take(&mut self, names: &[&str]) -> Option<(String, Value)> {
        let found = names
            .iter()
            .filter_map(|name| get(&self.fields, self.other, name));
        let (name, _) = found.min_by_key(|(_, value)| is_empty(value))?;
        let name = name.to_owned();
        let value = self.fields.swap_remove(&name)?;
        Some((name, value))
    }

    fn text(&mut self, names: &[&str]) -> Result<Option<String>> {
        match self.take(names) {
            Some((name, value)) => self.content(&name, value).map(Some),
            None => Ok(None),
        }
    }

    /// A text that is not empty.
    fn some_text(&mut self, name: &str) -> Result<Option<String>> {
        Ok(self.text(&[name])?.filter(|text| !text.is_empty()))
    }

    /// A text, or parts of one.
    fn content(&self, name: &str, value: Value) -> Result<String> {
        let is_text =
            |part: &Value| part.is_string() || part.get("text").is_some_and(Value::is_string);
        match value {
            Value::String(text) => Ok(text),
            Value::Array(parts) if parts.iter().all(is_text) => {
                let mut message = Message::new("", "");
                message
                    .fields
                    .insert("content".to_owned(), Value::Array(parts));
                Ok(message.content().into_owned())
            }
            other => Err(self.wrong(format!("`{name}`: expected a text, found {}", kind(&other)))),
        }
    }

    fn messages(&mut self, name: &str, value: Value) -> Result<Vec<Message>> {
        messages(self.place, name, value, self.other, &mut self.notes)
    }

    /// The messages in a field that others only repeat, such as a preferred answer.
    fn quietly(&self, name: &str, value: &Value) -> Option<Vec<Message>> {
        let mut notes = Notes::default();
        messages(self.place, name, value.clone(), self.other, &mut notes).ok()
    }

    /// Messages, or a text that is one of this role.
    fn said(&mut self, name: &str, value: Value, role: &str) -> Result<Vec<Message>> {
        match are_messages(&value) {
            true => self.messages(name, value),
            false => Ok(vec![Message::new(role, self.content(name, value)?)]),
        }
    }

    /// A record that is a list of messages.
    fn listed(&mut self, names: &[&str]) -> Result<Vec<Message>> {
        let Some((name, value)) = self.take(names) else {
            return Err(self.wrong("expected a list of messages"));
        };
        let mut messages = self.messages(&name, value)?;
        self.continued(&mut messages)?;
        // UltraChat's first question, once more.
        let asked = messages.iter().find(|message| message.role == "user");
        if let Some(Value::String(prompt)) = self.fields.get("prompt")
            && asked.is_some_and(|asked| asked.content() == *prompt)
        {
            self.fields.swap_remove("prompt");
        }
        Ok(messages)
    }

    /// LLaMA-Factory's preferences: the chosen message follows the list. UltraFeedback's repeat it.
    fn continued(&mut self, messages: &mut Vec<Message>) -> Result<()> {
        let asks = messages
            .last()
            .is_some_and(|message| message.role != "assistant");
        let chosen = get(&self.fields, self.other, "chosen");
        let Some((name, chosen)) = chosen.filter(|(_, chosen)| are_messages(chosen)) else {
            return Ok(());
        };
        let answer = self.quietly(name, chosen).unwrap_or_default();
        let answers = answer
            .first()
            .is_some_and(|message| message.role == "assistant");
        if answer == *messages || (asks && answers) {
            if let Some((name, chosen)) = self.take(&["chosen"])
                && asks
            {
                messages
                    .iter_mut()
                    .for_each(|message| message.learned = false);
                messages.extend(self.messages(&name, chosen)?);
            }
            self.take(&["rejected"]);
        }
        Ok(())
    }

    /// A question and its answer, with what was said before.
    fn pair(&mut self, questions: &[&str], answers: &[&str]) -> Result<Vec<Message>> {
        let mut messages = self.history()?;
        messages.extend(self.question(questions)?.unwrap_or_default());
        let answer = self.take(answers);
        let (name, value) = answer.unwrap_or_default();
        messages.extend(self.said(&name, value, "assistant")?);
        Ok(messages)
    }

    /// A question, and below it what it is about. The turns of a prompt are not learnt (TRL).
    fn question(&mut self, names: &[&str]) -> Result<Option<Vec<Message>>> {
        let Some((name, value)) = self.take(names) else {
            return Ok(None);
        };
        if are_messages(&value) {
            let mut asked = self.messages(&name, value)?;
            asked.iter_mut().for_each(|message| message.learned = false);
            return Ok(Some(asked));
        }
        let mut question = self.content(&name, value)?;
        // Beside an instruction it is the instruction's, and a prompt was made of both.
        let own =
            self.format != Format::Prompt || get(&self.fields, self.other, "instruction").is_none();
        for name in ["input", "context"].into_iter().filter(|_| own) {
            match self.some_text(name)? {
                Some(about) if question.is_empty() => question = about,
                Some(about) => question = format!("{question}\n\n{about}"),
                None => {}
            }
        }
        Ok(Some(vec![Message::new("user", question)]))
    }

    /// Earlier rounds: pairs of texts (LLaMA-Factory, ms-swift), or messages. They are learnt.
    fn history(&mut self) -> Result<Vec<Message>> {
        let Some((name, value)) = self
            .take(&["history"])
            .filter(|(_, value)| !is_empty(value))
        else {
            return Ok(Vec::new());
        };
        if are_messages(&value) {
            return self.messages(&name, value);
        }
        let wrong = || self.wrong(format!("`{name}`: expected a list of pairs of texts"));
        let Value::Array(rounds) = value else {
            return Err(wrong());
        };
        let mut messages = Vec::with_capacity(2 * rounds.len());
        for round in rounds {
            let Some([Value::String(question), Value::String(answer)]) =
                round.as_array().map(Vec::as_slice)
            else {
                return Err(wrong());
            };
            messages.push(Message::new("user", question.as_str()));
            messages.push(Message::new("assistant", answer.as_str()));
        }
        Ok(messages)
    }

    /// What was preferred: an answer, or a whole chat whose end was compared with another.
    fn preferred(&mut self) -> Result<Vec<Message>> {
        let history = self.history()?;
        let asked = get(&self.fields, self.other, "prompt")
            .map(|(name, value)| (name.to_owned(), value.clone()));
        let question = self.question(&["prompt", "instruction", "question"])?;
        let (name, chosen) = self.take(&["chosen"]).unwrap_or_default();
        let rejected = self.take(&["rejected"]).map(|(_, value)| value);
        if !are_messages(&chosen) {
            let answer = self.content(&name, chosen)?;
            let Some(question) = question else {
                // A whole text whose end was compared.
                return Ok(vec![Message::new("text", answer)]);
            };
            let answer = Message::new("assistant", answer);
            return Ok([history, question, vec![answer]].concat());
        }
        let mut chosen = self.messages(&name, chosen)?;
        let question = question.unwrap_or_default();
        let rejected = rejected.and_then(|value| self.quietly("rejected", &value));
        let same = |a: &Message, b: &Message| a.role == b.role && a.fields == b.fields;
        let shared = rejected
            .iter()
            .flatten()
            .zip(&chosen)
            .take_while(|(a, b)| same(a, b))
            .count();
        let before = chosen
            .iter()
            .zip(&question)
            .take_while(|(a, b)| same(a, b))
            .count();
        chosen[..shared.max(before)]
            .iter_mut()
            .for_each(|message| message.learned = false);
        let answers = chosen
            .first()
            .is_some_and(|message| message.role == "assistant");
        let asks = chosen.iter().find(|message| message.role == "user");
        match question.as_slice() {
            _ if before == question.len() => Ok([history, chosen].concat()),
            [one]
                if !answers
                    && asks.is_some_and(|asks| asks.content().trim() == one.content().trim()) =>
            {
                Ok([history, chosen].concat())
            }
            // A whole chat with another beginning: its own counts, and the prompt is not read.
            [_] if !answers && asked.is_some() => {
                self.fields.extend(asked);
                Ok([history, chosen].concat())
            }
            _ => Ok([history, question, chosen].concat()),
        }
    }

    /// The user's and the assistant's texts, in turn.
    fn turns(&mut self) -> Result<Vec<Message>> {
        let (name, value) = self.take(&["data"]).unwrap_or_default();
        let texts = match value {
            Value::Array(texts) if !texts.is_empty() => texts,
            _ => return Err(self.wrong(format!("`{name}`: expected a list of texts"))),
        };
        let turn = |(role, text)| Ok(Message::new(role, self.content(&name, text)?));
        let roles = ["user", "assistant"].into_iter().cycle();
        roles.zip(texts).map(turn).collect()
    }

    /// Puts a system prompt before the messages, unless they begin with it.
    fn system(&mut self, messages: &mut Vec<Message>) -> Result<()> {
        for name in ["system", "system_prompt"] {
            let Some(system) = self.some_text(name)? else {
                continue;
            };
            match messages.first().filter(|first| first.part() == "system") {
                Some(first) if first.content().trim() == system.trim() => {}
                Some(_) => {
                    return Err(self
                        .wrong(format!(
                            "`{name}` is not what the first message says, which is a system's too"
                        ))
                        .remedy(
                            "leave one of them out, or ignore the field with `corpus.fields`",
                        ));
                }
                None => messages.insert(0, Message::new("system", system)),
            }
        }
        Ok(())
    }

    /// An answer that is labelled as a bad one is not learnt.
    fn label(&mut self, messages: &mut [Message]) {
        for name in ["label", "kto_tag"] {
            if let Some(Value::Bool(good)) = self.fields.get(name) {
                if !good {
                    messages
                        .iter_mut()
                        .for_each(|message| message.learned = false);
                }
                self.fields.swap_remove(name);
            }
        }
    }

    /// The functions that can be called, as transformers gives them to templates.
    fn tools(&mut self) -> Result<Option<Value>> {
        let (name, value, bare) = match self.take(&["tools"]) {
            Some((name, value)) => (name, value, self.format == Format::Conversations),
            // OpenAI's before there were tools.
            None if self.fields.get("functions").is_some_and(Value::is_array) => {
                let (name, value) = self.take(&["functions"]).unwrap_or_default();
                (name, value, true)
            }
            None => return Ok(None),
        };
        let value = match value {
            Value::String(text) if text.trim().is_empty() => return Ok(None),
            value => self.parsed(&name, value)?,
        };
        let tools = match value {
            Value::Null => return Ok(None),
            Value::Array(tools) if tools.is_empty() && bare => return Ok(None),
            Value::Array(tools) => tools,
            tool => vec![tool],
        };
        let tool = |tool: Value| match self.parsed(&name, tool)? {
            Value::Object(tool)
                if bare && tool.contains_key("name") && !tool.contains_key("function") =>
            {
                Ok(json!({ "type": "function", "function": tool }))
            }
            Value::Object(tool) => Ok(Value::Object(tool)),
            other => Err(self.wrong(format!(
                "`{name}`: expected a list of functions, found {}",
                kind(&other)
            ))),
        };
        tools
            .into_iter()
            .map(tool)
            .collect::<Result<_>>()
            .map(|tools| Some(Value::Array(tools)))
    }

    /// Variables for the template, but for those that are null.
    fn kwargs(&mut self) -> Result<Map<String, Value>> {
        let Some((name, value)) = self.take(&["chat_template_kwargs"]) else {
            return Ok(Map::new());
        };
        let mut kwargs = match self.parsed(&name, value)? {
            Value::Object(kwargs) => kwargs,
            other => {
                return Err(self.wrong(format!(
                    "`{name}`: expected an object, found {}",
                    kind(&other)
                )));
            }
        };
        kwargs.retain(|_, value| !value.is_null());
        match NO_KWARGS.iter().find(|name| kwargs.contains_key(**name)) {
            Some(own) => Err(self.wrong(format!("`{name}`: `{own}` is no argument of a template"))),
            None => Ok(kwargs),
        }
    }

    /// A value that may be written as JSON in a text.
    fn parsed(&self, name: &str, value: Value) -> Result<Value> {
        match value {
            Value::String(text) => serde_json::from_str(&text)
                .map_err(|error| self.wrong(format!("`{name}`: expected JSON: {error}"))),
            value => Ok(value),
        }
    }
}
