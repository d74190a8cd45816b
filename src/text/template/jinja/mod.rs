//! The Jinja dialect of chat templates, as transformers sets up Jinja2 for them.
//!
//! minijinja runs the templates. What it has otherwise than Jinja2 is ours: templates are read by
//! [`source`] and [`expression`] and written anew for it, operators, methods, filters, tests and
//! functions are Python's, and values are printed as Python does. What still differs is listed in
//! the tests (`tests/chats/expressions.json`).

mod arguments;
mod checks;
mod dump;
mod expression;
mod filters;
mod format;
mod functions;
mod groups;
mod heads;
mod methods;
mod numeric;
mod objects;
mod operands;
mod operators;
mod python;
mod scan;
mod sequences;
mod slices;
mod source;
mod splits;
mod strings;
mod texts;
mod tokens;

use std::ops::Range;

use chrono::NaiveDate;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, ErrorKind, Value};

use crate::error::{Context, Error, Result};

/// Name of the template in its environment.
const CHAT: &str = "chat";

/// Name of the template that encloses what the assistant writes in marks.
const MARKED: &str = "marked";

/// Private characters for marks.
const OPEN: char = '\u{E0F2}';
const CLOSE: char = '\u{E0F3}';

/// Instructions that one rendering may take: a second or two.
const MOST_INSTRUCTIONS: u64 = 30_000_000;

/// An environment with the template of `source`; `origin` names it in errors.
pub(super) fn environment(origin: &str, source: &str) -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .keep_trailing_newline(true)
        .build()
        .during(|| "setting up chat templates".to_owned())?;
    environment.set_syntax(syntax);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(MOST_INSTRUCTIONS));
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(|out, _, value| {
        if let Some(text) = value.as_str() {
            python::charge(text.len())?;
            return Ok(out.write_str(text)?);
        }
        if value.kind() == ValueKind::Undefined {
            return Ok(());
        }
        let text = python::text(value)?;
        python::charge(text.len())?;
        Ok(out.write_str(&text)?)
    });
    operators::add_to(&mut environment);
    filters::add_to(&mut environment);
    checks::add_to(&mut environment);
    functions::add_to(&mut environment);
    environment.add_filter(source::MARK, |text: &str| format!("{OPEN}{text}{CLOSE}"));
    let invalid = |what: String| {
        Error::input(origin, format!("chat template: {what}"))
            .remedy("expected Jinja as Hugging Face's `apply_chat_template` renders it")
    };
    let source = source::read(source)
        .map_err(|fault| invalid(format!("{} (line {})", fault.what, fault.line)))?;
    let mut add = |name, source: String| {
        environment
            .add_template_owned(name, source)
            .map_err(|error| invalid(describe(&error)))
    };
    add(CHAT, source.plain)?;
    if let Some(marked) = source.marked {
        add(MARKED, marked)?;
    }
    Ok(environment)
}

/// Renders the template.
pub(super) fn render(
    environment: &Environment<'static>,
    context: impl Into<Value>,
) -> Result<String, minijinja::Error> {
    python::begin();
    environment.get_template(CHAT)?.render(context)
}

/// Renders the template with what the assistant writes in marks; none if it has no tags for it.
pub(super) fn render_marked(
    environment: &Environment<'static>,
    context: impl Into<Value>,
) -> Option<(String, Vec<Range<usize>>)> {
    python::begin();
    let marked = environment.get_template(MARKED).ok()?;
    unmark(&marked.render(context).ok()?)
}

/// Sets the date that `strftime_now` returns.
pub(super) fn set_date(environment: &mut Environment<'static>, date: NaiveDate) {
    functions::set_date(environment, date);
}
/// A text without the marks in it, and the bytes of it that they enclose; none if they do not
/// pair.
fn unmark(marked: &str) -> Option<(String, Vec<Range<usize>>)> {
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

/// The message of a template's error, with its line, without the kind of the error.
pub(super) fn describe(error: &minijinja::Error) -> String {
    let what = match error.kind() {
        ErrorKind::OutOfFuel => {
            format!("it does not end: more than {MOST_INSTRUCTIONS} instructions")
        }
        kind => error
            .detail()
            .map_or_else(|| kind.to_string(), str::to_owned),
    };
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}
