//! Reading chat and text files.
//!
//! A file is JSON lines, a JSON array or Parquet, plain or compressed (`.gz`, `.zst`); a record
//! has one of five shapes ([`Format`]). Both are told from the file itself.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};

use crate::error::{Context, Error, Result};

/// The shape of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// `messages`: a list of `role` and `content` (OpenAI).
    Messages,
    /// `conversations`: a list of `from` and `value` (ShareGPT).
    Conversations,
    /// `prompt` and `response` (or `completion`).
    Prompt,
    /// `instruction`, `input` (may be empty) and `output` (Alpaca).
    Instruction,
    /// `text`.
    Text,
}

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

/// One message of a chat; a plain text is one message of the role `text`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool` or `text`.
    pub role: String,
    /// What it says.
    pub content: String,
}

/// One record of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its ordinal in the file, from 0 (blank lines do not count).
    pub source_row: u64,
    /// Its place for people: `train.jsonl line 7`.
    pub place: String,
    /// Its messages, at least one.
    pub messages: Vec<Message>,
}

impl Record {
    /// Whether it is a plain text.
    pub fn is_text(&self) -> bool {
        matches!(self.messages.as_slice(), [message] if message.role == "text")
    }
}

/// The records of a file, in order. Memory: one record of a JSON lines file, one batch of 1,024
/// rows of a Parquet file, all of a JSON array.
pub struct Records {
    path: PathBuf,
    format: Option<Format>,
    row: u64,
    source: Source,
    failed: bool,
}

enum Source {
    Lines {
        reader: Box<dyn BufRead + Send>,
        line: u64,
    },
    Array(std::vec::IntoIter<Value>),
    Parquet {
        batches: parquet::arrow::arrow_reader::ParquetRecordBatchReader,
        rows: std::vec::IntoIter<Value>,
    },
}

/// Opens a chat or text file; `format` fixes the shape of its records, otherwise each shows its
/// own.
///
/// # Errors
/// Here, a missing, unreadable or damaged file; from the iterator, a broken record, with its
/// line or row and what was expected.
pub fn read(path: &Path, format: Option<Format>) -> Result<Records> {
    let name = path.to_string_lossy().to_ascii_lowercase();
    let source = if name.ends_with(".parquet") {
        let file = File::open(path).map_err(|error| Error::io(path, error))?;
        let batches = ParquetRecordBatchReaderBuilder::try_new(file)
            .and_then(|builder| builder.with_batch_size(1024).build())
            .at(path)?;
        Source::Parquet {
            batches,
            rows: Vec::new().into_iter(),
        }
    } else {
        text_source(path, &name)?
    };
    Ok(Records {
        path: path.to_owned(),
        format,
        row: 0,
        source,
        failed: false,
    })
}

fn text_source(path: &Path, name: &str) -> Result<Source> {
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    if file.metadata().is_ok_and(|meta| meta.is_dir()) {
        return Err(Error::file(path, "a folder, expected a file").remedy("name the files in it"));
    }
    let mut reader: Box<dyn BufRead + Send> = if name.ends_with(".gz") {
        Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(file)))
    } else if name.ends_with(".zst") {
        let decoder = zstd::Decoder::new(file).map_err(|error| Error::io(path, error))?;
        Box::new(BufReader::new(decoder))
    } else {
        Box::new(BufReader::with_capacity(1 << 16, file))
    };
    skip_byte_order_mark(&mut reader).map_err(|error| Error::io(path, error))?;
    // Blank lines before the first record are skipped on the way to its first character.
    let mut line = 0;
    let first = loop {
        let buffer = reader.fill_buf().map_err(|error| Error::io(path, error))?;
        match buffer.first() {
            Some(byte) if byte.is_ascii_whitespace() => {
                line += u64::from(*byte == b'\n');
                reader.consume(1);
            }
            other => break other.copied(),
        }
    };
    if first != Some(b'[') {
        return Ok(Source::Lines { reader, line });
    }
    let mut text = Vec::new();
    reader
        .read_to_end(&mut text)
        .map_err(|error| Error::io(path, error))?;
    let items: Vec<Value> = serde_json::from_slice(&text)
        .map_err(|error| Error::file(path, format!("expected a JSON array of records: {error}")))?;
    Ok(Source::Array(items.into_iter()))
}

fn skip_byte_order_mark(reader: &mut Box<dyn BufRead + Send>) -> std::io::Result<()> {
    if reader.fill_buf()?.starts_with(&[0xEF, 0xBB, 0xBF]) {
        reader.consume(3);
    }
    Ok(())
}

impl Iterator for Records {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let result = self.value().and_then(|found| {
            found
                .map(|(place, value)| record(&place, value, self.format, self.row))
                .transpose()
        });
        self.row += 1;
        self.failed = result.is_err();
        result.transpose()
    }
}

impl Records {
    /// The next record's place and value.
    fn value(&mut self) -> Result<Option<(String, Value)>> {
        let path = self.path.display();
        match &mut self.source {
            Source::Lines { reader, line } => loop {
                let mut text = Vec::new();
                let read = reader
                    .read_until(b'\n', &mut text)
                    .map_err(|error| Error::io(&self.path, error))?;
                if read == 0 {
                    return Ok(None);
                }
                *line += 1;
                if text.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                let place = format!("{path} line {line}");
                let value = serde_json::from_slice(&text).map_err(|error| {
                    // Of its own position only the column means anything here.
                    let problem = error.to_string();
                    let problem = problem.split(" at line ").next().unwrap_or_default();
                    Error::input(
                        &place,
                        format!("no valid JSON: {problem} at column {}", error.column()),
                    )
                    .remedy("write one JSON object on each line")
                })?;
                return Ok(Some((place, value)));
            },
            Source::Array(items) => Ok(items
                .next()
                .map(|value| (format!("{path} record {}", self.row + 1), value))),
            Source::Parquet { batches, rows } => loop {
                if let Some(value) = rows.next() {
                    return Ok(Some((format!("{path} row {}", self.row), value)));
                }
                let Some(batch) = batches.next() else {
                    return Ok(None);
                };
                let batch = batch.at(&self.path)?;
                let mut text = Vec::new();
                let mut writer = arrow::json::LineDelimitedWriter::new(&mut text);
                writer.write(&batch).at(&self.path)?;
                writer.finish().at(&self.path)?;
                drop(writer);
                *rows = serde_json::Deserializer::from_slice(&text)
                    .into_iter()
                    .collect::<Result<Vec<Value>, _>>()
                    .at(&self.path)?
                    .into_iter();
            },
        }
    }
}

fn record(place: &str, value: Value, format: Option<Format>, row: u64) -> Result<Record> {
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
    let message = |role: &str, content: String| Message {
        role: role.to_owned(),
        content,
    };
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
        messages,
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
        Ok(Message {
            role: role.to_owned(),
            content,
        })
    });
    Ok(Record {
        source_row: row,
        place: place.to_owned(),
        messages: messages.collect::<Result<_>>()?,
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
