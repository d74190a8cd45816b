//! JSON files.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Context, Error, Result};

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

fn parse(path: &Path, text: &[u8]) -> Result<Value> {
    serde_json::from_slice(text)
        .map_err(|error| Error::file(path, format!("no valid JSON: {error}")))
}
