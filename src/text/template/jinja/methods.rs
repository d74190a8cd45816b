//! Python's methods of texts, lists and dictionaries, as far as they change nothing: those that do
//! are refused, as transformers' sandbox does.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

use super::arguments::Arguments;
use super::objects::View;
use super::python::{Result, error, items, pairs, tuple, type_of};
use super::strings;

/// Methods of dictionaries, and those of them that change it.
const OF_DICT: [&str; 5] = ["get", "items", "keys", "values", "copy"];

/// Methods of lists and tuples.
const OF_LIST: [&str; 3] = ["count", "index", "copy"];

/// Whether a text, a list or a dictionary has a method of this name.
pub(super) fn is_method(name: &str) -> bool {
    OF_DICT.contains(&name) || OF_LIST.contains(&name) || strings::METHODS.contains(&name)
}

/// Whether this value has a method of this name.
pub(super) fn has(value: &Value, name: &str) -> bool {
    match value.kind() {
        ValueKind::String => strings::METHODS.contains(&name),
        ValueKind::Map => OF_DICT.contains(&name),
        ValueKind::Seq => OF_LIST.contains(&name) && (name != "copy" || type_of(value) == "list"),
        _ => false,
    }
}

/// Calls a method.
pub(super) fn call(_: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value> {
    if !has(value, name) {
        return Err(Error::from(ErrorKind::UnknownMethod));
    }
    match value.kind() {
        ValueKind::String => strings::call(value.as_str().unwrap_or_default(), name, args),
        ValueKind::Map => of_dict(value, name, args),
        _ => of_list(value, name, args),
    }
}

fn of_dict(value: &Value, name: &str, args: &[Value]) -> Result<Value> {
    if name == "get" {
        // By far the most frequent, with arguments by position only.
        let (key, default) = match args {
            [key] => (key, None),
            [key, default] => (key, Some(default)),
            _ => {
                return Err(error(format!(
                    "get expected 1 or 2 arguments, found {}",
                    args.len()
                )));
            }
        };
        let found = value.as_object().and_then(|object| object.get_value(key));
        return Ok(found.unwrap_or_else(|| default.cloned().unwrap_or(Value::from(()))));
    }
    Arguments::new(name, args, &[])?;
    let pairs = pairs(value)?.into_iter();
    Ok(match name {
        "keys" => View::value("dict_keys", pairs.map(|(key, _)| key).collect()),
        "values" => View::value("dict_values", pairs.map(|(_, value)| value).collect()),
        "items" => {
            let pairs = pairs.map(|(key, value)| tuple(vec![key, value]));
            View::value("dict_items", pairs.collect())
        }
        _ => Value::from_pairs(pairs),
    })
}

fn of_list(value: &Value, name: &str, args: &[Value]) -> Result<Value> {
    let all = items(value)?;
    match name {
        "copy" => {
            Arguments::new(name, args, &[])?;
            Ok(Value::from(all))
        }
        "count" => {
            let sought = Arguments::new(name, args, &["value"])?.required(0, "value")?;
            Ok(Value::from(
                all.iter().filter(|item| **item == sought).count(),
            ))
        }
        _ => {
            let arguments = Arguments::new(name, args, &["value", "start", "stop"])?;
            let sought = arguments.required(0, "value")?;
            let bound = |at, name| arguments.integer(at, name);
            let (start, stop) =
                super::splits::clip(all.len(), bound(1, "start")?, bound(2, "stop")?);
            let found = all.get(start..stop.max(start)).unwrap_or_default();
            let found = found.iter().position(|item| *item == sought);
            let found = found.ok_or_else(|| error("the value is not in the list"))?;
            Ok(Value::from(start + found))
        }
    }
}
