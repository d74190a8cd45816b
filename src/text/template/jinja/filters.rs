//! Jinja2's filters of texts and single values.

use std::cmp::Ordering;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, State, Value};

use super::arguments::{Arguments, in_one};
use super::python::{
    Number, Result, charge, error, integer, is_space, items, pairs, text, tuple, type_of,
};
use super::texts::{TEXTS, of_text};
use super::{dump, methods, sequences};

/// The filters that templates may use: Jinja2's but for `filesizeformat`, `pprint`, `random`,
/// `urlize`, `wordwrap` and `xmlattr`, which say nothing in a chat.
const KNOWN: [&str; 48] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
];

/// Whether there is a filter of this name.
pub(super) fn is_known(name: &str) -> bool {
    KNOWN.contains(&name)
}

/// Adds the filters to an environment.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    for name in KNOWN {
        environment.add_filter(
            name,
            move |state: &mut State, args: &[Value], names: Kwargs| {
                in_one(args, names, |args| call(state, name, args))
            },
        );
    }
}

/// Calls a filter; its value is the first argument.
pub(super) fn call(state: &mut State, name: &str, args: &[Value]) -> Result<Value> {
    let (value, args) = args
        .split_first()
        .ok_or_else(|| error(format!("{name} needs a value")))?;
    charge(value.as_str().map_or(0, |text| text.len() / 2))?;
    match name {
        "tojson" => dump::to_json(value, args),
        "trim" => {
            let arguments = Arguments::new(name, args, &["chars"])?;
            let chars = arguments.string_or_none(0, "chars")?;
            let own;
            let own = match value.as_str() {
                Some(text) => text,
                None => {
                    own = text(value)?;
                    &own
                }
            };
            Ok(Value::from(super::splits::strip(
                own,
                "strip",
                chars.as_deref(),
            )))
        }
        "length" | "count" => {
            Arguments::new(name, args, &[])?;
            length(value)
        }
        "default" | "d" => {
            let arguments = Arguments::new(name, args, &["default_value", "boolean"])?;
            let missing = value.is_undefined() || arguments.flag(1, "boolean") && !value.is_true();
            Ok(match missing {
                true => arguments
                    .get(0, "default_value")
                    .unwrap_or_else(|| Value::from("")),
                false => value.clone(),
            })
        }
        "items" => {
            Arguments::new(name, args, &[])?;
            let all = if value.is_undefined() {
                Vec::new()
            } else {
                pairs(value)?
            };
            let all = all.into_iter().map(|(key, value)| tuple(vec![key, value]));
            Ok(super::objects::Generator::value(all.collect()))
        }
        "abs" | "attr" | "float" | "int" | "round" => number(value, name, args),
        _ if TEXTS.contains(&name) => of_text(value, name, args),
        _ => sequences::call(state, value, name, args),
    }
}

fn length(value: &Value) -> Result<Value> {
    let len = match value.kind() {
        ValueKind::Undefined => Some(0),
        ValueKind::String => value.as_str().map(|text| text.chars().count()),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => value.len(),
        _ => None,
    };
    let len =
        len.ok_or_else(|| error(format!("object of type '{}' has no len()", type_of(value))))?;
    Ok(Value::from(len))
}

fn number(value: &Value, name: &str, args: &[Value]) -> Result<Value> {
    if value.is_undefined() {
        return Err(error(format!("{name}: the value is undefined")));
    }
    match name {
        "abs" => match Number::of(value) {
            Some(Number::Integer(value)) => Ok(integer(value.saturating_abs())),
            Some(Number::Float(value)) => Ok(Value::from(value.abs())),
            None => Err(error(format!(
                "bad operand type for abs(): '{}'",
                type_of(value)
            ))),
        },
        "attr" => {
            let wanted = text(&Arguments::new(name, args, &["name"])?.required(0, "name")?)?;
            match methods::has(value, &wanted) {
                true => super::operators::attribute(value, &wanted),
                // Unlike `value.name` it never looks into a dictionary.
                false if value.kind() == ValueKind::Map => Ok(Value::UNDEFINED),
                false => value.get_attr(&wanted),
            }
        }
        "float" => {
            let arguments = Arguments::new(name, args, &["default"])?;
            let found = match value.as_str() {
                Some(text) => parse_float(text),
                None => Number::of(value).map(Number::float),
            };
            let default = || {
                arguments
                    .get(0, "default")
                    .unwrap_or_else(|| Value::from(0.0))
            };
            Ok(found.map_or_else(default, Value::from))
        }
        "int" => {
            let arguments = Arguments::new(name, args, &["default", "base"])?;
            let base = arguments.integer(1, "base")?.unwrap_or(10);
            let found = match (value.as_str(), Number::of(value)) {
                (Some(text), _) => {
                    parse_integer(text, base).or_else(|| parse_float(text).and_then(truncated))
                }
                (_, Some(Number::Integer(value))) => Some(value),
                (_, Some(Number::Float(value))) => truncated(value),
                _ => None,
            };
            let default = || {
                arguments
                    .get(0, "default")
                    .unwrap_or_else(|| Value::from(0))
            };
            Ok(found.map_or_else(default, integer))
        }
        _ => {
            let arguments = Arguments::new(name, args, &["precision", "method"])?;
            let places = arguments.integer(0, "precision")?.unwrap_or(0);
            let method = arguments.string_or_none(1, "method")?;
            round(value, places, method.as_deref().unwrap_or("common"))
        }
    }
}

fn truncated(value: f64) -> Option<i128> {
    (value.is_finite() && value.abs() < 1e38).then_some(value as i128)
}

fn without_underscores(text: &str) -> Option<String> {
    let text = text.trim_matches(is_space);
    let fine = !text.starts_with('_') && !text.ends_with('_') && !text.contains("__");
    fine.then(|| text.replace('_', ""))
}

fn parse_float(text: &str) -> Option<f64> {
    without_underscores(text)?.parse().ok()
}

fn parse_integer(text: &str, base: i64) -> Option<i128> {
    let text = without_underscores(text)?.to_lowercase();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    let prefix = match base {
        2 => "0b",
        8 => "0o",
        16 => "0x",
        _ => "",
    };
    let digits = digits.strip_prefix(prefix).unwrap_or(digits);
    let radix = u32::try_from(base)
        .ok()
        .filter(|base| (2..=36).contains(base))?;
    if digits.starts_with(['+', '-']) {
        return None;
    }
    i128::from_str_radix(digits, radix)
        .ok()
        .map(|value| sign * value)
}

fn round(value: &Value, places: i64, method: &str) -> Result<Value> {
    let Some(number) = Number::of(value) else {
        return Err(error(format!(
            "round: expected a number, found {}",
            type_of(value)
        )));
    };
    let places = i32::try_from(places).unwrap_or(i32::MAX).clamp(-300, 300);
    let scale = 10_f64.powi(places);
    let exact = |value: f64| format!("{value:.0$}", usize::try_from(places).unwrap_or(0));
    match (method, number) {
        ("common", Number::Integer(value)) if places >= 0 => Ok(integer(value)),
        // As exactly as it is printed: half of two goes to the even one.
        ("common", Number::Float(value)) if places >= 0 => Ok(exact(value)
            .parse::<f64>()
            .map_or(Value::from(value), Value::from)),
        ("common", number) => {
            let rounded = (number.float() * scale).round_ties_even() / scale;
            Ok(match number {
                Number::Integer(_) => integer(rounded as i128),
                Number::Float(_) => Value::from(rounded),
            })
        }
        ("ceil", number) => Ok(Value::from((number.float() * scale).ceil() / scale)),
        ("floor", number) => Ok(Value::from((number.float() * scale).floor() / scale)),
        _ => Err(error("round: method must be common, ceil or floor")),
    }
}

/// A value as it is ordered where the case of letters does not count.
pub(super) fn folded(value: Value, case_sensitive: bool) -> Value {
    match value.as_str() {
        Some(text) if !case_sensitive => Value::from(text.to_lowercase()),
        _ => value,
    }
}

/// The order of two values in `sort` and its like.
pub(super) fn order(a: &Value, b: &Value) -> Result<Option<Ordering>> {
    super::operators::compare("<", a, b)
}

/// The items of a value, each with its key: an attribute's value, or itself.
pub(super) fn keyed(
    value: &Value,
    attribute: Option<&Value>,
    case_sensitive: bool,
) -> Result<Vec<(Value, Value)>> {
    let key = |item: Value| {
        let key = match attribute {
            Some(attribute) => sequences::attribute(&item, attribute, None)?,
            None => item.clone(),
        };
        Ok((folded(key, case_sensitive), item))
    };
    items(value)?.into_iter().map(key).collect()
}
