//! Reading chat and text files.
//!
//! A file is JSON lines, a JSON array or Parquet, plain or compressed (`.gz`, `.zst`); a record
//! has one of five shapes ([`Format`]). Both are told from the file itself.

use std::path::Path;

use serde_json::Value;

use super::chat::Chat;
use super::shapes::record;
use super::values::{Numbers, Values, values};
use crate::error::Result;

/// The shape of a record.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
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

/// One record of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its ordinal in the file, from 0 (blank lines do not count).
    pub source_row: u64,
    /// Its place for people: `train.jsonl line 7`.
    pub place: String,
    /// Its messages (at least one), with what else its template gets.
    pub chat: Chat,
}

impl Record {
    /// Whether it is a plain text.
    pub fn is_text(&self) -> bool {
        self.chat.is_text()
    }
}

/// The records of a file, in order. Memory: that of [`Values`].
pub struct Records {
    format: Option<Format>,
    row: u64,
    values: Values<Value>,
    failed: bool,
}

/// Opens a chat or text file; `format` fixes the shape of its records, otherwise each shows its
/// own.
///
/// # Errors
/// Here, a missing, unreadable or damaged file; from the iterator, a broken record, with its
/// line or row and what was expected.
pub fn read(path: &Path, format: Option<Format>) -> Result<Records> {
    Ok(Records {
        format,
        row: 0,
        values: values(path, Numbers::Finite)?,
        failed: false,
    })
}

impl Iterator for Records {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let value = self.values.next()?;
        let result = value.and_then(|(place, value)| record(&place, value, self.format, self.row));
        self.row += 1;
        self.failed = result.is_err();
        Some(result)
    }
}
