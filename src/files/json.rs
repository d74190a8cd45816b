//! JSON files, with the numbers that Python writes and the standard does not know: `NaN`, `Infinity` and
//! `-Infinity`. They are read as strings with a mark, and written as what they were.

use std::borrow::Cow;
use std::path::Path;

use serde_json::{Map, Value};

use super::spelling::print_like;
use crate::error::{Context, Error, Result};

/// Before the name of a number, in the JSON strings that stand for those numbers.
const ESCAPED: &str = "\\u0000number ";

const WORDS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// Reads a JSON file; none if there is no such file.
///
/// # Errors
/// An unreadable file, invalid JSON (with line and column).
pub fn read_json(path: &Path) -> Result<Option<Value>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path, error)),
    };
    parse(path, &text).map(Some)
}

/// Reads the object in a JSON file that must be there.
///
/// # Errors
/// A missing or unreadable file, invalid JSON, a value that is no object.
pub fn read_object(path: &Path) -> Result<Map<String, Value>> {
    match parse(path, &std::fs::read(path).at(path)?)? {
        Value::Object(map) => Ok(map),
        _ => Err(Error::file(path, "expected a JSON object")),
    }
}

/// Changes the object in a JSON file. Numbers that stay are written as they were.
///
/// # Errors
/// As [`read_object`], and a failed write.
pub(crate) fn edit_json(path: &Path, edit: impl FnOnce(&mut Map<String, Value>)) -> Result<()> {
    let text = std::fs::read(path).at(path)?;
    let mut map = read_object(path)?;
    edit(&mut map);
    let text = print_like(&String::from_utf8_lossy(&text), &Value::Object(map));
    std::fs::write(path, strings_as_numbers(text)).at(path)
}

/// The text of a JSON file, indented, with a line end; numbers that Python wrote are written as it does.
pub fn json_text(value: &Value) -> String {
    strings_as_numbers(format!("{value:#}\n"))
}

/// A value for people: [`json_text`] in one line.
pub(crate) fn json_line(value: &Value) -> String {
    strings_as_numbers(value.to_string())
}

/// What [`numbers_as_strings`] has done, undone in the text that is printed.
fn strings_as_numbers(mut text: String) -> String {
    for word in WORDS {
        text = text.replace(&format!("\"{ESCAPED}{word}\""), word);
    }
    text
}

fn parse(path: &Path, text: &[u8]) -> Result<Value> {
    serde_json::from_slice(&numbers_as_strings(text, ESCAPED))
        .map_err(|error| Error::file(path, format!("no valid JSON: {error}")))
}

/// JSON whose `NaN`, `Infinity` and `-Infinity` have become strings with `mark`, a text within a JSON
/// string, before them.
pub(crate) fn numbers_as_strings<'a>(text: &'a [u8], mark: &str) -> Cow<'a, [u8]> {
    let has = |word: &str| text.windows(word.len()).any(|at| at == word.as_bytes());
    if !(has(WORDS[0]) || has(WORDS[1])) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len() + 64);
    let (mut at, mut in_string) = (0, false);
    while let Some(byte) = text.get(at) {
        let is_here = |word: &&&str| text[at..].starts_with(word.as_bytes());
        let word = WORDS.iter().find(is_here);
        let length = match (in_string, byte, word) {
            (false, _, Some(word)) => {
                for part in ["\"", mark, word, "\""] {
                    out.extend_from_slice(part.as_bytes());
                }
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
    use super::*;

    #[test]
    fn numbers_of_python_come_through() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let text = "{\n  \"limit\": [\n    0.0,\n    Infinity\n  ],\n  \"low\": -Infinity,\n  \
                    \"none\": NaN,\n  \"text\": \"NaN, \\\"Infinity\\\"\",\n  \"Infinity\": 1\n}\n";
        std::fs::write(&path, text).unwrap();
        let value = read_json(&path).unwrap().unwrap();
        assert_eq!(json_text(&value), text);
        assert_eq!(json_line(&value["limit"]), "[0.0,Infinity]");
        edit_json(&path, |map| drop(map.shift_remove("low"))).unwrap();
        let edited = std::fs::read_to_string(&path).unwrap();
        assert_eq!(edited, text.replace("  \"low\": -Infinity,\n", ""));
        for wrong in [
            "{\"a\": infinity}",
            "{\"a\": +Infinity}",
            "{\"a\": NaNs}",
            "{NaN: 1",
        ] {
            std::fs::write(&path, wrong).unwrap();
            let error = read_json(&path).unwrap_err().to_string();
            assert!(error.contains("no valid JSON"), "{wrong}: {error}");
        }
    }
}
