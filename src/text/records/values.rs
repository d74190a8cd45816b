//! The records of JSON lines, JSON arrays and Parquet files, plain or compressed with gzip or zstd.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::columns::{self, Column};
use super::kinds::{self, Opened, Unpacked};
use super::lenient::{self, Wrong};
use crate::error::{Context, Error, Result};
use crate::files::{ParquetBatches, numbers_as_strings};

/// Which numbers JSON may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Those of the standard.
    Finite,
    /// Also `NaN`, `Infinity` and `-Infinity`, as Python writes them; they are read as strings.
    Python,
}

/// The records of a file, each with its place for people (`train.jsonl line 7`), in order; ends
/// with the first error. Memory: one record of a JSON lines file, one batch of 1,024 rows of a
/// Parquet file, the text of a JSON array.
pub struct Values<T> {
    texts: Texts,
    numbers: Numbers,
    failed: bool,
    value: std::marker::PhantomData<fn() -> T>,
}

/// Opens a file of records.
///
/// # Errors
/// Here, a missing, unreadable or damaged file, or one of another kind; from the iterator, a broken
/// record, with its line or row and what was expected.
pub fn values<T: DeserializeOwned>(path: &Path, numbers: Numbers) -> Result<Values<T>> {
    Ok(Values {
        texts: Texts::open(path, None)?,
        numbers,
        failed: false,
        value: std::marker::PhantomData,
    })
}

impl<T: DeserializeOwned> Iterator for Values<T> {
    type Item = Result<(String, T)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let numbers = self.numbers;
        let parsed = |text: Text| {
            check_utf8(&text)?;
            let value = serde_json::from_slice(&quoted(&text.bytes, numbers))
                .map_err(|error| broken(&text.place, &error))?;
            Ok((text.place, value))
        };
        let value = self
            .texts
            .next()
            .and_then(|text| text.map(parsed).transpose());
        self.failed = value.is_err();
        value.transpose()
    }
}

/// One record as JSON.
pub(super) struct Text {
    /// Its place for people.
    pub(super) place: String,
    pub(super) bytes: Vec<u8>,
}

impl Text {
    /// What it says, read as Python reads it.
    pub(super) fn value(&self) -> Result<Value> {
        check_utf8(self)?;
        serde_json::from_slice(&self.bytes).or_else(|error| {
            // What serde_json does not read may be right nevertheless.
            let deep = error.to_string().starts_with("recursion limit");
            match lenient::parse(&self.bytes) {
                Ok(value) => Ok(value),
                Err(wrong) if deep => Err(broken_at(&self.place, &wrong)),
                Err(_) => Err(broken(&self.place, &error)),
            }
        })
    }
}

/// A value that was read from a record and is stored as JSON, as deep as it may be.
pub(crate) fn stored_json(text: &str) -> Option<Value> {
    let read = |_| lenient::parse(text.as_bytes());
    serde_json::from_str(text).or_else(read).ok()
}

/// The texts of the records of a file, in order.
pub(super) struct Texts {
    path: PathBuf,
    row: u64,
    source: Source,
    /// Columns of a Parquet file that are not read.
    pub(super) left_out: Arc<[Column]>,
}

enum Source {
    Lines {
        reader: Unpacked,
        line: u64,
    },
    Array {
        text: Vec<u8>,
        items: std::vec::IntoIter<Range<usize>>,
    },
    Parquet {
        batches: ParquetBatches,
        /// The rows of a batch as lines of JSON, and where the next begins.
        text: Vec<u8>,
        at: usize,
    },
}

impl Texts {
    /// Opens a file. Of a Parquet file only the `wanted` columns are read, and all where that is
    /// not given.
    pub(super) fn open(path: &Path, wanted: Option<&dyn Fn(&str) -> bool>) -> Result<Self> {
        let mut left_out = Vec::new();
        let source = match kinds::open(path)? {
            Opened::Text(reader) => text_source(path, reader)?,
            Opened::Parquet(file) => {
                let (batches, skipped) = columns::open(path, file, wanted)?;
                left_out = skipped;
                Source::Parquet {
                    batches,
                    text: Vec::new(),
                    at: 0,
                }
            }
        };
        Ok(Self {
            path: path.to_owned(),
            row: 0,
            source,
            left_out: left_out.into(),
        })
    }

    /// The next record; none at the end. After an error the file cannot be read on.
    pub(super) fn next(&mut self) -> Result<Option<Text>> {
        let path = self.path.display();
        let row = self.row;
        self.row += 1;
        match &mut self.source {
            Source::Lines { reader, line } => loop {
                let mut bytes = Vec::new();
                if !reader.line(&self.path, &mut bytes)? {
                    return Ok(None);
                }
                *line += 1;
                if bytes.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                let place = format!("{path} line {line}");
                return Ok(Some(Text { place, bytes }));
            },
            Source::Array { text, items } => Ok(items.next().map(|item| Text {
                place: format!("{path} record {}", row + 1),
                bytes: text.get(item).unwrap_or_default().to_vec(),
            })),
            Source::Parquet { batches, text, at } => loop {
                let rest = text.get(*at..).unwrap_or_default();
                if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let bytes = rest[..end].to_vec();
                    *at += end + 1;
                    let place = format!("{path} row {row}");
                    return Ok(Some(Text { place, bytes }));
                }
                let Some(batch) = batches.next() else {
                    return Ok(None);
                };
                let batch = batch.at(&self.path)?;
                text.clear();
                *at = 0;
                let mut writer = arrow::json::LineDelimitedWriter::new(&mut *text);
                writer.write(&batch).at(&self.path)?;
                writer.finish().at(&self.path)?;
            },
        }
    }
}

fn text_source(path: &Path, mut reader: Unpacked) -> Result<Source> {
    // Blank lines before the first record are skipped on the way to its first character.
    let mut line = 0;
    let first = loop {
        match reader.fill(path)?.first().copied() {
            Some(byte) if byte.is_ascii_whitespace() => {
                line += u64::from(byte == b'\n');
                reader.consume(1);
            }
            other => break other,
        }
    };
    if first != Some(b'[') {
        return Ok(Source::Lines { reader, line });
    }
    let text = reader.rest(path)?;
    let items = lenient::items(&text).map_err(|wrong| {
        let lines = text[..wrong.at]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count();
        let line = line + lines as u64 + 1;
        let problem = format!(
            "expected a JSON array of records: {} in line {line}",
            wrong.what
        );
        Error::file(path, problem)
    })?;
    Ok(Source::Array {
        text,
        items: items.into_iter(),
    })
}

fn check_utf8(text: &Text) -> Result<()> {
    match std::str::from_utf8(&text.bytes) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::input(
            &text.place,
            format!(
                "no valid UTF-8 at byte {} of the record",
                error.valid_up_to() + 1
            ),
        )
        .remedy("convert the file to UTF-8")),
    }
}

fn broken(place: &str, error: &serde_json::Error) -> Error {
    // Of its own position only the column means anything here.
    let problem = error.to_string();
    let problem = problem.split(" at line ").next().unwrap_or_default();
    Error::input(
        place,
        format!("no valid JSON: {problem} at column {}", error.column()),
    )
    .remedy("write one JSON object on each line")
}

fn broken_at(place: &str, wrong: &Wrong) -> Error {
    Error::input(
        place,
        format!("cannot be read: {} at byte {}", wrong.what, wrong.at + 1),
    )
}

/// JSON whose `NaN`, `Infinity` and `-Infinity` have become strings, where they are allowed.
fn quoted(text: &[u8], numbers: Numbers) -> Cow<'_, [u8]> {
    match numbers {
        Numbers::Finite => Cow::Borrowed(text),
        Numbers::Python => numbers_as_strings(text, ""),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(name: &str, content: &[u8], numbers: Numbers) -> Result<Vec<(String, Value)>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        let found: Vec<(String, Value)> = values(&path, numbers)?.collect::<Result<_>>()?;
        let place = |place: String| place.replace(&path.display().to_string(), name);
        Ok(found.into_iter().map(|(p, v)| (place(p), v)).collect())
    }

    #[test]
    fn numbers_as_python_writes_them() {
        let lines = "\u{feff}{\"a\": [NaN, -Infinity,Infinity], \"NaN \\\" Infinity\": \"x\\\\\"}\r\n\r\n[-Infinity]\r\n";
        let found = read("x.jsonl", lines.as_bytes(), Numbers::Python).unwrap();
        assert_eq!(
            found,
            [
                (
                    "x.jsonl line 1".to_owned(),
                    json!({"a": ["NaN", "-Infinity", "Infinity"], "NaN \" Infinity": "x\\"})
                ),
                ("x.jsonl line 3".to_owned(), json!(["-Infinity"])),
            ]
        );
        let array = read(
            "x.json",
            b"[{\"a\": -Infinity}, {\"a\": 1}]",
            Numbers::Python,
        )
        .unwrap();
        assert_eq!(array[0].1, json!({"a": "-Infinity"}));
        assert_eq!(array[1].0, "x.json record 2");
        for text in ["{\"a\": NaN}", "[NaN]"] {
            let error = read("x.jsonl", text.as_bytes(), Numbers::Finite).unwrap_err();
            assert!(error.to_string().contains("x.jsonl"), "{error}");
        }
        // What is no such word stays what it is.
        for text in [
            "{\"a\": Nan}",
            "{\"a\": --Infinity}",
            "{\"a\": \"Infinity\\",
        ] {
            assert!(
                read("x.jsonl", text.as_bytes(), Numbers::Python).is_err(),
                "{text}"
            );
        }
    }
}
