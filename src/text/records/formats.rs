//! Reading chat and text files.
//!
//! A file is JSON lines, a JSON array or Parquet, plain or compressed (gzip, zstd); a record has
//! one of seven shapes ([`Format`]). Both are told from the file itself.

use std::path::Path;
use std::sync::Arc;

use super::columns::Column;
use super::fields::Fields;
use super::notes::Notes;
use super::record;
use super::shapes;
use super::values::{Text, Texts};
use crate::error::{Error, Result};
use crate::text::chat::Chat;

/// The shape of a record.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Format {
    /// `messages`: a list of `role` and `content` (OpenAI, TRL, axolotl).
    Messages,
    /// `conversations`: a list of `from` and `value` (ShareGPT).
    Conversations,
    /// `prompt` and `response` (or `completion`): texts, or lists of messages.
    Prompt,
    /// `instruction`, `input` (may be empty) and `output` (Alpaca); `instruction`, `context` and
    /// `response` (Dolly).
    Instruction,
    /// `prompt` and `chosen` (and `rejected`, which is not learnt).
    Preference,
    /// `data`: a list of texts, the user's first (UltraChat).
    Turns,
    /// `text`.
    Text,
}

impl Format {
    /// Its name in recipes and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Conversations => "conversations",
            Self::Prompt => "prompt",
            Self::Instruction => "instruction",
            Self::Preference => "preference",
            Self::Turns => "turns",
            Self::Text => "text",
        }
    }
}

/// How records are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The shape of every record; each shows its own where it is not given.
    pub format: Option<Format>,
    /// Fields that have other names than the published ones.
    pub fields: Fields,
}

/// One record of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its ordinal in the file, from 0 (blank lines do not count).
    pub source_row: u64,
    /// Its place for people: `train.jsonl line 7`.
    pub place: String,
    /// Its shape.
    pub format: Format,
    /// Its messages (at least one), with what else its template gets.
    pub chat: Chat,
    /// What of it is not read.
    pub notes: Notes,
}

impl Record {
    /// Whether it is a plain text.
    pub fn is_text(&self) -> bool {
        self.chat.is_text()
    }
}

/// Why a record is of no use.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum BadReason {
    /// It is no valid JSON, or nested too deep.
    Json,
    /// It has no known shape.
    Shape,
    /// A field of it is not what it should be.
    Field,
    /// A chat template refuses it.
    Template,
    /// `strict` forbids what it has, or lacks.
    Strict,
}

impl std::fmt::Display for BadReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Json => "no valid JSON",
            Self::Shape => "no known shape",
            Self::Field => "a field is not what it should be",
            Self::Template => "a chat template refuses them",
            Self::Strict => "`strict` forbids what they have or lack",
        })
    }
}

/// A record of no use, with the error that says where and why.
#[derive(Debug)]
pub struct Bad {
    /// The kind of reason, to count by.
    pub reason: BadReason,
    /// What to say about it.
    pub error: Error,
}

/// A record that is not parsed yet, so that many can be at once.
pub struct RawRecord {
    row: u64,
    text: Text,
    left_out: Arc<[Column]>,
}

impl RawRecord {
    /// The record, read as `reading` says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(self, reading: &Reading) -> Result<Record, Bad> {
        let Self {
            row,
            text,
            left_out,
        } = self;
        let bad = |reason| move |error| Bad { reason, error };
        let value = text.value().map_err(bad(BadReason::Json))?;
        let place = text.place;
        let (format, fields) = shapes::shape(&place, value, reading)
            .map_err(|error| beside(error, &left_out))
            .map_err(bad(BadReason::Shape))?;
        let (chat, notes) =
            record::chat(&place, format, fields, &reading.fields).map_err(bad(BadReason::Field))?;
        Ok(Record {
            source_row: row,
            place,
            format,
            chat,
            notes,
        })
    }
}

/// A record without a shape may have it in columns that no published shape has.
fn beside(mut error: Error, left_out: &[Column]) -> Error {
    if let Error::Input { problem, .. } = &mut error
        && !left_out.is_empty()
    {
        let names = left_out.iter().map(|column| format!("`{}`", column.name));
        *problem += &format!(" and the columns {}", names.collect::<Vec<_>>().join(", "));
    }
    error
}

/// The records of a file, in order; ends with the first error. Memory: that of
/// [`Values`](super::Values).
pub struct Records {
    reading: Reading,
    row: u64,
    texts: Texts,
    failed: bool,
}

/// Opens a chat or text file; `format` fixes the shape of its records, otherwise each shows its
/// own.
///
/// # Errors
/// Here, a missing, unreadable or damaged file; from the iterator, a broken record, with its
/// line or row and what was expected.
pub fn read(path: &Path, format: Option<Format>) -> Result<Records> {
    let fields = Fields::default();
    read_as(path, &Reading { format, fields })
}

/// Opens a chat or text file whose records are read as `reading` says.
///
/// # Errors
/// As [`read`].
pub fn read_as(path: &Path, reading: &Reading) -> Result<Records> {
    let wanted = |name: &str| shapes::reads(name) || reading.fields.names(name);
    Ok(Records {
        reading: reading.clone(),
        row: 0,
        texts: Texts::open(path, Some(&wanted))?,
        failed: false,
    })
}

impl Records {
    /// The next records, not parsed yet; none at the end.
    ///
    /// # Errors
    /// A file that cannot be read on.
    pub fn chunk(&mut self, records: usize) -> Result<Vec<RawRecord>> {
        let mut chunk = Vec::with_capacity(records);
        while chunk.len() < records {
            match self.raw()? {
                Some(record) => chunk.push(record),
                None => break,
            }
        }
        Ok(chunk)
    }

    /// Columns of a Parquet file that are not read, unless they are ignored, each with the number
    /// of rows that have it.
    pub fn unread_columns(&self) -> impl Iterator<Item = (&str, u64)> {
        let columns = self.texts.left_out.iter();
        let columns = columns.filter(|column| !self.reading.fields.ignores(&column.name));
        columns.map(|column| (column.name.as_str(), column.rows))
    }

    fn raw(&mut self) -> Result<Option<RawRecord>> {
        let Some(text) = self.texts.next()? else {
            return Ok(None);
        };
        let row = self.row;
        self.row += 1;
        Ok(Some(RawRecord {
            row,
            text,
            left_out: Arc::clone(&self.texts.left_out),
        }))
    }
}

impl Iterator for Records {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let raw = self.raw().transpose()?;
        let result = raw.and_then(|raw| raw.read(&self.reading).map_err(|bad| bad.error));
        self.failed = result.is_err();
        Some(result)
    }
}
