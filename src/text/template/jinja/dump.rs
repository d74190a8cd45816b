//! `tojson`, as Python's `json.dumps` writes: no escapes for HTML.

use std::fmt::Write as _;

use minijinja::Value;
use minijinja::value::ValueKind;

use super::arguments::Arguments;
use super::objects::Range;
use super::operators::compare;
use super::python::{Number, Result, charge, error, float, items, pairs, text, type_of};
use super::slices::sort_by;

/// Deepest nesting; Python's recursion ends there too.
const DEEPEST: usize = 200;

/// How `json.dumps` is asked to write.
struct Style {
    /// Blanks per level, if on several lines.
    indent: Option<String>,
    comma: String,
    colon: String,
    sorted: bool,
    ascii: bool,
}

/// The filter.
pub(super) fn to_json(value: &Value, args: &[Value]) -> Result<Value> {
    let arguments = Arguments::new(
        "tojson",
        args,
        &["ensure_ascii", "indent", "separators", "sort_keys"],
    )?;
    let indent = match arguments
        .get(1, "indent")
        .filter(|indent| !indent.is_none())
    {
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => {
                let width = super::python::index(&indent)?.clamp(0, 1000);
                " ".repeat(usize::try_from(width).unwrap_or(0))
            }
        }),
        None => None,
    };
    let separators = match arguments
        .get(2, "separators")
        .filter(|value| !value.is_none())
    {
        Some(pair) => match items(&pair)?.as_slice() {
            [comma, colon] => Some((text(comma)?, text(colon)?)),
            _ => return Err(error("tojson: separators must be two texts")),
        },
        None => None,
    };
    let (comma, colon) = separators.unwrap_or_else(|| {
        let comma = if indent.is_some() { "," } else { ", " };
        (comma.to_owned(), ": ".to_owned())
    });
    let style = Style {
        indent,
        comma,
        colon,
        sorted: arguments.flag(3, "sort_keys"),
        ascii: arguments.flag(0, "ensure_ascii"),
    };
    let mut out = String::new();
    style.write(value, 0, &mut out)?;
    charge(out.len())?;
    Ok(Value::from(out))
}

impl Style {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<()> {
        if depth > DEEPEST {
            return Err(error(format!(
                "tojson: a value nested deeper than {DEEPEST}"
            )));
        }
        match value.kind() {
            ValueKind::String => self.quote(value.as_str().unwrap_or_default(), out),
            ValueKind::Map if value.len().is_some() => {
                let mut pairs = pairs(value)?;
                if self.sorted {
                    sort_by(&mut pairs, |a, b| compare("<", &a.0, &b.0))?;
                }
                let write = |(key, value): &(Value, Value), out: &mut String| {
                    self.key(key, out)?;
                    out.push_str(&self.colon);
                    self.write(value, depth + 1, out)
                };
                self.several(("{", "}"), &pairs, depth, out, write)?;
            }
            ValueKind::Seq if value.downcast_object_ref::<Range>().is_none() => {
                let all = items(value)?;
                let write = |item: &Value, out: &mut String| self.write(item, depth + 1, out);
                self.several(("[", "]"), &all, depth, out, write)?;
            }
            _ => self.scalar(value, out)?,
        }
        Ok(())
    }

    fn several<T>(
        &self,
        (open, close): (&str, &str),
        all: &[T],
        depth: usize,
        out: &mut String,
        write: impl Fn(&T, &mut String) -> Result<()>,
    ) -> Result<()> {
        out.push_str(open);
        for (at, item) in all.iter().enumerate() {
            out.push_str(if at == 0 { "" } else { &self.comma });
            self.line(depth + 1, out);
            write(item, out)?;
        }
        if !all.is_empty() {
            self.line(depth, out);
        }
        out.push_str(close);
        charge(all.len())
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn scalar(&self, value: &Value, out: &mut String) -> Result<()> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => match Number::of(value) {
                Some(Number::Float(value)) if value.is_nan() => out.push_str("NaN"),
                Some(Number::Float(value)) if value.is_infinite() => {
                    out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
                }
                Some(Number::Float(value)) => out.push_str(&float(value)),
                _ => drop(write!(out, "{value}")),
            },
            _ => {
                let found = type_of(value);
                return Err(error(format!(
                    "tojson: object of type {found} is not JSON serializable"
                )));
            }
        }
        Ok(())
    }

    fn key(&self, key: &Value, out: &mut String) -> Result<()> {
        if let Some(key) = key.as_str() {
            self.quote(key, out);
            return Ok(());
        }
        out.push('"');
        self.scalar(key, out)?;
        out.push('"');
        Ok(())
    }

    fn quote(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' | '\\' => out.extend(['\\', c]),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                c if c < ' ' || self.ascii && !(' '..='~').contains(&c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}
