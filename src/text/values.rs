//! The records of JSON lines, JSON arrays and Parquet files, plain or compressed (`.gz`, `.zst`).

use std::borrow::Cow;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use serde::de::DeserializeOwned;

use crate::error::{Context, Error, Result};

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
/// Parquet file, all of a JSON array.
pub struct Values<T> {
    path: PathBuf,
    numbers: Numbers,
    row: u64,
    source: Source<T>,
    failed: bool,
}

enum Source<T> {
    Lines {
        reader: Box<dyn BufRead + Send>,
        line: u64,
    },
    Array(std::vec::IntoIter<T>),
    Parquet {
        batches: ParquetRecordBatchReader,
        rows: std::vec::IntoIter<T>,
    },
}

/// Opens a file of records.
///
/// # Errors
/// Here, a missing, unreadable or damaged file; from the iterator, a broken record, with its
/// line or row and what was expected.
pub fn values<T: DeserializeOwned>(path: &Path, numbers: Numbers) -> Result<Values<T>> {
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
        text_source(path, &name, numbers)?
    };
    Ok(Values {
        path: path.to_owned(),
        numbers,
        row: 0,
        source,
        failed: false,
    })
}

fn text_source<T: DeserializeOwned>(
    path: &Path,
    name: &str,
    numbers: Numbers,
) -> Result<Source<T>> {
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
    let items: Vec<T> = serde_json::from_slice(&quoted(&text, numbers))
        .map_err(|error| Error::file(path, format!("expected a JSON array of records: {error}")))?;
    Ok(Source::Array(items.into_iter()))
}

fn skip_byte_order_mark(reader: &mut Box<dyn BufRead + Send>) -> std::io::Result<()> {
    if reader.fill_buf()?.starts_with(&[0xEF, 0xBB, 0xBF]) {
        reader.consume(3);
    }
    Ok(())
}

impl<T: DeserializeOwned> Iterator for Values<T> {
    type Item = Result<(String, T)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let value = self.value();
        self.row += 1;
        self.failed = value.is_err();
        value.transpose()
    }
}

impl<T: DeserializeOwned> Values<T> {
    /// The next record and its place.
    fn value(&mut self) -> Result<Option<(String, T)>> {
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
                let value = parse(&place, &text, self.numbers)?;
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
                    .collect::<Result<Vec<T>, _>>()
                    .at(&self.path)?
                    .into_iter();
            },
        }
    }
}

/// One line.
fn parse<T: DeserializeOwned>(place: &str, text: &[u8], numbers: Numbers) -> Result<T> {
    if let Err(error) = std::str::from_utf8(text) {
        return Err(Error::input(
            place,
            format!(
                "no valid UTF-8 at byte {} of the line",
                error.valid_up_to() + 1
            ),
        )
        .remedy("convert the file to UTF-8"));
    }
    serde_json::from_slice(&quoted(text, numbers)).map_err(|error| {
        // Of its own position only the column means anything here.
        let problem = error.to_string();
        let problem = problem.split(" at line ").next().unwrap_or_default();
        Error::input(
            place,
            format!("no valid JSON: {problem} at column {}", error.column()),
        )
        .remedy("write one JSON object on each line")
    })
}

/// JSON whose `NaN`, `Infinity` and `-Infinity` have become strings, where they are allowed.
fn quoted(text: &[u8], numbers: Numbers) -> Cow<'_, [u8]> {
    const WORDS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
    let has = |word: &[u8]| text.windows(word.len()).any(|at| at == word);
    if numbers == Numbers::Finite || !(has(WORDS[0]) || has(WORDS[1])) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len() + 64);
    let (mut at, mut in_string) = (0, false);
    while let Some(byte) = text.get(at) {
        let word = WORDS.iter().find(|word| text[at..].starts_with(word));
        let length = match (in_string, byte, word) {
            (false, _, Some(word)) => {
                out.push(b'"');
                out.extend_from_slice(word);
                out.push(b'"');
                at += word.len();
                continue;
            }
            // An escaped quotation mark does not end the string.
            (true, b'\\', _) => 2.min(text.len() - at),
            _ => 1,
        };
        in_string ^= *byte == b'"';
        out.extend_from_slice(&text[at..at + length]);
        at += length;
    }
    Cow::Owned(out)
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
