//! Chat templates, rendered as Hugging Face's `apply_chat_template` does.
//!
//! The Jinja dialect is that of `transformers`: `trim_blocks` and `lstrip_blocks`, loop controls,
//! Python's methods of strings, lists and dictionaries, `raise_exception`, `strftime_now` (of a
//! fixed date, so that a run can be repeated), `tojson` without HTML escapes, and the
//! `{% generation %}` tag, which changes nothing in the text.

mod jinja;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use chrono::NaiveDate;
use minijinja::value::Serde;
use minijinja::{Environment, Value};
use serde_json::Value as Json;

use super::chat::{Chat, Message};
use super::json::read_json;
use super::turns::{self, Marks, REASONING, Skeleton};
use crate::error::{Error, Result};

/// The date that `strftime_now` returns where no other is set: 26 July 2024.
pub const DEFAULT_DATE: &str = "2024-07-26";

/// Spellings of the token that ends a turn, in the order in which they are tried.
pub const TURN_ENDS: [&str; 8] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<end_of_turn>",
    "<|end|>",
    "<|end_of_turn|>",
    "<turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|eom_id|>",
];

/// Spellings of the token that opens a turn: where a long chat may be split.
pub(super) const TURN_STARTS: [&str; 8] = [
    "<|im_start|>",
    "<|start_header_id|>",
    "<start_of_turn>",
    "<|turn>",
    "<|start_of_role|>",
    "<|START_OF_TURN_TOKEN|>",
    "[INST]",
    "<|user|>",
];

/// Skeletons that are kept; chats with other roles (or other tools) have others.
const MOST_SKELETONS: usize = 1024;

/// A model's chat template, with the special tokens that it may write.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    origin: String,
    source: String,
    tokens: BTreeMap<String, Value>,
    bos: Option<String>,
    /// Spellings of special tokens, and of ends of turns; the longest first.
    specials: Vec<String>,
    turn_end: Option<String>,
    /// What opens an assistant's turn in a plain chat.
    header: Option<String>,
    /// Whether it reads contents that are lists of parts.
    reads_parts: bool,
    skeletons: Arc<RwLock<HashMap<String, Option<Arc<Skeleton>>>>>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("origin", &self.origin)
            .field("turn_end", &self.turn_end)
            .finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Reads the template of a model folder: `chat_template.jinja`, else `chat_template` in
    /// `tokenizer_config.json` (of several named ones, `default`), else in
    /// `chat_template.json`. None if the folder has none.
    ///
    /// # Errors
    /// An unreadable file, a template that is no valid Jinja.
    pub fn load(dir: &Path) -> Result<Option<Self>> {
        let config_path = dir.join("tokenizer_config.json");
        let config = read_json(&config_path)?.unwrap_or(Json::Null);
        let own = dir.join("chat_template.jinja");
        let (origin, source) = if own.is_file() {
            let source = std::fs::read_to_string(&own).map_err(|error| Error::io(&own, error))?;
            (own, source)
        } else if let Some(source) = config.get("chat_template").and_then(named) {
            (config_path, source)
        } else {
            let path = dir.join("chat_template.json");
            let Some(file) = read_json(&path)? else {
                return Ok(None);
            };
            match file.get("chat_template").and_then(named) {
                Some(source) => (path, source),
                None => return Ok(None),
            }
        };
        let added = added_tokens(dir)?;
        Self::build(origin.display().to_string(), &source, &config, &added).map(Some)
    }

    /// A template from its Jinja source; `bos` and `eos` are the tokens that it may write.
    /// `origin` names it in errors.
    ///
    /// # Errors
    /// No valid Jinja.
    pub fn from_source(
        origin: impl Into<String>,
        source: &str,
        bos: Option<&str>,
        eos: Option<&str>,
    ) -> Result<Self> {
        let config = serde_json::json!({ "bos_token": bos, "eos_token": eos });
        Self::build(origin.into(), source, &config, &[])
    }

    fn build(origin: String, source: &str, config: &Json, added: &[String]) -> Result<Self> {
        let environment = jinja::environment(&origin, source)?;
        let mut tokens = BTreeMap::new();
        for (key, value) in config.as_object().into_iter().flatten() {
            let text = value.as_str().or_else(|| value.get("content")?.as_str());
            if let Some(text) = text.filter(|_| key.ends_with("_token")) {
                tokens.insert(key.clone(), Value::from(text));
            }
        }
        let token = |key: &str| tokens.get(key).and_then(Value::as_str).map(str::to_owned);
        let eos = token("eos_token");
        let known = |text: &&str| added.is_empty() || added.iter().any(|token| token == text);
        let ends = TURN_ENDS.into_iter().filter(known).map(str::to_owned);
        let mut specials: Vec<String> = eos.into_iter().chain(ends).collect();
        specials.extend(added.iter().cloned());
        specials.retain(|text| !text.is_empty());
        specials.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        specials.dedup();
        let mut template = Self {
            environment,
            origin,
            source: source.to_owned(),
            bos: token("bos_token"),
            tokens,
            specials,
            turn_end: None,
            header: None,
            reads_parts: true,
            skeletons: Arc::default(),
        };
        template.set_date(NaiveDate::from_ymd_opt(2024, 7, 26).unwrap_or_default());
        template.reads_parts = template.reads_parts();
        (template.header, template.turn_end) = template.probe();
        Ok(template)
    }

    /// Sets the date that `strftime_now` returns.
    pub fn set_date(&mut self, date: NaiveDate) {
        jinja::set_date(&mut self.environment, date);
        self.skeletons = Arc::default();
    }

    /// The text that closes an assistant's turn, as the template writes it.
    pub fn turn_end(&self) -> Option<&str> {
        self.turn_end.as_deref()
    }

    /// Digest of the template's source and of the tokens that it may write (not of the date).
    pub fn digest(&self) -> String {
        let tokens: BTreeMap<&str, Option<&str>> = self
            .tokens
            .iter()
            .map(|(name, token)| (name.as_str(), token.as_str()))
            .collect();
        let all = serde_json::json!([self.source, tokens, self.turn_end]).to_string();
        crate::artifact::digest::text(&all)
    }

    /// The BOS token that the template may write at the start.
    pub(super) fn bos(&self) -> Option<&str> {
        self.bos.as_deref()
    }

    /// What opens an assistant's turn in a plain chat.
    pub(super) fn header(&self) -> Option<&str> {
        self.header.as_deref()
    }

    /// The last special token of a text.
    pub(super) fn last_special(&self, text: &str) -> Option<Range<usize>> {
        let last = |token: &String| text.rfind(token.as_str()).map(|at| at..at + token.len());
        self.specials
            .iter()
            .filter_map(last)
            .max_by_key(|range| (range.end, range.len()))
    }

    /// The special token that a text begins with.
    pub(super) fn special_at(&self, text: &str) -> Option<&str> {
        let mut specials = self.specials.iter().map(String::as_str);
        specials.find(|token| text.starts_with(token))
    }

    /// Whether a content that is a list of parts is rendered as their texts; templates that do not
    /// look into lists print them as Python does, which nobody wants.
    fn reads_parts(&self) -> bool {
        let text = Marks::DEFAULT.of(0);
        let mut message = Message::new("user", "");
        let parts = serde_json::json!([{ "type": "text", "text": text }]);
        message.fields.insert("content".to_owned(), parts);
        let rendered = self.render(&Chat::new([message]), false);
        rendered.is_ok_and(|rendered| rendered.contains(&text) && !rendered.contains("'type'"))
    }

    /// What opens and what closes an answer in a plain chat; the latter if it is a special token.
    fn probe(&self) -> (Option<String>, Option<String>) {
        let said = Marks::DEFAULT.of(1);
        let messages = [("user", "question"), ("assistant", said.as_str())];
        let messages = messages.map(|(role, content)| Message::new(role, content));
        let chat = Chat::new(messages);
        let rendering = self.rendering(&chat);
        let Ok(text) = rendering.all() else {
            return (None, None);
        };
        let Ok(frame) = turns::frame(&rendering, 1, &text, &said) else {
            return (None, None);
        };
        let Some((before, after)) = text.split_once(&said) else {
            return (None, None);
        };
        let asked = rendering.first(1, false).unwrap_or_default();
        let history = turns::common_prefix(before, &asked).min(frame.start);
        let header = before
            .get(history..frame.start)
            .filter(|text| !text.trim().is_empty());
        let closer = after.get(..frame.closer).unwrap_or_default();
        let end = self
            .last_special(closer)
            .and_then(|range| closer.get(range));
        (header.map(str::to_owned), end.map(str::to_owned))
    }

    /// What this template writes around the contents of chats with these roles; none if a message
    /// has more than a text.
    pub(super) fn skeleton(&self, chat: &Chat) -> Option<Arc<Skeleton>> {
        if !chat.messages.iter().all(Message::is_plain) {
            return None;
        }
        let mut key = String::new();
        for message in &chat.messages {
            key.push_str(&message.role);
            key.push('\n');
        }
        if chat.tools.is_some() || !chat.kwargs.is_empty() {
            key += &serde_json::json!([chat.tools, chat.kwargs]).to_string();
        }
        let known = self
            .skeletons
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(skeleton) = known.get(&key) {
            return skeleton.clone();
        }
        drop(known);
        let skeleton = Skeleton::new(chat, self).map(Arc::new);
        let mut known = self
            .skeletons
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_SKELETONS {
            known.clear();
        }
        known.insert(key, skeleton.clone());
        skeleton
    }

    /// The bytes of `text`, the rendering of a chat, that the template itself marks as the
    /// assistant's (`{% generation %}`); none if it marks nothing, or not in this text.
    pub(super) fn generated(&self, chat: &Chat, text: &str) -> Option<Vec<Range<usize>>> {
        let context = self.context(chat, self.values(chat), false);
        let (plain, ranges) = jinja::render_marked(&self.environment, context)?;
        (plain == text).then_some(ranges)
    }

    /// Renders a chat. `add_generation_prompt` opens the assistant's next turn at the end.
    ///
    /// # Errors
    /// What the template refuses (`raise_exception`) or cannot do.
    pub fn render(&self, chat: &Chat, add_generation_prompt: bool) -> Result<String> {
        self.rendering(chat)
            .render(usize::MAX, add_generation_prompt)
    }

    /// A chat, ready to be rendered in variations.
    pub(super) fn rendering<'a>(&'a self, chat: &'a Chat) -> Rendering<'a> {
        Rendering {
            template: self,
            messages: self.values(chat),
            chat,
        }
    }

    fn values(&self, chat: &Chat) -> Vec<Value> {
        let messages = chat.messages.iter();
        messages.map(|message| self.value(message)).collect()
    }

    /// A message as a template gets it.
    fn value(&self, message: &Message) -> Value {
        let text = || Value::from(message.content());
        if message.is_plain() {
            return minijinja::context! { role => message.role.as_str(), content => text() };
        }
        // As transformers 5 has it: what is null is left out, and reasoning has all its names.
        let reasoning = || REASONING.iter().find_map(|name| present(message, name));
        let mut value: Vec<(&str, Value)> = Vec::with_capacity(message.fields.len() + 3);
        if let Some(reasoning) = reasoning()
            && present(message, "thinking").is_none()
        {
            value.push(("thinking", Value::from(Serde(reasoning))));
        }
        value.push(("role", Value::from(message.role.as_str())));
        for name in message.fields.keys() {
            let Some(field) = present(message, name) else {
                continue;
            };
            let parts = name == "content" && field.is_array() && !self.reads_parts;
            value.push((
                name,
                match parts {
                    true => text(),
                    false => Value::from(Serde(field)),
                },
            ));
        }
        if let Some(reasoning) = reasoning()
            && present(message, "reasoning_content").is_none()
        {
            value.push(("reasoning_content", Value::from(Serde(reasoning))));
        }
        Value::from_pairs(value)
    }

    fn context(&self, chat: &Chat, messages: Vec<Value>, prompt: bool) -> BTreeMap<String, Value> {
        let mut context = self.tokens.clone();
        let mut set = |name: &str, value: Value| context.insert(name.to_owned(), value);
        set("messages", Value::from(messages));
        set("tools", Value::from(Serde(&chat.tools)));
        set("documents", Value::from(()));
        for (name, value) in &chat.kwargs {
            set(name, Value::from(Serde(value)));
        }
        set("add_generation_prompt", Value::from(prompt));
        context
    }
}

/// A chat as a template gets it; parts of it and variations are rendered without converting it
/// again.
#[derive(Clone)]
pub(super) struct Rendering<'a> {
    template: &'a ChatTemplate,
    messages: Vec<Value>,
    chat: &'a Chat,
}

impl<'a> Rendering<'a> {
    pub(super) fn template(&self) -> &'a ChatTemplate {
        self.template
    }

    /// The number of messages.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// The whole chat.
    pub(super) fn all(&self) -> Result<String> {
        self.render(usize::MAX, false)
    }

    /// Its first messages.
    pub(super) fn first(&self, count: usize, add_generation_prompt: bool) -> Result<String> {
        self.render(count, add_generation_prompt)
    }

    /// Puts another message in the place of one.
    pub(super) fn replace(&mut self, index: usize, message: &Message) {
        self.messages[index] = self.template.value(message);
    }

    fn render(&self, count: usize, prompt: bool) -> Result<String> {
        let count = count.min(self.messages.len());
        let messages = self.messages[..count].to_vec();
        let template = self.template;
        let context = template.context(self.chat, messages, prompt);
        jinja::render(&template.environment, context).map_err(|error| {
            Error::input(
                &template.origin,
                format!("the chat template refuses: {}", jinja::describe(&error)),
            )
        })
    }
}

/// A field of a message that is not null.
fn present<'a>(message: &'a Message, name: &str) -> Option<&'a Json> {
    message.fields.get(name).filter(|value| !value.is_null())
}

/// The spellings of the added tokens of a model folder's tokenizer.
fn added_tokens(dir: &Path) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Added {
        content: String,
        #[serde(default)]
        special: bool,
    }
    #[derive(serde::Deserialize)]
    struct File {
        #[serde(default)]
        added_tokens: Vec<Added>,
    }
    let path = dir.join("tokenizer.json");
    let Ok(text) = std::fs::read(&path) else {
        return Ok(Vec::new());
    };
    let file: File = serde_json::from_slice(&text)
        .map_err(|error| Error::file(&path, format!("no valid tokenizer: {error}")))?;
    let special = file.added_tokens.into_iter().filter(|token| token.special);
    Ok(special
        .map(|token| token.content)
        .filter(|text| !text.is_empty())
        .collect())
}

/// A template in a configuration: a text, or a list of named ones.
fn named(value: &Json) -> Option<String> {
    if let Some(source) = value.as_str() {
        return Some(source.to_owned());
    }
    let list = value.as_array()?;
    let name = |entry: &&Json| entry.get("name").and_then(Json::as_str) == Some("default");
    let entry = list.iter().find(name).or_else(|| list.first())?;
    Some(entry.get("template")?.as_str()?.to_owned())
}
