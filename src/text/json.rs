//! JSON as files hold it and as chat templates write it.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};

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
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| Error::file(path, format!("no valid JSON: {error}")))
}

/// JSON as Python's `json.dumps(.., ensure_ascii=False)` writes it: a blank after `,` and `:`
/// on one line, or `indent` blanks per level.
pub(super) fn python_json(value: &Value, indent: Option<usize>) -> String {
    let mut out = String::new();
    write(value, indent, 0, &mut out);
    out
}

fn write(value: &Value, indent: Option<usize>, depth: usize, out: &mut String) {
    let (open, close, empty) = match value {
        Value::Array(items) => ('[', ']', items.is_empty()),
        Value::Object(map) => ('{', '}', map.is_empty()),
        Value::Number(number) if number.is_f64() => return out.push_str(&float(number.as_f64())),
        other => return out.push_str(&other.to_string()),
    };
    out.push(open);
    let line = |depth: usize, out: &mut String| {
        if let Some(indent) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    let separate = |first: bool, out: &mut String| {
        if !first {
            out.push_str(if indent.is_some() { "," } else { ", " });
        }
        line(depth + 1, out);
    };
    match value {
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                separate(i == 0, out);
                write(item, indent, depth + 1, out);
            }
        }
        Value::Object(map) => {
            for (i, (key, item)) in map.iter().enumerate() {
                separate(i == 0, out);
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push_str(": ");
                write(item, indent, depth + 1, out);
            }
        }
        _ => {}
    }
    if !empty {
        line(depth, out);
    }
    out.push(close);
}

/// A float as Python writes it: `1.0`, `0.1`, `1e-07`.
fn float(value: Option<f64>) -> String {
    let Some(value) = value else {
        return "null".to_owned();
    };
    let text = format!("{value:?}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let exponent: i32 = exponent.parse().unwrap_or(0);
            let sign = if exponent < 0 { '-' } else { '+' };
            format!(
                "{}e{sign}{:02}",
                digits.trim_end_matches(".0"),
                exponent.abs()
            )
        }
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_is_written_as_python_does() {
        let value = json!({"a": [1, 2.0, "é<b>"], "b": {}, "c": null});
        assert_eq!(
            python_json(&value, None),
            r#"{"a": [1, 2.0, "é<b>"], "b": {}, "c": null}"#
        );
        assert_eq!(
            python_json(&json!({"a": [1]}), Some(4)),
            "{\n    \"a\": [\n        1\n    ]\n}"
        );
        assert_eq!(python_json(&json!(1e-7), None), "1e-07");
    }
}
