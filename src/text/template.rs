//! Chat templates, rendered as Hugging Face's `apply_chat_template` does.
//!
//! The Jinja dialect is that of `transformers`: `trim_blocks` and `lstrip_blocks`, loop controls,
//! Python's methods of strings, lists and dictionaries, `raise_exception`, `strftime_now` (of a
//! fixed date, so that a run can be repeated), `tojson` without HTML escapes, and the
//! `{% generation %}` tag, which changes nothing in the text.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use chrono::NaiveDate;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, ErrorKind, Value};
use serde_json::Value as Json;

use super::formats::Message;
use super::json::{python_json, read_json};
use crate::error::{Context, Error, Result};

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

/// A model's chat template, with the special tokens that it may write.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    origin: String,
    source: String,
    tokens: BTreeMap<String, Value>,
    bos: Option<String>,
    closers: Vec<String>,
    turn_end: Option<String>,
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
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .during(|| "setting up chat templates".to_owned())?;
        environment.set_syntax(syntax);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(|out, state, value| match value.kind() {
            ValueKind::Bool => out
                .write_str(if value.is_true() { "True" } else { "False" })
                .map_err(minijinja::Error::from),
            ValueKind::None => out.write_str("None").map_err(minijinja::Error::from),
            _ => minijinja::escape_formatter(out, state, value),
        });
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", |message: String| -> Result<String, _> {
            Err::<String, _>(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment
            .add_template_owned("chat", without_generation_tags(source))
            .map_err(|error| {
                Error::input(&origin, format!("chat template: {}", describe(&error)))
                    .remedy("expected Jinja as Hugging Face's `apply_chat_template` renders it")
            })?;

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
        let closers: Vec<String> = eos
            .into_iter()
            .chain(TURN_ENDS.into_iter().filter(known).map(str::to_owned))
            .collect();
        let mut template = Self {
            environment,
            origin,
            source: source.to_owned(),
            bos: token("bos_token"),
            tokens,
            closers,
            turn_end: None,
        };
        template.set_date(NaiveDate::from_ymd_opt(2024, 7, 26).unwrap_or_default());
        template.turn_end = template.probe(added);
        Ok(template)
    }

    /// Sets the date that `strftime_now` returns.
    pub fn set_date(&mut self, date: NaiveDate) {
        self.environment.add_function(
            "strftime_now",
            move |format: String| -> Result<String, minijinja::Error> {
                let mut text = String::new();
                let moment = date.and_time(chrono::NaiveTime::MIN);
                write!(text, "{}", moment.format(&format)).map_err(|_| {
                    minijinja::Error::new(
                        ErrorKind::InvalidOperation,
                        format!("`{format}` is no valid format of a date"),
                    )
                })?;
                Ok(text)
            },
        );
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

    /// The turn end that `text` begins with.
    pub(super) fn closer<'a>(&'a self, text: &str) -> Option<&'a str> {
        let all = self.turn_end.iter().chain(&self.closers);
        all.map(String::as_str)
            .find(|closer| text.starts_with(closer))
    }

    /// What follows an assistant's answer in a rendering, if it is a special token.
    fn probe(&self, added: &[String]) -> Option<String> {
        let said = "\u{E0F0}answer\u{E0F1}";
        let messages = [("user", "question"), ("assistant", said)].map(|(role, content)| Message {
            role: role.to_owned(),
            content: content.to_owned(),
        });
        let text = self.render(&messages, false).ok()?;
        let after = text.split(said).nth(1)?.trim_start();
        let special = added.iter().chain(&self.closers);
        special
            .filter(|token| after.starts_with(token.as_str()))
            .max_by_key(|token| token.len())
            .cloned()
    }

    /// Renders messages. `add_generation_prompt` opens the assistant's next turn at the end.
    ///
    /// # Errors
    /// What the template refuses (`raise_exception`) or cannot do.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| {
                minijinja::context! {
                    role => message.role.as_str(),
                    content => message.content.as_str(),
                }
            })
            .collect();
        let mut context = self.tokens.clone();
        context.insert("messages".to_owned(), Value::from(messages));
        context.insert("tools".to_owned(), Value::from(()));
        context.insert("documents".to_owned(), Value::from(()));
        context.insert(
            "add_generation_prompt".to_owned(),
            Value::from(add_generation_prompt),
        );
        self.environment
            .get_template("chat")
            .and_then(|template| template.render(context))
            .map_err(|error| {
                Error::input(
                    &self.origin,
                    format!("the chat template refuses: {}", describe(&error)),
                )
            })
    }
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

/// `{% generation %}` marks what the model writes; here it is a condition that always holds, so
/// that blanks are trimmed as at any other tag.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let name = tag
            .trim_start_matches("{%")
            .trim_end_matches("%}")
            .trim_matches(['-', '+'])
            .trim();
        match name {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out + rest
}

fn to_json(value: Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    // The others of Hugging Face's filter say how it writes anyway.
    for name in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Value> = options.get(name)?;
    }
    options.assert_all_used()?;
    let json = serde_json::to_value(&value)
        .map_err(|error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    Ok(Value::from_safe_string(python_json(&json, indent)))
}

/// The message of a template's error, with its line, without the kind of the error.
fn describe(error: &minijinja::Error) -> String {
    let what = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}
