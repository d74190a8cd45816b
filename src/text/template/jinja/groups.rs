//! Lists sorted, grouped and cut into parts.

use std::cmp::Ordering;

use minijinja::Value;
use minijinja::value::ValueKind;

use super::arguments::Arguments;
use super::filters::{folded, order};
use super::python::{Result, bounded, error, items, tuple};
use super::sequences::attribute;
use super::slices::sort_by;

pub(super) fn batches(all: &[Value], count: usize, fill: Option<&Value>) -> Vec<Value> {
    let mut out = Vec::new();
    for batch in all.chunks(count) {
        let mut batch = batch.to_vec();
        if let Some(fill) = fill {
            batch.resize(count, fill.clone());
        }
        out.push(Value::from(batch));
    }
    out
}

pub(super) fn slices(all: &[Value], count: usize, fill: Option<&Value>) -> Vec<Value> {
    let (each, more) = (all.len() / count, all.len() % count);
    let mut at = 0;
    let mut out = Vec::new();
    for slice in 0..count {
        let end = at + each + usize::from(slice < more);
        let mut items = all[at..end].to_vec();
        if let Some(fill) = fill.filter(|_| slice >= more && more > 0) {
            items.push(fill.clone());
        }
        at = end;
        out.push(Value::from(items));
    }
    out
}

pub(super) fn dict_sort(value: &Value, arguments: &Arguments) -> Result<Value> {
    let by = arguments.string_or_none(1, "by")?;
    let by_value = match by.as_deref() {
        None | Some("key") => false,
        Some("value") => true,
        Some(other) => {
            return Err(error(format!(
                "dictsort: by must be key or value, not {other:?}"
            )));
        }
    };
    let case_sensitive = arguments.flag(0, "case_sensitive");
    let mut all: Vec<(Value, Value)> = super::python::pairs(value)?
        .into_iter()
        .map(|(key, value)| {
            let by = folded(
                if by_value { value.clone() } else { key.clone() },
                case_sensitive,
            );
            (by, tuple(vec![key, value]))
        })
        .collect();
    sort_pairs(&mut all, arguments.flag(2, "reverse"))?;
    Ok(all.into_iter().map(|(_, pair)| pair).collect())
}

/// Sorts items by their keys; in reverse equal ones stay as they are too.
pub(super) fn sort_pairs(all: &mut Vec<(Value, Value)>, reverse: bool) -> Result<()> {
    match reverse {
        true => sort_by(all, |a, b| order(&b.0, &a.0)),
        false => sort_by(all, |a, b| order(&a.0, &b.0)),
    }
}

pub(super) fn sort(
    value: &Value,
    wanted: Option<&Value>,
    case_sensitive: bool,
    reverse: bool,
) -> Result<Value> {
    let paths: Option<Vec<Value>> = match wanted.and_then(Value::as_str) {
        Some(paths) => Some(paths.split(',').map(Value::from).collect()),
        None => wanted.map(|wanted| vec![wanted.clone()]),
    };
    let key = |item: Value| {
        let key = match &paths {
            None => folded(item.clone(), case_sensitive),
            Some(paths) => {
                let part = |path| Ok(folded(attribute(&item, path, None)?, case_sensitive));
                Value::from(paths.iter().map(part).collect::<Result<Vec<_>>>()?)
            }
        };
        Ok((key, item))
    };
    let mut all = items(value)?
        .into_iter()
        .map(key)
        .collect::<Result<Vec<_>>>()?;
    sort_pairs(&mut all, reverse)?;
    Ok(all.into_iter().map(|(_, item)| item).collect())
}

pub(super) fn group_by(value: &Value, arguments: &Arguments) -> Result<Value> {
    let wanted = arguments.required(0, "attribute")?;
    let default = arguments
        .get(1, "default")
        .filter(|default| !default.is_none());
    let case_sensitive = arguments.flag(2, "case_sensitive");
    let key = |item: Value| {
        let key = attribute(&item, &wanted, default.as_ref())?;
        Ok((folded(key, case_sensitive), item))
    };
    let mut all = items(value)?
        .into_iter()
        .map(key)
        .collect::<Result<Vec<_>>>()?;
    sort_pairs(&mut all, false)?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for (key, item) in all {
        match groups.last_mut().filter(|(last, _)| *last == key) {
            Some((_, items)) => items.push(item),
            None => groups.push((key, vec![item])),
        }
    }
    let group = |(key, all): (Value, Vec<Value>)| {
        // A group is named as its first item has it.
        let name = match all.first().filter(|_| !case_sensitive) {
            Some(first) => attribute(first, &wanted, default.as_ref())?,
            None => key,
        };
        Ok(Value::from_object(Group {
            name,
            items: Value::from(all),
        }))
    };
    let groups = groups.into_iter().map(group).collect::<Result<Vec<_>>>()?;
    let groups = Value::from(groups);
    bounded(&groups).map(|()| groups)
}

/// A group, and the items in it: a tuple whose parts have names.
#[derive(Debug)]
pub(super) struct Group {
    name: Value,
    items: Value,
}

impl minijinja::value::Object for Group {
    fn repr(self: &std::sync::Arc<Self>) -> minijinja::value::ObjectRepr {
        minijinja::value::ObjectRepr::Seq
    }

    fn get_value(self: &std::sync::Arc<Self>, key: &Value) -> Option<Value> {
        match (key.as_str(), key.as_usize()) {
            (Some("grouper"), _) | (_, Some(0)) => Some(self.name.clone()),
            (Some("list"), _) | (_, Some(1)) => Some(self.items.clone()),
            _ => None,
        }
    }

    fn enumerate(self: &std::sync::Arc<Self>) -> minijinja::value::Enumerator {
        minijinja::value::Enumerator::Seq(2)
    }
}

pub(super) fn extreme(all: Vec<(Value, Value)>, wanted: Ordering) -> Result<Value> {
    let mut found: Option<(Value, Value)> = None;
    for (key, item) in all {
        let better = match &found {
            Some((best, _)) => order(&key, best)? == Some(wanted),
            None => true,
        };
        if better {
            found = Some((key, item));
        }
    }
    Ok(found.map_or(Value::UNDEFINED, |(_, item)| item))
}

pub(super) fn unique(all: Vec<(Value, Value)>) -> Vec<Value> {
    let mut seen = std::collections::HashSet::new();
    all.into_iter()
        .filter_map(|(key, item)| {
            // `True` is 1 to Python.
            let key = match key.kind() {
                ValueKind::Bool => Value::from(i64::from(key.is_true())),
                _ => key,
            };
            seen.insert(key).then_some(item)
        })
        .collect()
}
