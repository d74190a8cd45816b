//! YAML as Python's PyYAML reads it, for the files of other programs, and YAML 1.2 for our own.
//!
//! PyYAML's is YAML 1.1: `yes` and `off` are flags, `010` is eight, `1e-1` is text, of a key that is
//! given twice the last value counts. In YAML 1.2 `yes` is text, `010` is ten, `1e-1` a number; a key
//! that is given twice is a mistake. `<<` merges mappings in both.
//!
//! Memory: the document with its aliases written out, of at most [`MOST`] values.

mod scalar;

use std::collections::HashMap;
use std::str::FromStr;

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};
use serde_json::{Map, Number, Value};

use self::scalar::{core, flag, integer, resolve};
use crate::error::{Error, Result};

/// Values that a document may have after its aliases are written out.
const MOST: usize = 1 << 20;

/// Reads a document. Numbers that are not finite stay text.
///
/// # Errors
///
/// Broken YAML, more than one document, tags and keys that are no plain values, aliases of
/// what they stand in, too many values; the line is named.
pub fn read_yaml(text: &str) -> Result<Value> {
    Reader::default().read(text)
}

/// Reads a document of ours, which is YAML 1.2, with the lines of all that is in it.
///
/// # Errors
/// Those of [`read_yaml`], and a key that is given twice.
pub fn read_located(text: &str) -> Result<(Value, Lines)> {
    let mut reader = Reader {
        lines: Some(Lines::default()),
        ..Reader::default()
    };
    let value = reader.read(text)?;
    Ok((value, reader.lines.unwrap_or_default()))
}

/// On which lines the values of a document begin, by their paths: `sources[0].dtype`.
#[derive(Clone, Debug, Default)]
pub struct Lines(HashMap<String, usize>);

impl Lines {
    /// The line, from 1, of the key or list entry with this path; else of what it would be in.
    pub fn of(&self, path: &str) -> Option<usize> {
        let mut path = path;
        loop {
            if let Some(line) = self.0.get(path) {
                return Some(*line);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }
}

/// What is read so far.
#[derive(Default)]
struct Reader {
    /// Where things are, for documents of ours.
    lines: Option<Lines>,
    root: Option<Value>,
    open: Vec<Open>,
    /// Values with an anchor, and how many values each of them is.
    anchors: HashMap<usize, (Value, usize)>,
    documents: usize,
    /// Values read.
    count: usize,
}

/// A list or mapping that is not at its end.
struct Open {
    /// Where it is, and where in it the next value is.
    path: String,
    next: String,
    anchor: usize,
    /// Values read before it.
    before: usize,
    holds: Holds,
}

enum Holds {
    List(Vec<Value>),
    Mapping(Pairs),
}

#[derive(Default)]
struct Pairs {
    own: Map<String, Value>,
    /// What `<<` brings.
    merged: Map<String, Value>,
    key: Option<Key>,
}

enum Key {
    Own(String),
    Merge,
}

fn wrong(span: &Span, problem: &str) -> Error {
    Error::usage(format!("line {}: {problem}", span.start.line()))
}

impl Reader {
    fn read(&mut self, text: &str) -> Result<Value> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| Error::usage(error.to_string()))?;
            self.event(event, &span)?;
        }
        Ok(self.root.take().unwrap_or(Value::Null))
    }

    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<()> {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                match self.documents {
                    1 => Ok(()),
                    _ => Err(wrong(span, "a second document begins, expected one")),
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                if self.wants_key() {
                    let merges = plain && text == "<<" && tag.is_none();
                    self.anchored(anchor, || (Value::String(text.to_string()), 1));
                    let key = match merges {
                        true => Key::Merge,
                        false => Key::Own(text.into()),
                    };
                    return self.key(key, span);
                }
                let resolve = match self.lines {
                    Some(_) => core,
                    None => resolve,
                };
                let value = scalar(&text, plain, tag.as_deref(), resolve, span)?;
                self.anchored(anchor, || (value.clone(), 1));
                self.entry(span);
                self.put(value, 1, span)
            }
            Event::SequenceStart(_, anchor, tag) => {
                only(tag.as_deref(), "seq", span)?;
                self.begin(anchor, Holds::List(Vec::new()), span)
            }
            Event::MappingStart(_, anchor, tag) => {
                only(tag.as_deref(), "map", span)?;
                self.begin(anchor, Holds::Mapping(Pairs::default()), span)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span),
            Event::Alias(anchor) => {
                let found = self.anchors.get(&anchor).cloned();
                let (value, size) = found
                    .ok_or_else(|| wrong(span, "an alias stands within what it stands for"))?;
                if self.wants_key() {
                    let Value::String(key) = value else {
                        return Err(wrong(span, "an alias that is no text cannot be a key"));
                    };
                    return self.key(Key::Own(key), span);
                }
                self.put(value, size, span)
            }
            _ => Ok(()),
        }
    }

    fn anchored(&mut self, anchor: usize, value: impl FnOnce() -> (Value, usize)) {
        if anchor > 0 {
            self.anchors.insert(anchor, value());
        }
    }

    fn wants_key(&self) -> bool {
        let last = self.open.last().map(|open| &open.holds);
        matches!(last, Some(Holds::Mapping(pairs)) if pairs.key.is_none())
    }

    fn key(&mut self, key: Key, span: &Span) -> Result<()> {
        let Some(open) = self.open.last_mut() else {
            return Ok(());
        };
        let Holds::Mapping(pairs) = &mut open.holds else {
            return Ok(());
        };
        if let (Key::Own(name), Some(lines)) = (&key, &mut self.lines) {
            let dot = if open.path.is_empty() { "" } else { "." };
            open.next = format!("{}{dot}{name}", open.path);
            let line = span.start.line();
            if let Some(first) = lines.0.insert(open.next.clone(), line)
                && pairs.own.contains_key(name)
            {
                let problem = format!("`{name}` is given twice, first on line {first}");
                return Err(wrong(span, &problem));
            }
        }
        pairs.key = Some(key);
        Ok(())
    }

    /// Notes where the value begins that comes next in a list.
    fn entry(&mut self, span: &Span) {
        if let (Some(lines), Some(open)) = (&mut self.lines, self.open.last_mut())
            && let Holds::List(values) = &open.holds
        {
            open.next = format!("{}[{}]", open.path, values.len());
            lines.0.insert(open.next.clone(), span.start.line());
        }
    }

    fn begin(&mut self, anchor: usize, holds: Holds, span: &Span) -> Result<()> {
        if self.wants_key() {
            return Err(wrong(span, "a list or mapping cannot be a key"));
        }
        self.entry(span);
        let path = self.open.last().map_or(String::new(), |o| o.next.clone());
        self.open.push(Open {
            path,
            next: String::new(),
            anchor,
            before: self.count,
            holds,
        });
        Ok(())
    }

    fn end(&mut self, span: &Span) -> Result<()> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let value = match open.holds {
            Holds::List(values) => Value::Array(values),
            Holds::Mapping(Pairs {
                own, mut merged, ..
            }) => {
                merged.extend(own);
                Value::Object(merged)
            }
        };
        let size = self.count - open.before + 1;
        self.anchored(open.anchor, || (value.clone(), size));
        self.put(value, 1, span)
    }

    /// Puts a value of `size` values that were not counted yet where it belongs.
    fn put(&mut self, value: Value, size: usize, span: &Span) -> Result<()> {
        self.count += size;
        if self.count > MOST {
            return Err(wrong(
                span,
                "more than 1,048,576 values, aliases written out",
            ));
        }
        match self.open.last_mut().map(|open| &mut open.holds) {
            None => self.root = Some(value),
            Some(Holds::List(values)) => values.push(value),
            Some(Holds::Mapping(pairs)) => match pairs.key.take() {
                Some(Key::Own(key)) => {
                    pairs.own.insert(key, value);
                }
                _ => merge(&mut pairs.merged, value)
                    .ok_or_else(|| wrong(span, "`<<` wants a mapping or a list of mappings"))?,
            },
        }
        Ok(())
    }
}

/// Adds what `<<` brings: of several mappings the first one counts.
fn merge(into: &mut Map<String, Value>, value: Value) -> Option<()> {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                into.entry(key).or_insert(value);
            }
            Some(())
        }
        Value::Array(values) => values.into_iter().try_for_each(|value| match value {
            Value::Object(_) => merge(into, value),
            _ => None,
        }),
        _ => None,
    }
}

/// Fails where a list or mapping has another tag than its own.
fn only(tag: Option<&Tag>, name: &str, span: &Span) -> Result<()> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema_tag(name) && !is_bare(tag) => Err(unknown(tag, span)),
        _ => Ok(()),
    }
}

/// Whether a tag is `!` alone, which says nothing.
fn is_bare(tag: &Tag) -> bool {
    format!("{}{}", tag.handle(), tag.suffix()) == "!"
}

fn unknown(tag: &Tag, span: &Span) -> Error {
    let (handle, suffix) = tag.original_parts();
    wrong(span, &format!("the tag `{handle}{suffix}` is not known"))
        .remedy("remove it; values are plain texts, numbers and flags")
}

/// The value of a scalar; `resolve` says what a plain one is.
fn scalar(
    text: &str,
    plain: bool,
    tag: Option<&Tag>,
    resolve: fn(&str) -> Value,
    span: &Span,
) -> Result<Value> {
    let text_value = || Value::String(text.to_owned());
    let Some(tag) = tag.filter(|tag| !is_bare(tag)) else {
        return Ok(if plain { resolve(text) } else { text_value() });
    };
    let read = match tag.core_suffix() {
        Some("str") => Some(text_value()),
        Some("null") => Some(Value::Null),
        Some("bool") => flag(&text.to_lowercase()).map(Value::Bool),
        Some("int") => integer(text).map(Value::Number),
        Some("float") => f64::from_str(&text.replace('_', ""))
            .ok()
            .map(|number| Number::from_f64(number).map_or_else(text_value, Value::Number)),
        _ => return Err(unknown(tag, span)),
    };
    read.ok_or_else(|| wrong(span, &format!("`{text}` is not what its tag says")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What `yaml.safe_load` of PyYAML 6 gives.
    #[test]
    fn values_are_pyyamls() {
        for (text, value) in [
            (
                "a: yes\nb: Off\nc: TRUE\nd: y\ne: nO",
                json!({"a": true, "b": false, "c": true, "d": "y", "e": "nO"}),
            ),
            (
                "[010, 0x1F, 0b11, 1_000, 0o10, 08, 1:30, -1:30, 0]",
                json!([8, 31, 3, 1000, "0o10", "08", 90, -90, 0]),
            ),
            (
                "[1e-1, 1.0e-1, 1.5e3, .5, -.5, 1., +1.5, 1_0.5, 5E-1]",
                json!(["1e-1", 0.1, "1.5e3", 0.5, "-.5", 1.0, 1.5, 10.5, "5E-1"]),
            ),
            (
                "[~, null, Null, NULL, nULL, '']",
                json!([null, null, null, null, "nULL", ""]),
            ),
            (
                "[1:60, 0:30, 1_0:30, 1:2:3, 0_1, 1__0, 0_8, +5, 00, 0xg]",
                json!(["1:60", "0:30", 630, 3723, 1, 10, "0_8", 5, 0, "0xg"]),
            ),
            ("a:\nb: ", json!({"a": null, "b": null})),
            (
                "[.inf, -.inf, .nan, 1e400]",
                json!([".inf", "-.inf", ".nan", "1e400"]),
            ),
            (
                "[18446744073709551615, 18446744073709551616, -5]",
                json!([u64::MAX, 18446744073709551616.0, -5]),
            ),
            (
                "['yes', \"1\", !!str 1, !!float 1, !!int '3', !!bool Yes, ! 5]",
                json!(["yes", "1", "1", 1.0, 3, true, 5]),
            ),
            ("\u{feff}a: 1\r\nb: 2\r\n", json!({"a": 1, "b": 2})),
            ("# c\n---\na: 1\n...\n", json!({"a": 1})),
            ("a: 1\nb: 2\na: 3", json!({"a": 3, "b": 2})),
            ("a: &x 1\nb: &x 2\nc: *x", json!({"a": 1, "b": 2, "c": 2})),
            (
                "a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\nc: {q: 3, <<: *x}",
                json!({"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 3}, "c": {"p": 1, "q": 3}}),
            ),
            (
                "a: &x {p: 1}\nb: &y {p: 2, r: 1}\nc: {<<: [*x, *y]}\nd: {<<: *x, <<: *y}",
                json!({"a": {"p": 1}, "b": {"p": 2, "r": 1}, "c": {"p": 1, "r": 1}, "d": {"p": 1, "r": 1}}),
            ),
            ("&k a: 1\nb: *k\n*k : 2", json!({"a": 2, "b": "a"})),
            ("1: a\nyes: b", json!({"1": "a", "yes": "b"})),
            (
                "a: |\n  x\n  y\nb: >\n  x\n  y\n",
                json!({"a": "x\ny\n", "b": "x y\n"}),
            ),
            ("", json!(null)),
        ] {
            let found = read_yaml(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(found, value, "{text}");
        }
    }

    #[test]
    fn our_own_documents_are_yaml_1_2_with_lines() {
        let text = "a: 1e-4\nb: [yes, 010, 0o10, {c: .5, d: +1}]\ne:\n  f: &x {g: true}\n  h: *x\n  i: {<<: *x}\n";
        let (value, lines) = read_located(text).unwrap();
        assert_eq!(
            value,
            json!({
                "a": 1e-4, "b": ["yes", 10, 8, {"c": 0.5, "d": 1}],
                "e": {"f": {"g": true}, "h": {"g": true}, "i": {"g": true}}
            })
        );
        let of = |path| lines.of(path);
        assert_eq!(
            (of("a"), of("b[3].d"), of("b[0]")),
            (Some(1), Some(2), Some(2))
        );
        assert_eq!(
            (of("e.f.g"), of("e.h.g"), of("e.x")),
            (Some(4), Some(5), Some(3))
        );
        assert_eq!(of("z"), None);
        let error = read_located("a:\n  b: 1\n  c: 2\n  b: 3\n").unwrap_err();
        let text = error.to_string();
        assert_eq!(text, "line 4: `b` is given twice, first on line 2");
        assert!(read_located("a: {b: 1}\nc: {b: 1}\n").is_ok());
    }

    #[test]
    fn what_is_no_document_is_refused_with_its_line() {
        for (text, part) in [
            ("a: 1\n---\nb: 2", "line 2"),
            ("a: [", "line"),
            ("a: 1\nb: !python/tuple [1]", "`!python/tuple`"),
            ("a: !!timestamp 2001-01-01", "not known"),
            ("a: !!int x", "`x` is not"),
            ("? [a]\n: b", "cannot be a key"),
            ("a: &x [*x]", "within"),
            ("a: *y", "line 1"),
            ("a: {<<: 3}", "`<<` wants"),
        ] {
            let error = read_yaml(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
