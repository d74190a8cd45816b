//! JSON as Python and pyarrow read it where serde_json does not: `NaN` and `Infinity`, and
//! nesting beyond 128 levels. No recursion, so that no input can exhaust the stack.

use std::ops::Range;

use serde_json::{Map, Value};

/// The most levels of lists and objects: what Python's `json` writes.
const MOST_LEVELS: usize = 1000;

/// What is not as it should be, and the byte at which that shows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) at: usize,
    pub(super) what: String,
}

/// A value that is not closed yet.
enum Open {
    List(Vec<Value>),
    /// What it has, and the name of the value that comes.
    Object(Map<String, Value>, String),
}

/// Reads one value. `NaN` and the infinities become null. Of a key that stands twice, the last
/// value counts.
pub(super) fn parse(text: &[u8]) -> Result<Value, Wrong> {
    let mut parser = Parser { text, at: 0 };
    let mut open: Vec<Open> = Vec::new();
    loop {
        let mut value = match parser.peek() {
            Some(b'{') => {
                parser.at += 1;
                if parser.peek() != Some(b'}') {
                    let key = parser.key()?;
                    parser.open(&mut open, Open::Object(Map::new(), key))?;
                    continue;
                }
                parser.at += 1;
                Value::Object(Map::new())
            }
            Some(b'[') => {
                parser.at += 1;
                if parser.peek() != Some(b']') {
                    parser.open(&mut open, Open::List(Vec::new()))?;
                    continue;
                }
                parser.at += 1;
                Value::Array(Vec::new())
            }
            _ => parser.scalar()?,
        };
        // The value may be the last of what holds it, and so on outwards.
        loop {
            let next = parser.peek();
            let Some(holder) = open.last_mut() else {
                return match next {
                    None => Ok(value),
                    Some(_) => Err(parser.wrong("expected nothing more")),
                };
            };
            parser.at += 1;
            match holder {
                Open::List(items) => {
                    items.push(value);
                    match next {
                        Some(b',') => break,
                        Some(b']') => value = Value::Array(std::mem::take(items)),
                        _ => return Err(parser.wrong_before("expected `,` or `]`")),
                    }
                }
                Open::Object(fields, key) => {
                    fields.insert(std::mem::take(key), value);
                    match next {
                        Some(b',') => {
                            *key = parser.key()?;
                            break;
                        }
                        Some(b'}') => value = Value::Object(std::mem::take(fields)),
                        _ => return Err(parser.wrong_before("expected `,` or `}`")),
                    }
                }
            }
            open.pop();
        }
    }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    /// The next byte that is no blank.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match self.text.get(self.at) {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                other => return other.copied(),
            }
        }
    }

    fn wrong(&self, what: impl Into<String>) -> Wrong {
        Wrong {
            at: self.at,
            what: what.into(),
        }
    }

    fn wrong_before(&mut self, what: &str) -> Wrong {
        self.at -= 1;
        self.wrong(what)
    }

    fn open(&self, open: &mut Vec<Open>, value: Open) -> Result<(), Wrong> {
        if open.len() >= MOST_LEVELS {
            return Err(self.wrong(format!(
                "lists and objects nested more than {MOST_LEVELS} deep"
            )));
        }
        open.push(value);
        Ok(())
    }

    /// The name of a field, and the colon after it.
    fn key(&mut self) -> Result<String, Wrong> {
        if self.peek() != Some(b'"') {
            return Err(self.wrong("expected a name in quotation marks"));
        }
        let key = self.scalar()?;
        if self.peek() != Some(b':') {
            return Err(self.wrong("expected `:`"));
        }
        self.at += 1;
        match key {
            Value::String(key) => Ok(key),
            _ => Err(self.wrong("expected a name")),
        }
    }

    /// A text, a number, or a word.
    fn scalar(&mut self) -> Result<Value, Wrong> {
        let rest = &self.text[self.at..];
        let length = match rest.first() {
            None => return Err(self.wrong("expected a value, found the end")),
            Some(b'"') => string(rest),
            Some(_) => {
                let ends = |byte: &u8| {
                    matches!(byte, b',' | b']' | b'}' | b':' | b'"') || byte.is_ascii_whitespace()
                };
                rest.iter().position(ends).unwrap_or(rest.len())
            }
        };
        let text = &rest[..length];
        let value = match text {
            b"NaN" | b"Infinity" | b"-Infinity" => Value::Null,
            _ => serde_json::from_slice(text).map_err(|error| {
                let problem = error.to_string();
                self.wrong(problem.split(" at line ").next().unwrap_or_default())
            })?,
        };
        self.at += length;
        Ok(value)
    }
}

/// The length of the string that a text begins with, quotation marks included.
fn string(text: &[u8]) -> usize {
    let mut at = 1;
    loop {
        match text.get(at) {
            None => return text.len(),
            Some(b'"') => return at + 1,
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
        }
    }
}

/// Where the items of a JSON array are. What is in them is not looked at, but for brackets.
pub(super) fn items(text: &[u8]) -> Result<Vec<Range<usize>>, Wrong> {
    let wrong = |at, what: &str| Wrong {
        at,
        what: what.to_owned(),
    };
    let mut items = Vec::new();
    let (mut at, mut depth) = (0, 0_usize);
    let mut start = 0;
    let blank = |range: &Range<usize>| text[range.clone()].iter().all(u8::is_ascii_whitespace);
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => {
                at = (at + string(&text[at..])).min(text.len());
                continue;
            }
            b'[' | b'{' => {
                depth += 1;
                if depth == 1 {
                    start = at + 1;
                }
            }
            b']' | b'}' => {
                depth = depth
                    .checked_sub(1)
                    .ok_or_else(|| wrong(at, "expected a value"))?;
            }
            _ => {}
        }
        let ends = depth == 0 && matches!(byte, b']' | b'}');
        if ends || (depth == 1 && *byte == b',') {
            let item = start..at;
            start = at + 1;
            match blank(&item) {
                false => items.push(item),
                // `[]`
                true if ends && items.is_empty() => {}
                true => return Err(wrong(at, "expected a value")),
            }
        }
        at += 1;
        if ends {
            return match blank(&(at..text.len())) {
                true => Ok(items),
                false => Err(wrong(at, "expected nothing after the array")),
            };
        }
    }
    Err(wrong(text.len(), "the array has no end"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_serde_reads_is_read_alike() {
        for text in [
            "{}",
            "[]",
            " {\"a\": [1, -2.5e3, true, null, \"x\\\"\\u00e9]\"], \"b\": {\"c\": []}, \"\": 1} ",
            "[[[]], {}, {\"a\": {}}]",
            "\"x\"",
            "12345678901234567890",
            "{\"a\": 1, \"b\": 2, \"a\": 3}",
        ] {
            let expected: Value = serde_json::from_str(text).unwrap();
            assert_eq!(parse(text.as_bytes()).unwrap(), expected, "{text}");
        }
        for text in [
            "",
            "{",
            "[",
            "[1",
            "[1,",
            "[1,]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\": 1,}",
            "{1: 2}",
            "[1 2]",
            "\"x",
            "\"\\",
            "nan",
            "--1",
            "1 2",
            "[}",
            "{]",
            "{\"a\": 1]",
            "[NaNs]",
            "\"\n\"",
            ",",
            ":",
            "[\"\\ud800\"]",
            "[1\"x\"]",
        ] {
            assert!(serde_json::from_str::<Value>(text).is_err(), "{text}");
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn what_python_writes_is_read() {
        assert_eq!(
            parse(b"{\"a\": NaN, \"b\": [-Infinity, Infinity, \"NaN\"]}").unwrap(),
            json!({"a": null, "b": [null, null, "NaN"]})
        );
        let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(nested(MOST_LEVELS).as_bytes()).is_ok());
        let error = parse(nested(MOST_LEVELS + 1).as_bytes()).unwrap_err();
        assert!(error.what.contains("1000 deep"), "{error:?}");
        assert!(parse("{\"a\":".repeat(1_000_000).as_bytes()).is_err());
    }

    #[test]
    fn arrays_are_cut_into_their_items() {
        let cut = |text: &str| -> Result<Vec<String>, Wrong> {
            let items = items(text.as_bytes())?.into_iter();
            Ok(items.map(|item| text[item].trim().to_owned()).collect())
        };
        assert_eq!(cut("[]").unwrap(), [""; 0]);
        assert_eq!(cut(" [ ] \n").unwrap(), [""; 0]);
        let text = "[{\"a\": [1, 2]}, \"],[\\\"\" , 3\n]";
        assert_eq!(cut(text).unwrap(), ["{\"a\": [1, 2]}", "\"],[\\\"\"", "3"]);
        for text in [
            "[1",
            "[1,]",
            "[,1]",
            "[1]]",
            "[1] x",
            "[{\"a\": \"]",
            "]",
            "[\"\\",
        ] {
            assert!(cut(text).is_err(), "{text}");
        }
    }
}
