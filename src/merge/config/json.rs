//! Values of a kind, read as pydantic reads them in mergekit: `1.0` is true, text may be a number.

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
        // Bare numbers are no paths; mergekit also wants text here.
        _ => Err(Error::usage(format!(
            "expected text for `{what}`, found {value}"
        ))),
    }
}

/// A finite number: also text that is one (digits may be grouped by `_`), and flags.
pub fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Bool(flag) => f64::from(u8::from(*flag)),
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => {
            let text = text.trim();
            let grouped = text.as_bytes().windows(3).all(|around| {
                let digits = around[0].is_ascii_digit() && around[2].is_ascii_digit();
                around[1] != b'_' || digits
            });
            let ends = text.starts_with('_') || text.ends_with('_');
            (grouped && !ends).then(|| text.replace('_', "").parse().ok())??
        }
        _ => return None,
    };
    number.is_finite().then_some(number)
}

/// A [`number`] that is whole and not negative.
pub fn whole(value: &Value) -> Option<u64> {
    let exact = value.as_u64();
    let number = || number(value).filter(|n| n.fract() == 0.0 && (0.0..1e15).contains(n));
    exact.or_else(|| number().map(|n| n as u64))
}

/// True or false: also 1 and 0, and the words for them.
pub fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::Number(number) => match number.as_f64()? {
            0.0 => Some(false),
            1.0 => Some(true),
            _ => None,
        },
        Value::String(word) => match word.to_lowercase().as_str() {
            "1" | "on" | "t" | "true" | "y" | "yes" => Some(true),
            "0" | "off" | "f" | "false" | "n" | "no" => Some(false),
            _ => None,
        },
        _ => None,
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_those_of_pydantic() {
        for (value, expected) in [
            (json!("0.5"), Some(0.5)),
            (json!(" 3 "), Some(3.0)),
            (json!("1_000"), Some(1000.0)),
            (json!("1e-1"), Some(0.1)),
            (json!("-.5"), Some(-0.5)),
            (json!("1."), Some(1.0)),
            (json!(true), Some(1.0)),
            (json!("1__0"), None),
            (json!("_1"), None),
            (json!("0x10"), None),
            (json!("yes"), None),
            (json!(""), None),
            (json!("inf"), None),
            (json!("1e400"), None),
            (json!([1]), None),
            (json!(null), None),
        ] {
            assert_eq!(number(&value), expected, "{value}");
        }
        for (value, expected) in [
            (json!("3"), Some(3)),
            (json!("3.0"), Some(3)),
            (json!(3.0), Some(3)),
            (json!(true), Some(1)),
            (json!(3.5), None),
            (json!(-1), None),
            (json!("x"), None),
        ] {
            assert_eq!(whole(&value), expected, "{value}");
        }
        for (value, expected) in [
            (json!(1.0), Some(true)),
            (json!(0), Some(false)),
            (json!("TRUE"), Some(true)),
            (json!("n"), Some(false)),
            (json!(2), None),
            (json!("1.0"), None),
            (json!(" on"), None),
            (json!(null), None),
        ] {
            assert_eq!(flag(&value), expected, "{value}");
        }
    }
}
