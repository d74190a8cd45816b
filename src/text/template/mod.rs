//! Chat templates, rendered as Hugging Face's `apply_chat_template` does.
//!
//! The Jinja dialect is that of `transformers`: `trim_blocks` and `lstrip_blocks`, loop controls,
//! Python's methods of strings, lists and dictionaries, `raise_exception`, `strftime_now` (of a
//! fixed date, so that a run can be repeated), `tojson` without HTML escapes, and the
//! `{% generation %}` tag, which changes nothing in the text.

mod jinja;
#[cfg(test)]
pub(super) mod tests;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use chrono::NaiveDate;
use minijinja::value::Serde;
use minijinja::{Environment, Value};
use serde_json::Value as Json;

use super::chat::{Chat, Message};
use super::special::TokenFacts;
use super::turns::{self, Frame, Marks, REASONING, Skeleton};
use crate::checkpoint::{CHAT_TEMPLATE, TOOL_TEMPLATE, companion_json, companion_text};
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
    /// The template for chats with tools, if that is another one.
    tool_use: Option<Box<Self>>,
    bos: Option<String>,
    /// Spellings of special tokens, and of ends of turns; the longest first.
    specials: Vec<String>,
    turn_end: Option<String>,
    /// What opens an assistant's turns in a plain chat.
    headers: Vec<String>,
    never_prompts: bool,
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
    /// `tokenizer_config.json` (of several named ones, `default`, and `tool_use` for chats with tools), else in
    /// `chat_template.json`. None if the folder has none.
    ///
    /// # Errors
    /// An unreadable file, a template that is no valid Jinja; files of tokens that contradict each
    /// other, a BOS or EOS that is no token.
    pub fn load(dir: &Path) -> Result<Option<Self>> {
        match Sources::read(dir)? {
            Some(sources) => sources.build(&TokenFacts::read(dir)?).map(Some),
            None => Ok(None),
        }
    }

    /// The same where the folder's tokens are known.
    pub(crate) fn load_with(dir: &Path, tokens: &TokenFacts) -> Result<Option<Self>> {
        let found = Sources::read(dir)?;
        found.map(|sources| sources.build(tokens)).transpose()
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
        let tokens = TokenFacts::of_names([("bos_token", bos), ("eos_token", eos)]);
        Self::build(origin.into(), source, &tokens)
    }

    fn build(origin: String, source: &str, facts: &TokenFacts) -> Result<Self> {
        let environment = jinja::environment(&origin, source)?;
        let names = facts.names();
        let tokens: BTreeMap<String, Value> = names
            .map(|(key, text)| (key.to_owned(), Value::from(text)))
            .collect();
        let token = |key: &str| facts.named(key).map(str::to_owned);
        // Without a tokenizer any of them may be a token.
        let known = |text: &&str| !facts.has_ids() || facts.id(text).is_some();
        let ends = TURN_ENDS.into_iter().filter(known).map(str::to_owned);
        let mut specials: Vec<String> = token("eos_token").into_iter().chain(ends).collect();
        specials.extend(facts.specials().iter().cloned());
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
            tool_use: None,
            headers: Vec::new(),
            never_prompts: false,
            reads_parts: true,
            skeletons: Arc::default(),
        };
        template.set_date(NaiveDate::from_ymd_opt(2024, 7, 26).unwrap_or_default());
        template.reads_parts = template.reads_parts();
        template.probe();
        Ok(template)
    }

    /// Sets the date that `strftime_now` returns.
    pub fn set_date(&mut self, date: NaiveDate) {
        jinja::set_date(&mut self.environment, date);
        self.skeletons = Arc::default();
        if let Some(tool_use) = &mut self.tool_use {
            tool_use.set_date(date);
        }
    }

    /// The template that transformers takes for a chat: another one, perhaps, where it has tools.
    pub(super) fn for_chat(&self, chat: &Chat) -> &Self {
        let tool_use = self.tool_use.as_deref().filter(|_| chat.tools.is_some());
        tool_use.unwrap_or(self)
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
        let mut all = serde_json::json!([self.source, tokens, self.turn_end]).to_string();
        if let Some(tool_use) = &self.tool_use {
            all += &tool_use.source;
        }
        crate::files::digest::text(&all)
    }

    /// The BOS token that the template may write at the start.
    pub(super) fn bos(&self) -> Option<&str> {
        self.bos.as_deref()
    }

    /// The last place of what opens an assistant's turn in a plain chat.
    pub(super) fn last_header(&self, text: &str) -> Option<Range<usize>> {
        let place = |header: &String| text.rfind(header.as_str()).map(|at| at..at + header.len());
        let places = self.headers.iter().filter_map(place);
        places.max_by_key(|place| place.end)
    }

    /// Whether `add_generation_prompt` changes nothing, even in a plain chat.
    pub(super) fn never_prompts(&self) -> bool {
        self.never_prompts
    }

    /// The last special token of a text.
    pub(super) fn last_special(&self, text: &str) -> Option<Range<usize>> {
        let last = |token: &String| text.rfind(token.as_str()).map(|at| at..at + token.len());
        self.specials
            .iter()
            .filter_map(last)
            .max_by_key(|range| (range.end, range.len()))
    }

    /// Whether a text is a special token.
    pub(super) fn is_special(&self, text: &str) -> bool {
        self.specials.iter().any(|token| token == text)
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

    /// Learns from a plain chat what opens an assistant's turn, and what ends one if that is a
    /// special token. The last turn may look different from those before it.
    fn probe(&mut self) {
        let marks = Marks::DEFAULT;
        let roles = ["user", "assistant", "user", "assistant"];
        let messages = (0..4).map(|at| Message::new(roles[at], marks.of(at)));
        let messages: Vec<Message> = messages.collect();
        for count in [4, 2] {
            let chat = Chat::new(&messages[..count]);
            let rendering = self.rendering(&chat);
            let Ok(text) = rendering.all() else {
                continue;
            };
            let never = || Some(rendering.first(1, false).ok()? == rendering.first(1, true).ok()?);
            let never_prompts = never() == Some(true);
            let frames: Vec<(usize, Frame)> = (1..count)
                .step_by(2)
                .filter_map(|at| {
                    let frame = turns::frame(&rendering, at, &text, &marks.of(at), false).ok()?;
                    Some((at, frame))
                })
                .collect();
            let header = |(at, frame): &(usize, Frame)| {
                let end = match never_prompts {
                    true => text.find(&marks.of(*at))?,
                    false => frame.prompt.end,
                };
                let asked = rendering.first(*at, false).unwrap_or_default();
                let header = text.get(turns::common_prefix(&text, &asked)..end);
                // Where there is none, what ends the user's turn.
                header.filter(|text| !text.trim().is_empty()).or_else(|| {
                    let (_, answered) = text.get(..end)?.rsplit_once(&marks.of(at - 1))?;
                    Some(answered).filter(|text| !text.trim().is_empty())
                })
            };
            let headers = frames.iter().filter_map(header);
            let headers = headers
                .map(|header| header.trim_start().to_owned())
                .collect();
            let end = frames.last().and_then(|(at, frame)| {
                let (_, after) = text.split_once(&marks.of(*at))?;
                let closer = after.get(..frame.closer)?;
                closer.get(self.last_special(closer)?)
            });
            let end = end.map(str::to_owned);
            (self.headers, self.turn_end) = (headers, end);
            self.never_prompts = never_prompts;
            return;
        }
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
        self.for_chat(chat)
            .rendering(chat)
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

/// The text of a model folder's chat template, if it has one.
///
/// # Errors
/// Files that cannot be read, named templates without a `default`.
pub fn chat_template_of(dir: &Path) -> Result<Option<String>> {
    Ok(Sources::read(dir)?.map(|sources| sources.source))
}

/// The templates of a model folder.
struct Sources {
    /// The file that has them.
    origin: String,
    source: String,
    /// The one for chats with tools, if there are two.
    tool_use: Option<String>,
}

impl Sources {
    fn read(dir: &Path) -> Result<Option<Self>> {
        if let Some(source) = companion_text(dir, CHAT_TEMPLATE)? {
            return Ok(Some(Self {
                source,
                origin: dir.join(CHAT_TEMPLATE).display().to_string(),
                tool_use: companion_text(dir, TOOL_TEMPLATE)?,
            }));
        }
        for file in ["tokenizer_config.json", "chat_template.json"] {
            let found = companion_json(dir, file)?;
            if let Some(found) = found.as_ref().and_then(|file| file.get("chat_template"))
                && !found.is_null()
            {
                return Self::named(&dir.join(file), found).map(Some);
            }
        }
        Ok(None)
    }

    /// A template in a configuration: a text, or named ones.
    fn named(path: &Path, value: &Json) -> Result<Self> {
        let origin = path.display().to_string();
        if let Some(source) = value.as_str() {
            return Ok(Self {
                origin,
                source: source.to_owned(),
                tool_use: None,
            });
        }
        let entry = |name: &str| match value {
            Json::Object(named) => named.get(name)?.as_str().map(str::to_owned),
            value => {
                let entries = value.as_array()?.iter();
                let mut entries = entries.filter(|entry| entry["name"] == name);
                entries.next()?.get("template")?.as_str().map(str::to_owned)
            }
        };
        let Some(source) = entry("default") else {
            return Err(Error::input(
                origin,
                "`chat_template` is no text, and has no template of the name `default`",
            )
            .remedy("name one of them `default`, or write it into `chat_template.jinja`"));
        };
        Ok(Self {
            origin,
            source,
            tool_use: entry("tool_use"),
        })
    }

    fn build(&self, tokens: &TokenFacts) -> Result<ChatTemplate> {
        let build = |source: &String| ChatTemplate::build(self.origin.clone(), source, tokens);
        let mut template = build(&self.source)?;
        template.tool_use = self.tool_use.as_ref().map(build).transpose()?.map(Box::new);
        Ok(template)
    }
}
