//! Reading chat and text files.
//!
//! A file is JSON lines, a JSON array or Parquet, plain or compressed (`.gz`, `.zst`); a record
//! has one of five shapes ([`Format`]). Both are told from the file itself.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use super::shapes::record;
use crate::error::{Context, Error, Result};

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
                if let Err(error) = std::str::from_utf8(&text) {
                    return Err(Error::input(
                        &place,
                        format!(
                            "no valid UTF-8 at byte {} of the line",
                            error.valid_up_to() + 1
                        ),
                    )
                    .remedy("convert the file to UTF-8"));
                }
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
