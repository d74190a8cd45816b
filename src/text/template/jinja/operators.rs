//! Python's operators, as filters.

use std::cmp::Ordering;

use minijinja::value::ValueKind;
use minijinja::{Environment, State, Value};

use super::format;
use super::objects::Method;
use super::python::{
    Number, Result, bounded, charge, equal, error, integer, items, keep, print, tuple, type_of,
};
use super::slices::{item, slice};
use super::texts::escape;

/// Items that a list may get by multiplication.
const MOST_ITEMS: usize = 1_000_000;

/// Adds the operators to an environment.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter("py_add", sum);
    environment.add_filter("py_sub", |a: &Value, b: &Value| {
        numbers("-", a, b, i128::checked_sub, |a, b| a - b)
    });
    environment.add_filter("py_mul", multiply);
    environment.add_filter("py_div", divide);
    environment.add_filter("py_floordiv", floor_divide);
    environment.add_filter("py_mod", modulo);
    environment.add_filter("py_pow", power);
    environment.add_filter("py_neg", |a: &Value| negate(a));
    environment.add_filter("py_pos", |a: &Value| match Number::of(a) {
        Some(Number::Integer(a)) => Ok(integer(a)),
        Some(Number::Float(a)) => Ok(Value::from(a)),
        None => Err(error(format!(
            "bad operand type for unary +: '{}'",
            type_of(a)
        ))),
    });
    environment.add_filter("py_concat", concat);
    environment.add_filter("py_lt", |a: &Value, b: &Value| {
        Ok(compare("<", a, b)?.is_some_and(Ordering::is_lt))
    });
    environment.add_filter("py_le", |a: &Value, b: &Value| {
        Ok(compare("<=", a, b)?.is_some_and(Ordering::is_le))
    });
    environment.add_filter("py_gt", |a: &Value, b: &Value| {
        Ok(compare(">", a, b)?.is_some_and(Ordering::is_gt))
    });
    environment.add_filter("py_ge", |a: &Value, b: &Value| {
        Ok(compare(">=", a, b)?.is_some_and(Ordering::is_ge))
    });
    environment.add_filter("py_in", |item: &Value, container: &Value| {
        contains(container, item)
    });
    environment.add_filter("py_slice", slice);
    environment.add_filter("py_item", item);
    environment.add_filter("py_eq", |a: &Value, b: &Value| equal(a, b));
    environment.add_filter("py_ne", |a: &Value, b: &Value| {
        equal(a, b).map(|equal| !equal)
    });
    environment.add_filter("py_flat", |value: Value| bounded(&value).map(|()| value));
    environment.add_filter("py_keep", keep);
    environment.add_filter("py_iter", |value: Value| match value.kind() {
        ValueKind::None => Err(error("'NoneType' object is not iterable")),
        // A loop over minijinja's characters does not know which is the last.
        ValueKind::String => items(&value).map(Value::from),
        _ => Ok(value),
    });
    environment.add_filter(
        "py_cycle",
        |state: &mut State, value: &Value, all: &[Value]| match all.is_empty() {
            true => Err(error("no items for cycling given")),
            false => value.call_method(state, "cycle", all),
        },
    );
    environment.add_filter("py_attr", attribute);
    environment.add_filter("py_missing", |_: &Value, what: &str| -> Result<Value> {
        Err(error(what))
    });
}

fn unsupported(operator: &str, a: &Value, b: &Value) -> minijinja::Error {
    let (a, b) = (type_of(a), type_of(b));
    error(format!(
        "unsupported operand types for {operator}: '{a}' and '{b}'"
    ))
}

fn too_large(operator: &str) -> minijinja::Error {
    error(format!("the result of `{operator}` is too large"))
}

fn numbers(
    operator: &str,
    a: &Value,
    b: &Value,
    integers: fn(i128, i128) -> Option<i128>,
    floats: fn(f64, f64) -> f64,
) -> Result<Value> {
    match (Number::of(a), Number::of(b)) {
        (Some(Number::Integer(a)), Some(Number::Integer(b))) => integers(a, b)
            .map(integer)
            .ok_or_else(|| too_large(operator)),
        (Some(a), Some(b)) => Ok(Value::from(floats(a.float(), b.float()))),
        _ => Err(unsupported(operator, a, b)),
    }
}

fn is_list(value: &Value) -> bool {
    matches!(type_of(value), "list" | "tuple")
}

pub(super) fn add(a: &Value, b: &Value) -> Result<Value> {
    if let (Some(left), Some(right)) = (a.as_str(), b.as_str()) {
        // What is marked as safe escapes what is added to it.
        charge(left.len() + right.len())?;
        let joined = match (a.is_safe(), b.is_safe()) {
            (true, false) => left.to_owned() + &escape(right),
            (false, true) => escape(left) + right,
            _ => [left, right].concat(),
        };
        return Ok(like_text(joined, a.is_safe() || b.is_safe()));
    }
    if is_list(a) && type_of(a) == type_of(b) {
        let mut all = items(a)?;
        all.extend(items(b)?);
        charge(all.len() * size_of::<Value>())?;
        return Ok(like(a, all));
    }
    numbers("+", a, b, i128::checked_add, |a, b| a + b)
}

/// A list, or a tuple if `original` is one.
pub(super) fn like(original: &Value, items: Vec<Value>) -> Value {
    match original.is_tuple() {
        true => tuple(items),
        false => Value::from(items),
    }
}

fn multiply(a: &Value, b: &Value) -> Result<Value> {
    let repeated = |value: &Value| value.as_str().is_some() || is_list(value);
    let (value, count) = match (repeated(a), repeated(b)) {
        (true, false) => (a, b),
        (false, true) => (b, a),
        _ => return numbers("*", a, b, i128::checked_mul, |a, b| a * b),
    };
    let Some(Number::Integer(count)) = Number::of(count) else {
        return Err(unsupported("*", a, b));
    };
    let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
    if let Some(text) = value.as_str() {
        charge(text.len().saturating_mul(count))?;
        return Ok(Value::from(text.repeat(count)));
    }
    let all = items(value)?;
    if all.len().saturating_mul(count) > MOST_ITEMS {
        return Err(too_large("*"));
    }
    charge(all.len() * count * size_of::<Value>())?;
    let len = all.len() * count;
    Ok(like(value, all.into_iter().cycle().take(len).collect()))
}

fn divide(a: &Value, b: &Value) -> Result<Value> {
    match (Number::of(a), Number::of(b)) {
        (Some(_), Some(b)) if b.float() == 0.0 => Err(error("division by zero")),
        (Some(a), Some(b)) => Ok(Value::from(a.float() / b.float())),
        _ => Err(unsupported("/", a, b)),
    }
}

fn floor_divide(a: &Value, b: &Value) -> Result<Value> {
    match Number::of(b) {
        Some(zero) if zero.float() == 0.0 && Number::of(a).is_some() => {
            Err(error("division by zero"))
        }
        _ => numbers("//", a, b, floor, |a, b| (a - float_modulo(a, b)) / b),
    }
}

/// The quotient of integers, rounded down.
fn floor(a: i128, b: i128) -> Option<i128> {
    let quotient = a.checked_div(b)?;
    let exact = a % b == 0 || (a < 0) == (b < 0);
    Some(quotient - i128::from(!exact))
}

/// The rest of a division of floats has the sign of the divisor.
fn float_modulo(a: f64, b: f64) -> f64 {
    let rest = a % b;
    match rest != 0.0 && (rest < 0.0) != (b < 0.0) {
        true => rest + b,
        false => rest,
    }
}

pub(super) fn modulo(a: &Value, b: &Value) -> Result<Value> {
    if let Some(text) = a.as_str() {
        return format::percent(text, b).map(Value::from);
    }
    match (Number::of(a), Number::of(b)) {
        (Some(_), Some(b)) if b.float() == 0.0 => Err(error("modulo by zero")),
        _ => numbers(
            "%",
            a,
            b,
            |a, b| Some(a - b.checked_mul(floor(a, b)?)?),
            float_modulo,
        ),
    }
}

fn power(a: &Value, b: &Value) -> Result<Value> {
    let (Some(base), Some(exponent)) = (Number::of(a), Number::of(b)) else {
        return Err(unsupported("**", a, b));
    };
    if base.float() == 0.0 && exponent.float() < 0.0 {
        return Err(error("0 cannot be raised to a negative power"));
    }
    if let (Number::Integer(base), Number::Integer(exponent @ 0..)) = (base, exponent) {
        let power = u32::try_from(exponent)
            .ok()
            .and_then(|exponent| base.checked_pow(exponent));
        return power.map(integer).ok_or_else(|| too_large("**"));
    }
    let power = base.float().powf(exponent.float());
    match power.is_nan() || power.is_infinite() {
        true => Err(too_large("**")),
        false => Ok(Value::from(power)),
    }
}

fn negate(a: &Value) -> Result<Value> {
    match Number::of(a) {
        Some(Number::Integer(a)) => a.checked_neg().map(integer).ok_or_else(|| too_large("-")),
        Some(Number::Float(a)) => Ok(Value::from(-a)),
        None => Err(error(format!(
            "bad operand type for unary -: '{}'",
            type_of(a)
        ))),
    }
}

/// `a ~ b ~ c`.
fn concat(first: &Value, others: &[Value]) -> Result<Value> {
    let all = std::iter::once(first).chain(others);
    let len = all.clone().filter_map(Value::as_str).map(str::len).sum();
    charge(len)?;
    let mut out = String::with_capacity(len);
    for part in all {
        print(part, &mut out)?;
    }
    Ok(Value::from(out))
}

/// `a + b + c`: texts are joined at once.
fn sum(first: &Value, others: &[Value]) -> Result<Value> {
    let mut len = 0;
    let mut plain = true;
    for value in std::iter::once(first).chain(others) {
        match value.as_str().filter(|_| !value.is_safe()) {
            Some(text) => len += text.len(),
            None => plain = false,
        }
    }
    if plain {
        charge(len)?;
        let mut out = String::with_capacity(len);
        out.push_str(first.as_str().unwrap_or_default());
        out.extend(others.iter().filter_map(Value::as_str));
        return Ok(Value::from(out));
    }
    others
        .iter()
        .try_fold(first.clone(), |sum, value| add(&sum, value))
}

/// A text; one that `safe` or `escape` made keeps that.
fn like_text(text: String, markup: bool) -> Value {
    match markup {
        true => Value::from_safe_string(text),
        false => Value::from(text),
    }
}

/// The order of two values; none if they have no order that is known (NaN).
pub(super) fn compare(operator: &str, a: &Value, b: &Value) -> Result<Option<Ordering>> {
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        return Ok(Some(a.cmp(b)));
    }
    if let (Some(a), Some(b)) = (Number::of(a), Number::of(b)) {
        return Ok(match (a, b) {
            (Number::Integer(a), Number::Integer(b)) => Some(a.cmp(&b)),
            (a, b) => a.float().partial_cmp(&b.float()),
        });
    }
    if !is_list(a) || type_of(a) != type_of(b) {
        let (a, b) = (type_of(a), type_of(b));
        return Err(error(format!(
            "'{operator}' not supported between '{a}' and '{b}'"
        )));
    }
    let (a, b) = (items(a)?, items(b)?);
    for (a, b) in a.iter().zip(&b) {
        if a != b {
            return compare(operator, a, b);
        }
    }
    Ok(Some(a.len().cmp(&b.len())))
}

pub(super) fn contains(container: &Value, item: &Value) -> Result<bool> {
    match container.kind() {
        ValueKind::String => match (container.as_str(), item.as_str()) {
            (Some(text), Some(part)) => {
                charge(text.len() / 2)?;
                Ok(text.contains(part))
            }
            _ => {
                let found = type_of(item);
                Err(error(format!(
                    "'in <string>' requires string as left operand, not {found}"
                )))
            }
        },
        ValueKind::Map => {
            let object = container.as_object();
            Ok(object.is_some_and(|object| object.get_value(item).is_some()))
        }
        ValueKind::Undefined => Ok(false),
        ValueKind::Seq | ValueKind::Iterable => {
            for found in container.try_iter()?.checked() {
                charge(32)?;
                if equal(&found?, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => Err(error(format!(
            "argument of type '{}' is not iterable",
            type_of(container)
        ))),
    }
}

/// A method that is not called, or else the attribute.
pub(super) fn attribute(value: &Value, name: &str) -> Result<Value> {
    if super::methods::has(value, name) {
        let (value, name) = (value.clone(), name.to_owned());
        return Ok(Value::from_object(Method { value, name }));
    }
    value.get_attr(name)
}
