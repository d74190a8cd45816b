//! JSON whose numbers keep their spelling when a file is edited: those that are printed in another
//! way than they are written (`1e-05`, whole numbers beyond 64 bits).

use std::collections::HashMap;
use std::io;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// A value as indented text that ends its line, with the numbers of `original` as they are
/// written there.
pub(super) fn print_like(original: &str, value: &Value) -> String {
    let formatter = Spelling {
        numbers: spellings(original),
        pretty: PrettyFormatter::new(),
    };
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut out, formatter);
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8_lossy(&out).into_owned() + "\n",
        // Values of JSON cannot fail.
        Err(_) => format!("{value:#}\n"),
    }
}

/// The numbers of a JSON text that would be printed otherwise, by the bits of their values.
fn spellings(text: &str) -> HashMap<u64, String> {
    let mut found = HashMap::new();
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit()) {
        rest = &rest[at..];
        if let Some(inside) = rest.strip_prefix('"') {
            rest = after_string(inside);
            continue;
        }
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.');
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        rest = after;
        if let Ok(Value::Number(read)) = serde_json::from_str(number)
            && read.is_f64()
            && read.to_string() != number
            && let Some(value) = read.as_f64()
        {
            found.entry(value.to_bits()).or_insert(number.to_owned());
        }
    }
    found
}

/// What follows a string of which the first quotation mark is read.
fn after_string(text: &str) -> &str {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return &text[at + 1..],
            _ => {}
        }
    }
    ""
}

/// Prints as [`PrettyFormatter`] does, but for some numbers.
struct Spelling<'a> {
    numbers: HashMap<u64, String>,
    pretty: PrettyFormatter<'a>,
}

impl Formatter for Spelling<'_> {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        match self.numbers.get(&value.to_bits()) {
            Some(spelling) => writer.write_all(spelling.as_bytes()),
            None => self.pretty.write_f64(writer, value),
        }
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.pretty.begin_array(writer)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.pretty.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.pretty.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.pretty.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.pretty.begin_object(writer)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.pretty.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.pretty.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.pretty.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.pretty.end_object_value(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_spelling() {
        let text = r#"{
  "model_max_length": 1000000000000000019884624838656,
  "a": "1e-05 \" 1e-05",
  "eps": 1e-05,
  "more": [1.0, 1E5, -2.50, 7, {}, []],
  "gone": "x"
}
"#;
        let mut value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(
            print_like(text, &value),
            text.replace(
                "[1.0, 1E5, -2.50, 7, {}, []]",
                "[\n    1.0,\n    1E5,\n    -2.50,\n    7,\n    {},\n    []\n  ]"
            )
        );
        value.as_object_mut().unwrap().shift_remove("gone");
        value["new"] = 0.5.into();
        let printed = print_like(text, &value);
        assert!(
            printed.contains("1000000000000000019884624838656"),
            "{printed}"
        );
        assert!(printed.contains("\"new\": 0.5"), "{printed}");
        assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), value);
        // Broken texts do no harm.
        for text in ["\"", "\"\\", "-", "1e", "[1, 2"] {
            print_like(text, &value);
        }
    }
}
