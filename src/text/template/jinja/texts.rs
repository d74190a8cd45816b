//! Jinja2's filters that take anything as a text.

use minijinja::Value;

use super::arguments::Arguments;
use super::python::{Result, charge, error, is_space, text, tuple};
use super::{format, strings};

/// Filters that take anything as a text.
pub(super) const TEXTS: [&str; 16] = [
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

pub(super) fn of_text(value: &Value, name: &str, args: &[Value]) -> Result<Value> {
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

pub(super) fn indent(own: &str, arguments: &Arguments) -> Result<String> {
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
    let lines = super::splits::lines(&whole, false);
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

pub(super) fn truncate(own: &str, arguments: &Arguments) -> Result<String> {
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
pub(super) fn title(own: &str) -> String {
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
pub(super) fn strip_tags(own: &str) -> String {
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

pub(super) fn without(own: &str, open: &str, close: &str) -> String {
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

pub(super) fn url_encode(own: &str) -> String {
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
