//! The Jinja dialect of chat templates, as transformers sets up Jinja2 for them.

use std::fmt::Write as _;
use std::ops::Range;

use chrono::NaiveDate;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, ErrorKind, Value};

use crate::error::{Context, Error, Result};
use crate::text::json::python_json;

/// Name of the template in its environment.
pub(super) const CHAT: &str = "chat";

/// Name of the template that encloses what the assistant writes in marks.
pub(super) const MARKED: &str = "marked";

/// The filter that does it, and private characters for marks.
const MARK: &str = "mark_generated";
const OPEN: char = '\u{E0F2}';
const CLOSE: char = '\u{E0F3}';

/// An environment with the template of `source`; `origin` names it in errors.
pub(super) fn environment(origin: &str, source: &str) -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .during(|| "setting up chat templates".to_owned())?;
    environment.set_syntax(syntax);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::Bool => out
            .write_str(if value.is_true() { "True" } else { "False" })
            .map_err(minijinja::Error::from),
        ValueKind::None => out.write_str("None").map_err(minijinja::Error::from),
        _ => minijinja::escape_formatter(out, state, value),
    });
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", |message: String| -> Result<String, _> {
        Err::<String, _>(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_filter(MARK, |text: String| format!("{OPEN}{text}{CLOSE}"));
    let plain = with_generation_tags_as(source, ("if true", "endif"));
    let marks = plain.is_some();
    let mut add = |name, source: String| {
        environment
            .add_template_owned(name, source)
            .map_err(|error| {
                Error::input(origin, format!("chat template: {}", describe(&error)))
                    .remedy("expected Jinja as Hugging Face's `apply_chat_template` renders it")
            })
    };
    add(CHAT, plain.unwrap_or_else(|| source.to_owned()))?;
    if let Some(marked) =
        with_generation_tags_as(source, ("filter mark_generated", "endfilter")).filter(|_| marks)
    {
        add(MARKED, marked)?;
    }
    Ok(environment)
}

/// Sets the date that `strftime_now` returns.
pub(super) fn set_date(environment: &mut Environment<'static>, date: NaiveDate) {
    environment.add_function(
        "strftime_now",
        move |format: String| -> Result<String, minijinja::Error> {
            let mut text = String::new();
            let moment = date.and_time(chrono::NaiveTime::MIN);
            write!(text, "{}", moment.format(&format)).map_err(|_| {
                minijinja::Error::new(
                    ErrorKind::InvalidOperation,
                    format!("`{format}` is no valid format of a date"),
                )
            })?;
            Ok(text)
        },
    );
}

/// The template with other tags in place of `{% generation %}` and `{% endgeneration %}`, which
/// trim blanks as any tag does; none if it has no such tag.
fn with_generation_tags_as(source: &str, (open, close): (&str, &str)) -> Option<String> {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    let mut found = false;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let name = tag
            .trim_start_matches("{%")
            .trim_end_matches("%}")
            .trim_matches(['-', '+'])
            .trim();
        match name {
            "generation" => out.push_str(&tag.replace("generation", open)),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", close)),
            _ => out.push_str(tag),
        }
        found |= name == "generation";
        rest = after;
    }
    found.then(|| out + rest)
}

/// A text without the marks in it, and the bytes of it that they enclose; none if they do not
/// pair.
pub(super) fn unmark(marked: &str) -> Option<(String, Vec<Range<usize>>)> {
    let mut text = String::with_capacity(marked.len());
    let mut ranges = Vec::new();
    let mut open = None;
    for part in marked.split_inclusive([OPEN, CLOSE]) {
        let (part, mark) = match part.chars().last() {
            Some(mark @ (OPEN | CLOSE)) => (&part[..part.len() - mark.len_utf8()], Some(mark)),
            _ => (part, None),
        };
        text.push_str(part);
        match (mark, open) {
            (Some(OPEN), None) => open = Some(text.len()),
            (Some(CLOSE), Some(start)) => {
                ranges.push(start..text.len());
                open = None;
            }
            (None, _) => {}
            _ => return None,
        }
    }
    open.is_none().then_some((text, ranges))
}

fn to_json(value: Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    // The others of Hugging Face's filter say how it writes anyway.
    for name in ["ensure_ascii", "separators", "sort_keys"] {
        let _: Option<Value> = options.get(name)?;
    }
    options.assert_all_used()?;
    let json = serde_json::to_value(&value)
        .map_err(|error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    Ok(Value::from_safe_string(python_json(&json, indent)))
}

/// The message of a template's error, with its line, without the kind of the error.
pub(super) fn describe(error: &minijinja::Error) -> String {
    let what = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}
