//! Values of a kind, strictly.

use serde_json::{Map, Value};

use crate::error::{Error, Result, did_you_mean};

/// The value of a key, if it is given and not null.
pub fn given<'a>(map: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    map.get(key).filter(|value| !value.is_null())
}

/// A mapping.
///
/// # Errors
///
/// Something else.
pub fn object<'a>(value: &'a Value, what: &str) -> Result<&'a Map<String, Value>> {
    value
        .as_object()
        .ok_or_else(|| Error::usage(format!("expected a mapping in {what}, found {value}")))
}

/// A list.
///
/// # Errors
///
/// Something else.
pub fn list<'a>(value: &'a Value, what: &str) -> Result<&'a [Value]> {
    value
        .as_array()
        .map(Vec::as_slice)
        .ok_or_else(|| Error::usage(format!("expected a list in `{what}`, found {value}")))
}

/// A text.
///
/// # Errors
///
/// Something else, or an empty text.
pub fn word(value: &Value, what: &str) -> Result<String> {
    match value {
        Value::String(text) if !text.is_empty() => Ok(text.clone()),
        // `model: {path: x}` and bare numbers are no paths; mergekit also wants text here.
        _ => Err(Error::usage(format!(
            "expected text for `{what}`, found {value}"
        ))),
    }
}

/// Checks that every key is one of `keys`.
///
/// # Errors
///
/// An unknown key; the nearest known one is offered.
pub fn known(map: &Map<String, Value>, keys: &[&str], place: &str) -> Result<()> {
    for key in map.keys() {
        if !keys.contains(&key.as_str()) {
            let error = Error::usage(format!("unknown key `{key}` in {place}"));
            return Err(match did_you_mean(key, keys.iter().copied()) {
                Some(remedy) => error.remedy(remedy),
                None => error.remedy(format!("known keys are {}", keys.join(", "))),
            });
        }
    }
    Ok(())
}
