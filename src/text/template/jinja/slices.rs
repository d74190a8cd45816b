//! Items, slices and sorting as Python has them.

use std::cmp::Ordering;

use minijinja::Value;
use minijinja::value::ValueKind;

use super::operators::like;
use super::python::{Number, Result, charge, error, index, items, type_of};

pub(super) fn slice(
    value: &Value,
    start: &Value,
    stop: &Value,
    step: Option<&Value>,
) -> Result<Value> {
    let bound = |value: &Value| match value.is_none() {
        true => Ok(None),
        false => index(value).map(Some),
    };
    let (start, stop) = (bound(start)?, bound(stop)?);
    let step = step.map(bound).transpose()?.flatten().unwrap_or(1);
    if step == 0 {
        return Err(error("slice step cannot be zero"));
    }
    if let Some(text) = value.as_str() {
        return Ok(Value::from(slice_text(text, start, stop, step)));
    }
    let all = match type_of(value) {
        "list" | "tuple" | "range" => items(value)?,
        other => return Err(error(format!("'{other}' object cannot be cut"))),
    };
    let picked = positions(all.len(), start, stop, step);
    Ok(like(
        value,
        picked.filter_map(|at| all.get(at).cloned()).collect(),
    ))
}

/// `value[key]` with a key that is no text in the template.
pub(super) fn item(value: &Value, key: &Value) -> Result<Value> {
    if let Some(text) = value.as_str() {
        charge(text.len() / 2)?;
        let Some(Number::Integer(at)) = Number::of(key) else {
            return Ok(Value::UNDEFINED);
        };
        let at = i64::try_from(at).unwrap_or(i64::MAX);
        let found = match usize::try_from(at) {
            Ok(at) => text.chars().nth(at),
            Err(_) => usize::try_from(-1 - at)
                .ok()
                .and_then(|at| text.chars().rev().nth(at)),
        };
        let text = |c: char| Value::from(&*c.encode_utf8(&mut [0; 4]));
        return Ok(found.map_or(Value::UNDEFINED, text));
    }
    match (value.kind(), Number::of(key)) {
        // Views and generators have no items to pick, and lists none between others.
        (ValueKind::Iterable, _) | (ValueKind::Seq, Some(Number::Float(_))) => Ok(Value::UNDEFINED),
        _ => value.get_item(key),
    }
}

pub(super) fn slice_text(text: &str, start: Option<i64>, stop: Option<i64>, step: i64) -> String {
    if text.is_ascii() {
        let at = |at: usize| text.as_bytes().get(at).map(|byte| char::from(*byte));
        return positions(text.len(), start, stop, step)
            .filter_map(at)
            .collect();
    }
    let all: Vec<char> = text.chars().collect();
    let at = |at: usize| all.get(at).copied();
    positions(all.len(), start, stop, step)
        .filter_map(at)
        .collect()
}

/// The positions that a slice of something of this length picks, as Python clips them.
pub(super) fn positions(
    len: usize,
    start: Option<i64>,
    stop: Option<i64>,
    step: i64,
) -> impl Iterator<Item = usize> {
    let len = i64::try_from(len).unwrap_or(i64::MAX);
    let (lowest, highest) = if step < 0 { (-1, len - 1) } else { (0, len) };
    let clip = |at: i64| match at < 0 {
        true => at.saturating_add(len).max(lowest),
        false => at.min(highest),
    };
    let first = start.map_or(if step < 0 { highest } else { lowest }, clip);
    let last = stop.map_or(if step < 0 { lowest } else { highest }, clip);
    let inside = move |at: &i64| if step < 0 { *at > last } else { *at < last };
    let next = move |at: &i64| at.checked_add(step);
    std::iter::successors(Some(first), next)
        .take_while(inside)
        .filter_map(|at| usize::try_from(at).ok())
}

/// Sorts by an order that may be refused, and that need not be one (NaN); equal ones stay as they
/// are.
pub(super) fn sort_by<T: Clone>(
    all: &mut Vec<T>,
    order: impl Fn(&T, &T) -> Result<Option<Ordering>> + Copy,
) -> Result<()> {
    if all.len() < 2 {
        return Ok(());
    }
    charge(16 * all.len())?;
    let mut right = all.split_off(all.len() / 2);
    sort_by(all, order)?;
    sort_by(&mut right, order)?;
    let left = std::mem::take(all);
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let later = order(b, a)? == Some(Ordering::Less);
        all.extend(if later { right.next() } else { left.next() });
    }
    all.extend(left);
    all.extend(right);
    Ok(())
}
