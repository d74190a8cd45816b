//! Jinja2's filters of texts and single values.

use std::cmp::Ordering;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, State, Value};

use super::arguments::{Arguments, in_one};
use super::python::{
    Number, Result, charge, error, integer, is_space, items, pairs, text, tuple, type_of,
};
use super::{dump, format, methods, sequences, strings};

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
            Ok(Value::from(strings::strip(own, "strip", chars.as_deref())))
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
            Ok(super::python::Generator::value(all.collect()))
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

/// Filters that take anything as a text.
const TEXTS: [&str; 16] = [
    "capitalize",
    "center",
    "e",
    "escape",
    "forceescape",
    "format",
    "indent",
    "lower",
    "replace",
    "safe",
    "string",
    "striptags",
    "title",
    "truncate",
    "upper",
    "urlencode",
];

fn of_text(value: &Value, name: &str, args: &[Value]) -> Result<Value> {
    let own = text(value)?;
    let arguments = |names: &[&str]| Arguments::new(name, args, names);
    let changed = match name {
        "format" => {
            let arguments = Arguments::any(name, args)?;
            let named: Vec<(Value, Value)> = arguments
                .names()
                .filter_map(|name| Some((Value::from(name), arguments.named(name)?)))
                .collect();
            let values = match (arguments.positions(), named.is_empty()) {
                (positions, true) => tuple(positions.to_vec()),
                ([], false) => Value::from_pairs(named),
                _ => {
                    return Err(error(
                        "format takes arguments by position or by name, not both",
                    ));
                }
            };
            format::percent(&own, &values)?
        }
        "replace" => {
            let arguments = arguments(&["old", "new", "count"])?;
            let (old, new) = (arguments.required(0, "old")?, arguments.required(1, "new")?);
            let count = arguments.integer(2, "count")?;
            return strings::replace(&own, &text(&old)?, &text(&new)?, count);
        }
        "center" => {
            let width = arguments(&["width"])?.integer(0, "width")?.unwrap_or(80);
            return strings::justify(&own, name, width, ' ');
        }
        "indent" => {
            let arguments = arguments(&["width", "first", "blank"])?;
            indent(&own, &arguments)?
        }
        "truncate" => {
            let arguments = arguments(&["length", "killwords", "end", "leeway"])?;
            truncate(&own, &arguments)?
        }
        _ => {
            arguments(&[])?;
            match name {
                "safe" => return Ok(Value::from_safe_string(own)),
                "e" | "escape" if value.is_safe() => return Ok(value.clone()),
                "e" | "escape" | "forceescape" => {
                    return Ok(Value::from_safe_string(escape(&own)));
                }
                "string" if value.is_safe() => return Ok(value.clone()),
                "capitalize" => strings::capitalize(&own),
                "lower" => own.to_lowercase(),
                "upper" => own.to_uppercase(),
                "title" => title(&own),
                "striptags" => strip_tags(&own),
                "urlencode" => url_encode(&own),
                _ => own,
            }
        }
    };
    charge(changed.len())?;
    Ok(Value::from(changed))
}

fn indent(own: &str, arguments: &Arguments) -> Result<String> {
    let width = arguments.get(0, "width").unwrap_or_else(|| Value::from(4));
    let blanks = match width.as_str() {
        Some(text) => text.to_owned(),
        None => {
            let width = super::python::index(&width)?.max(0) as usize;
            charge(width.saturating_mul(own.matches('\n').count() + 1))?;
            " ".repeat(width)
        }
    };
    let (first, blank) = (arguments.flag(1, "first"), arguments.flag(2, "blank"));
    // Ends of lines become `\n`; the last one is kept.
    let whole = format!("{own}\n");
    let lines = strings::lines(&whole, false);
    charge(lines.len().saturating_mul(blanks.len()))?;
    let mut out = String::new();
    for (at, line) in lines.iter().enumerate() {
        out.push_str(if at == 0 { "" } else { "\n" });
        let indented = if at == 0 {
            first
        } else {
            blank || !line.is_empty()
        };
        out.push_str(if indented { &blanks } else { "" });
        out.push_str(line);
    }
    Ok(out)
}

fn truncate(own: &str, arguments: &Arguments) -> Result<String> {
    let length = arguments.integer(0, "length")?.unwrap_or(255);
    let end = arguments
        .string_or_none(2, "end")?
        .unwrap_or_else(|| "...".to_owned());
    let leeway = arguments.integer(3, "leeway")?.unwrap_or(5);
    let count = |text: &str| i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    if length < count(&end) {
        return Err(error(format!(
            "truncate: the length is below that of {end:?}"
        )));
    }
    if count(own) <= length.saturating_add(leeway) {
        return Ok(own.to_owned());
    }
    let kept = usize::try_from(length - count(&end)).unwrap_or(0);
    let cut: String = own.chars().take(kept).collect();
    let cut = match arguments.flag(1, "killwords") {
        true => cut.as_str(),
        false => cut
            .rsplit_once(' ')
            .map_or(cut.as_str(), |(words, _)| words),
    };
    Ok(format!("{cut}{end}"))
}

/// Every word's first character large; words begin after blanks, hyphens and opening brackets.
fn title(own: &str) -> String {
    let mut out = String::with_capacity(own.len());
    let mut starts = true;
    for c in own.chars() {
        match starts {
            true => out.extend(c.to_uppercase()),
            false => out.extend(c.to_lowercase()),
        }
        starts = is_space(c) || "-({[<".contains(c);
    }
    out
}

/// For HTML.
pub(super) fn escape(own: &str) -> String {
    let mut out = String::with_capacity(own.len());
    for c in own.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    out
}

/// Without comments and tags of HTML, blanks run together.
fn strip_tags(own: &str) -> String {
    let kept = without(&without(own, "<!--", "-->"), "<", ">");
    let unescaped = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&#39;", "'"),
        ("&#34;", "\""),
        ("&amp;", "&"),
    ];
    let words: Vec<&str> = kept
        .split(is_space)
        .filter(|word| !word.is_empty())
        .collect();
    unescaped
        .iter()
        .fold(words.join(" "), |text, (from, to)| text.replace(from, to))
}

fn without(own: &str, open: &str, close: &str) -> String {
    let mut kept = String::new();
    let mut rest = own;
    while let Some((before, inside)) = rest.split_once(open)
        && let Some((_, after)) = inside.split_once(close)
    {
        kept.push_str(before);
        rest = after;
    }
    kept + rest
}

fn url_encode(own: &str) -> String {
    let mut out = String::new();
    for byte in own.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            byte => out += &format!("%{byte:02X}"),
        }
    }
    out
}

/// Words in a text.
pub(super) fn word_count(own: &str) -> usize {
    let word = |c: char| c == '_' || c.is_alphanumeric();
    own.split(|c: char| !word(c))
        .filter(|word| !word.is_empty())
        .count()
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
