//! Jinja2's tests (`x is defined`).

use minijinja::value::ValueKind;
use minijinja::{Environment, Value};

use super::operators::{compare, contains};
use super::python::{Number, Result, error, text, type_of};
use super::{filters, strings};

/// The tests that templates may use.
const KNOWN: [&str; 39] = [
    "odd",
    "even",
    "divisibleby",
    "defined",
    "undefined",
    "filter",
    "test",
    "none",
    "boolean",
    "false",
    "true",
    "integer",
    "float",
    "lower",
    "upper",
    "string",
    "mapping",
    "number",
    "sequence",
    "iterable",
    "callable",
    "sameas",
    "escaped",
    "in",
    "==",
    "eq",
    "equalto",
    "!=",
    "ne",
    ">",
    "gt",
    "greaterthan",
    "ge",
    ">=",
    "<",
    "lt",
    "lessthan",
    "<=",
    "le",
];

/// Whether there is a test of this name.
pub(super) fn is_known(name: &str) -> bool {
    KNOWN.contains(&name)
}

/// Adds the tests to an environment.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    for name in KNOWN {
        environment.add_test(name, move |args: &[Value]| call(name, args));
    }
    // The most frequent ones are found without comparing names.
    environment.add_test("defined", |value: &Value| !value.is_undefined());
    environment.add_test("undefined", |value: &Value| value.is_undefined());
    environment.add_test("none", |value: &Value| value.is_none());
    environment.add_test("string", |value: &Value| value.as_str().is_some());
}

/// Calls a test; the tested value is the first argument.
pub(super) fn call(name: &str, args: &[Value]) -> Result<bool> {
    match args {
        [value] => alone(name, value),
        [value, other] => against(name, value, other),
        _ => Err(error(format!("the test `{name}` has too many arguments"))),
    }
}

fn alone(name: &str, value: &Value) -> Result<bool> {
    let number = || match Number::of(value) {
        Some(number) => Ok(number),
        None => Err(error(format!(
            "the test `{name}` needs a number, found {}",
            type_of(value)
        ))),
    };
    let kind = value.kind();
    Ok(match name {
        "defined" => kind != ValueKind::Undefined,
        "undefined" => kind == ValueKind::Undefined,
        "none" => kind == ValueKind::None,
        "string" => kind == ValueKind::String,
        "mapping" => is_dict(value),
        "sequence" => match kind {
            ValueKind::String | ValueKind::Seq | ValueKind::Undefined => true,
            ValueKind::Map => is_dict(value),
            _ => false,
        },
        "iterable" => matches!(
            kind,
            ValueKind::String
                | ValueKind::Seq
                | ValueKind::Undefined
                | ValueKind::Map
                | ValueKind::Iterable
        ),
        "boolean" => kind == ValueKind::Bool,
        "true" => kind == ValueKind::Bool && value.is_true(),
        "false" => kind == ValueKind::Bool && !value.is_true(),
        "number" => matches!(kind, ValueKind::Number | ValueKind::Bool),
        "integer" => value.is_integer(),
        "float" => kind == ValueKind::Number && !value.is_integer(),
        "odd" => match number()? {
            Number::Integer(value) => value % 2 != 0,
            Number::Float(value) => value.rem_euclid(2.0) == 1.0,
        },
        "even" => match number()? {
            Number::Integer(value) => value % 2 == 0,
            Number::Float(value) => value % 2.0 == 0.0,
        },
        "lower" | "upper" => {
            let method = if name == "lower" {
                "islower"
            } else {
                "isupper"
            };
            strings::call(&text(value)?, method, &[])?.is_true()
        }
        "callable" => {
            matches!(kind, ValueKind::Undefined | ValueKind::Plain) || type_is(value, "Macro")
        }
        "escaped" => false,
        "filter" => value.as_str().is_some_and(filters::is_known),
        "test" => value.as_str().is_some_and(is_known),
        _ => return Err(error(format!("the test `{name}` needs an argument"))),
    })
}

fn type_is(value: &Value, name: &str) -> bool {
    let object = value.as_object();
    object.is_some_and(|object| object.type_name().rsplit("::").next() == Some(name))
}

/// Whether it is a dictionary, and not only something with attributes.
fn is_dict(value: &Value) -> bool {
    let other = |name: &&str| type_is(value, name);
    value.kind() == ValueKind::Map && !["Namespace", "Macro", "Loop"].iter().any(other)
}

fn against(name: &str, value: &Value, other: &Value) -> Result<bool> {
    use std::cmp::Ordering;
    let ordered = |test: fn(Ordering) -> bool| Ok(compare("<", value, other)?.is_some_and(test));
    match name {
        "==" | "eq" | "equalto" => Ok(value == other),
        "!=" | "ne" => Ok(value != other),
        ">" | "gt" | "greaterthan" => ordered(Ordering::is_gt),
        ">=" | "ge" => ordered(Ordering::is_ge),
        "<" | "lt" | "lessthan" => ordered(Ordering::is_lt),
        "<=" | "le" => ordered(Ordering::is_le),
        "in" => contains(other, value),
        "sameas" => Ok(same(value, other)),
        "divisibleby" => Ok(match super::operators::modulo(value, other)? {
            rest if rest.as_str().is_some() => false,
            rest => !rest.is_true(),
        }),
        _ => Err(error(format!("the test `{name}` takes no argument"))),
    }
}

/// Python's `is`, as far as it does not depend on what Python keeps in common.
fn same(value: &Value, other: &Value) -> bool {
    if type_of(value) != type_of(other) {
        return false;
    }
    let list = |value: &Value| value.downcast_object::<Vec<Value>>();
    match (list(value), list(other)) {
        (Some(value), Some(other)) => std::sync::Arc::ptr_eq(&value, &other),
        _ => value == other,
    }
}
