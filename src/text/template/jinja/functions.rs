//! What templates can call: Jinja2's globals, and transformers' two.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use chrono::NaiveDate;
use minijinja::value::{Kwargs, Object, ObjectRepr, ValueKind};
use minijinja::{Environment, State, Value};

use super::arguments::{Arguments, in_one};
use super::objects::Range;
use super::python::{Result, bounded, error, index, items, pairs, text};

/// Numbers that a `range` may have, in Jinja2's sandbox too.
const LONGEST: usize = 100_000;

/// Adds the functions to an environment.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    for name in ["debug", "lipsum"] {
        environment.remove_global(name);
    }
    environment.add_function("range", range);
    environment.add_function("dict", |args: &[Value], names: Kwargs| {
        in_one(args, names, dict)
    });
    environment.add_function("joiner", |args: &[Value], names: Kwargs| {
        in_one(args, names, joiner)
    });
    environment.add_function("cycler", |args: &[Value]| {
        if args.is_empty() || args.iter().any(|item| item.as_object().is_some()) {
            return Err(error("cycler needs texts or numbers, one at least"));
        }
        let (items, at) = (args.to_vec(), AtomicUsize::new(0));
        Ok(Value::from_object(Cycler { items, at }))
    });
    let native = environment.globals().find(|(name, _)| *name == "namespace");
    if let Some((_, native)) = native {
        environment.add_function(
            "namespace",
            move |state: &mut State, args: &[Value], names: Kwargs| {
                let all = in_one(args, names, dict)?;
                native.call(state, &[all])
            },
        );
    }
    environment.add_function("raise_exception", |message: &Value| -> Result<Value> {
        Err(error(text(message)?))
    });
}

fn range(args: &[Value]) -> Result<Value> {
    let numbers = args.iter().map(index).collect::<Result<Vec<i64>>>()?;
    let (start, stop, step) = match numbers.as_slice() {
        [stop] => (0, *stop, 1),
        [start, stop] => (*start, *stop, 1),
        [start, stop, step] => (*start, *stop, *step),
        _ => return Err(error("range needs one to three integers")),
    };
    let (from, to, by) = (i128::from(start), i128::from(stop), i128::from(step));
    let len = match by {
        0 => return Err(error("range: the step must not be zero")),
        1.. => (to - from + by - 1) / by,
        _ => (from - to - by - 1) / -by,
    };
    let len = usize::try_from(len.max(0)).unwrap_or(usize::MAX);
    match len > LONGEST {
        true => Err(error(format!("a range of more than {LONGEST} numbers"))),
        false => Ok(Value::from_object(Range {
            start,
            stop,
            step,
            len,
        })),
    }
}

fn dict(args: &[Value]) -> Result<Value> {
    let arguments = Arguments::any("dict", args)?;
    let mut all = match arguments.positions() {
        [] => Vec::new(),
        [value] if value.kind() == ValueKind::Map => pairs(value)?,
        [value] => {
            let pair = |pair: Value| match items(&pair)?.as_slice() {
                [key, value] => Ok((key.clone(), value.clone())),
                _ => Err(error("dict: expected pairs")),
            };
            items(value)?.into_iter().map(pair).collect::<Result<_>>()?
        }
        _ => return Err(error("dict takes one argument by position")),
    };
    all.extend(
        arguments
            .names()
            .filter_map(|name| Some((Value::from(name), arguments.named(name)?))),
    );
    let dict = Value::from_pairs(all);
    bounded(&dict).map(|()| dict)
}

fn joiner(args: &[Value]) -> Result<Value> {
    let between = Arguments::new("joiner", args, &["sep"])?.get(0, "sep");
    let between = Value::from(between.as_ref().map_or_else(|| Ok(", ".to_owned()), text)?);
    let used = AtomicBool::new(false);
    Ok(Value::from_object(Joiner { between, used }))
}

/// Says nothing at first, and then always the same.
#[derive(Debug)]
struct Joiner {
    between: Value,
    used: AtomicBool,
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, _: &[Value]) -> Result<Value> {
        Ok(match self.used.swap(true, Ordering::Relaxed) {
            true => self.between.clone(),
            false => Value::from(""),
        })
    }
}

/// Goes round its items.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

impl Cycler {
    fn item(&self, at: usize) -> Value {
        self.items
            .get(at % self.items.len().max(1))
            .cloned()
            .unwrap_or_default()
    }
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str()? == "current").then(|| self.item(self.at.load(Ordering::Relaxed)))
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        _: &[Value],
    ) -> Result<Value> {
        match method {
            "next" => Ok(self.item(self.at.fetch_add(1, Ordering::Relaxed))),
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(error(format!("a cycler has no method `{method}`"))),
        }
    }
}

/// Sets the date that `strftime_now` returns; the time is midnight.
pub(super) fn set_date(environment: &mut Environment<'static>, date: NaiveDate) {
    environment.add_function("strftime_now", move |format: &str| strftime(date, format));
}

/// Directives of `strftime` that chrono has as C has them.
const DIRECTIVES: &str = "aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyY%";

/// Longest format of a date.
const LONGEST_FORMAT: usize = 1000;

fn strftime(date: NaiveDate, format: &str) -> Result<String> {
    if format.len() > LONGEST_FORMAT {
        return Err(error(format!(
            "a date's format of more than {LONGEST_FORMAT} bytes"
        )));
    }
    let moment = date.and_time(chrono::NaiveTime::MIN);
    let mut out = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let flag = usize::from(after.starts_with(['-', '_', '0']));
        let Some(directive) = after[flag..].chars().next() else {
            out.push('%');
            rest = after;
            break;
        };
        let end = flag + directive.len_utf8();
        match directive {
            // A date without a time zone has no name of one; microseconds are Python's.
            'z' | 'Z' => {}
            'f' => out.push_str("000000"),
            known if DIRECTIVES.contains(known) => {
                write!(out, "{}", moment.format(&format!("%{}", &after[..end])))
                    .map_err(|_| error(format!("`{format}` is no valid format of a date")))?;
            }
            _ => {
                out.push('%');
                out.push_str(&after[..end]);
            }
        }
        rest = &after[end..];
    }
    out.push_str(rest);
    Ok(out)
}
