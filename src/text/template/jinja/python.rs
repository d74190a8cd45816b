//! Values as Python sees them: white space, truth, numbers, `str` and `repr`.

use std::cell::Cell;
use std::fmt::Write as _;
use std::sync::PoisonError;

use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::objects::{Generator, Method, Range, View};

pub(super) type Result<T> = std::result::Result<T, Error>;

/// Bytes of text that one rendering may build in all: templates double texts in loops.
const MOST_BYTES: usize = 1 << 29;

/// Deepest nesting of values that are printed or compared.
const DEEPEST: usize = 100;

thread_local! {
    /// Bytes that the rendering under way on this thread has built.
    static BUILT: Cell<usize> = const { Cell::new(0) };
    /// Whether a namespace was put into a list or a dictionary.
    static HELD: Cell<bool> = const { Cell::new(false) };
}

/// A rendering begins.
pub(super) fn begin() {
    BUILT.set(0);
    HELD.set(false);
}

/// Counts text that is about to be built, and other work by what it is worth in bytes.
pub(super) fn charge(bytes: usize) -> Result<()> {
    let built = BUILT.get().saturating_add(bytes);
    BUILT.set(built);
    match built > MOST_BYTES {
        true => Err(error(format!(
            "it builds or looks through too much text: more than {MOST_BYTES} bytes"
        ))),
        false => Ok(()),
    }
}

/// An error of a template.
pub(super) fn error(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// White space as Python's `str` has it.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// A number; `True` and `False` are 1 and 0.
#[derive(Clone, Copy)]
pub(super) enum Number {
    Integer(i128),
    Float(f64),
}

impl Number {
    pub(super) fn of(value: &Value) -> Option<Self> {
        match value.kind() {
            ValueKind::Bool => Some(Self::Integer(i128::from(value.is_true()))),
            ValueKind::Number if value.is_integer() => {
                i128::try_from(value.clone()).ok().map(Self::Integer)
            }
            ValueKind::Number => f64::try_from(value.clone()).ok().map(Self::Float),
            _ => None,
        }
    }

    pub(super) fn float(self) -> f64 {
        match self {
            Self::Integer(value) => value as f64,
            Self::Float(value) => value,
        }
    }
}

/// An integer as a value.
pub(super) fn integer(value: i128) -> Value {
    i64::try_from(value).map_or_else(|_| Value::from(value), Value::from)
}

/// An index or a count.
pub(super) fn index(value: &Value) -> Result<i64> {
    match Number::of(value) {
        Some(Number::Integer(value)) => {
            Ok(value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64)
        }
        _ => Err(error(format!(
            "expected an integer, found {}",
            type_of(value)
        ))),
    }
}

/// Python's name of a value's type.
pub(super) fn type_of(value: &Value) -> &'static str {
    match value.kind() {
        ValueKind::Undefined => "Undefined",
        ValueKind::None => "NoneType",
        ValueKind::Bool => "bool",
        ValueKind::Number if value.is_integer() => "int",
        ValueKind::Number => "float",
        ValueKind::String => "str",
        ValueKind::Map => "dict",
        ValueKind::Seq if value.is_tuple() => "tuple",
        ValueKind::Seq if value.downcast_object_ref::<Range>().is_some() => "range",
        ValueKind::Seq => "list",
        ValueKind::Iterable => "generator",
        _ => "object",
    }
}

/// The items of a value in a loop: characters, keys, or items.
pub(super) fn items(value: &Value) -> Result<Vec<Value>> {
    let len = value.as_str().map(str::len).or_else(|| value.len());
    charge(len.unwrap_or(0).saturating_mul(size_of::<Value>()))?;
    match value.kind() {
        ValueKind::Undefined => Ok(Vec::new()),
        ValueKind::String => Ok(characters(value.as_str().unwrap_or_default())),
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
            value.try_iter()?.checked().collect()
        }
        _ => Err(error(format!(
            "'{}' object is not iterable",
            type_of(value)
        ))),
    }
}

/// Whether a value is a `namespace(..)`.
pub(super) fn is_namespace(value: &Value) -> bool {
    let object = value.as_object();
    object.is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

/// Refuses values that are nested deep, since what compares or drops them would overflow the stack.
/// With `spaces` namespaces in them are refused as well.
fn bounded_in(value: &Value, spaces: bool, depth: usize) -> Result<()> {
    let Some(object) = value.as_object() else {
        return Ok(());
    };
    if depth > DEEPEST {
        return Err(error(format!("a value nested deeper than {DEEPEST}")));
    }
    charge(128)?;
    if is_namespace(value) {
        HELD.set(true);
        return match spaces {
            true => Err(error("a namespace inside of a namespace is not supported")),
            false => Ok(()),
        };
    }
    if let Some(method) = value.downcast_object_ref::<Method>() {
        return bounded_in(&method.value, spaces, depth + 1);
    }
    match value.kind() {
        ValueKind::Map => {
            let mut pairs = object.try_iter_pairs().into_iter().flatten();
            pairs.try_for_each(|(_, value)| bounded_in(&value, spaces, depth + 1))
        }
        _ if value.downcast_object_ref::<Range>().is_some() => Ok(()),
        ValueKind::Seq | ValueKind::Iterable => match value.downcast_object_ref::<Generator>() {
            Some(generator) => {
                let rest = generator.0.lock().unwrap_or_else(PoisonError::into_inner);
                rest.as_slice()
                    .iter()
                    .try_for_each(|value| bounded_in(value, spaces, depth + 1))
            }
            None => {
                let mut items = object.try_iter().into_iter().flatten();
                items.try_for_each(|value| bounded_in(&value, spaces, depth + 1))
            }
        },
        _ => Ok(()),
    }
}

/// Refuses values that are nested deep, since what compares or drops them would overflow the stack.
pub(super) fn bounded(value: &Value) -> Result<()> {
    bounded_in(value, false, 0)
}

/// A value for an attribute of a namespace: none that has a namespace in it, or one could hold
/// itself. It is looked for only where a list or a dictionary was given one.
pub(super) fn keep(value: Value) -> Result<Value> {
    let held = HELD.get() && value.as_object().is_some();
    match held || is_namespace(&value) || value.downcast_object_ref::<Method>().is_some() {
        true => bounded_in(&value, true, 0).map(|()| value),
        false => Ok(value),
    }
}

/// Whether two values are equal.
pub(super) fn equal(a: &Value, b: &Value) -> Result<bool> {
    if a.as_object().is_some() && b.as_object().is_some() {
        charge(8)?;
        if !is_namespace(a) {
            bounded(a)?;
        }
    }
    Ok(a == b)
}

/// The characters of a text.
pub(super) fn characters(text: &str) -> Vec<Value> {
    let mut buffer = [0; 4];
    let character = |c: char| Value::from(&*c.encode_utf8(&mut buffer));
    text.chars().map(character).collect()
}

/// The key of a dictionary and its value, in order.
pub(super) fn pairs(value: &Value) -> Result<Vec<(Value, Value)>> {
    let object = value.as_object().filter(|_| value.kind() == ValueKind::Map);
    let object =
        object.ok_or_else(|| error(format!("expected a dict, found {}", type_of(value))))?;
    Ok(object.try_iter_pairs().into_iter().flatten().collect())
}

/// Python's `str`; a value that is not there is empty.
pub(super) fn text(value: &Value) -> Result<String> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => {
            let mut out = String::new();
            print(value, &mut out)?;
            Ok(out)
        }
    }
}

/// Writes a value as Python prints it.
pub(super) fn print(value: &Value, out: &mut String) -> Result<()> {
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::String => out.push_str(value.as_str().unwrap_or_default()),
        _ => repr(value, out, 0)?,
    }
    Ok(())
}

/// Writes a value as Python's `repr` does.
pub(super) fn repr(value: &Value, out: &mut String, depth: usize) -> Result<()> {
    if depth > DEEPEST {
        return Err(error(format!("a value nested deeper than {DEEPEST}")));
    }
    charge(32 + value.as_str().map_or(0, str::len))?;
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => match Number::of(value) {
            Some(Number::Float(value)) => out.push_str(&float(value)),
            _ => drop(write!(out, "{value}")),
        },
        ValueKind::String => quote(value.as_str().unwrap_or_default(), out),
        ValueKind::Map
            if value
                .as_object()
                .is_some_and(|object| object.enumerator_len().is_some()) =>
        {
            out.push('{');
            for (i, (key, value)) in pairs(value)?.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                repr(key, out, depth + 1)?;
                out.push_str(": ");
                repr(value, out, depth + 1)?;
            }
            out.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => sequence(value, out, depth)?,
        _ => drop(write!(out, "{value}")),
    }
    Ok(())
}

fn sequence(value: &Value, out: &mut String, depth: usize) -> Result<()> {
    if let Some(range) = value.downcast_object_ref::<Range>() {
        out.push_str(&range.to_string());
        return Ok(());
    }
    if value.downcast_object_ref::<Generator>().is_some() {
        out.push_str("<generator object>");
        return Ok(());
    }
    let view = value.downcast_object_ref::<View>();
    let (open, close) = match view {
        Some(_) => ("([", "])"),
        None if value.is_tuple() => ("(", ")"),
        None => ("[", "]"),
    };
    out.push_str(view.map_or("", |view| view.name));
    out.push_str(open);
    let items = items(value)?;
    for (i, item) in items.iter().enumerate() {
        out.push_str(if i == 0 { "" } else { ", " });
        repr(item, out, depth + 1)?;
    }
    if value.is_tuple() && items.len() == 1 {
        out.push(',');
    }
    out.push_str(close);
    Ok(())
}

/// A text in the quotes that Python chooses.
pub(super) fn quote(text: &str, out: &mut String) {
    let quote = match text.contains('\'') && !text.contains('"') {
        true => '"',
        false => '\'',
    };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c if u32::from(c) < 0x100 => drop(write!(out, "\\x{:02x}", u32::from(c))),
            c if u32::from(c) < 0x1_0000 => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => drop(write!(out, "\\U{:08x}", u32::from(c))),
        }
    }
    out.push(quote);
}

/// Whether Python shows a character in a `repr`.
pub(super) fn is_printable(c: char) -> bool {
    match c {
        ' ' => true,
        c if c.is_ascii() => !c.is_ascii_control(),
        // Format characters, which Rust counts as graphic where they join others.
        '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' => false,
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => false,
        '\u{e000}'..='\u{f8ff}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' => false,
        '\u{f0000}'.. => false,
        c if is_space(c) || c.is_control() => false,
        // Rust escapes what is unassigned; combining marks it escapes too, which Python shows.
        c => c.is_alphanumeric() || !c.escape_debug().to_string().starts_with("\\u{") || is_mark(c),
    }
}

/// Combining marks, in the ranges where Rust would escape them.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{591}'..='\u{5c7}'
        | '\u{610}'..='\u{61a}' | '\u{64b}'..='\u{65f}' | '\u{900}'..='\u{dff}'
        | '\u{e31}'..='\u{ecd}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}'
        | '\u{20d0}'..='\u{20f0}' | '\u{3099}' | '\u{309a}' | '\u{fe00}'..='\u{fe0f}'
        | '\u{fe20}'..='\u{fe2f}')
}

/// A float as Python writes it: `1.0`, `1e+22`, `1e-07`, `inf`.
pub(super) fn float(value: f64) -> String {
    if !value.is_finite() {
        return match value {
            value if value.is_nan() => "nan",
            value if value > 0.0 => "inf",
            _ => "-inf",
        }
        .to_owned();
    }
    crate::text::json::float(value)
}

/// A tuple.
pub(super) fn tuple(items: Vec<Value>) -> Value {
    Value::from(Tuple::from(items))
}
