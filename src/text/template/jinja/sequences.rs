//! Jinja2's filters of lists.

use std::cmp::Ordering;

use minijinja::value::ValueKind;
use minijinja::{State, Value};

use super::arguments::Arguments;
use super::filters::{folded, keyed, order, word_count};
use super::operators::sort_by;
use super::python::{
    Generator, Result, bounded, characters, charge, error, is_namespace, items, print, text, tuple,
};
use super::{checks, filters};

/// Calls a filter of a list.
pub(super) fn call(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value> {
    let arguments = |names: &[&str]| Arguments::new(name, args, names);
    match name {
        "map" | "select" | "reject" | "selectattr" | "rejectattr" => each(state, value, name, args),
        "batch" | "slice" => {
            let arguments = arguments(&["count", "fill_with"])?;
            let count = arguments.integer(0, "count")?.unwrap_or(0);
            let count = usize::try_from(count).ok().filter(|count| *count > 0);
            let count = count.ok_or_else(|| error(format!("{name} needs a number above 0")))?;
            let fill = arguments.get(1, "fill_with").filter(|fill| !fill.is_none());
            let all = items(value)?;
            charge(count.saturating_mul(32))?;
            let parts = Generator::value(match name {
                "batch" => batches(&all, count, fill.as_ref()),
                _ => slices(&all, count, fill.as_ref()),
            });
            bounded(&parts).map(|()| parts)
        }
        "dictsort" => dict_sort(value, &arguments(&["case_sensitive", "by", "reverse"])?),
        "groupby" => group_by(
            value,
            &arguments(&["attribute", "default", "case_sensitive"])?,
        ),
        "join" => join(value, &arguments(&["d", "attribute"])?),
        "min" | "max" => {
            let arguments = arguments(&["case_sensitive", "attribute"])?;
            let attribute = arguments
                .get(1, "attribute")
                .filter(|value| !value.is_none());
            let all = keyed(
                value,
                attribute.as_ref(),
                arguments.flag(0, "case_sensitive"),
            )?;
            extreme(
                all,
                if name == "min" {
                    Ordering::Less
                } else {
                    Ordering::Greater
                },
            )
        }
        "sort" => {
            let arguments = arguments(&["reverse", "case_sensitive", "attribute"])?;
            let case_sensitive = arguments.flag(1, "case_sensitive");
            let attribute = arguments
                .get(2, "attribute")
                .filter(|value| !value.is_none());
            sort(
                value,
                attribute.as_ref(),
                case_sensitive,
                arguments.flag(0, "reverse"),
            )
        }
        "sum" => {
            let arguments = arguments(&["attribute", "start"])?;
            let wanted = arguments
                .get(0, "attribute")
                .filter(|value| !value.is_none());
            let mut sum = arguments.get(1, "start").unwrap_or_else(|| Value::from(0));
            if sum.as_str().is_some() {
                return Err(error("sum() can't sum strings"));
            }
            for item in items(value)? {
                let item = match &wanted {
                    Some(wanted) => attribute(&item, wanted, None)?,
                    None => item,
                };
                sum = super::operators::add(&sum, &item)?;
            }
            Ok(sum)
        }
        "unique" => {
            let arguments = arguments(&["case_sensitive", "attribute"])?;
            let attribute = arguments
                .get(1, "attribute")
                .filter(|value| !value.is_none());
            let all = keyed(
                value,
                attribute.as_ref(),
                arguments.flag(0, "case_sensitive"),
            )?;
            Ok(Generator::value(unique(all)))
        }
        _ => {
            arguments(&[])?;
            whole(value, name)
        }
    }
}

/// Filters without arguments.
fn whole(value: &Value, name: &str) -> Result<Value> {
    match name {
        "first" => match value.as_str() {
            Some(text) => Ok(text
                .chars()
                .next()
                .map_or(Value::UNDEFINED, |c| Value::from(c.to_string()))),
            None => {
                let first = match value.kind() {
                    ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
                        value.try_iter()?.next()
                    }
                    _ => items(value)?.into_iter().next(),
                };
                Ok(first.unwrap_or(Value::UNDEFINED))
            }
        },
        "last" => {
            if value.kind() == ValueKind::Iterable && value.len().is_none() {
                return Err(error("'generator' object is not reversible"));
            }
            Ok(items(value)?.pop().unwrap_or(Value::UNDEFINED))
        }
        "list" => {
            let all = items(value)?;
            charge(all.len() * size_of::<Value>())?;
            Ok(Value::from(all))
        }
        "reverse" => {
            if let Some(text) = value.as_str() {
                return Ok(Value::from(text.chars().rev().collect::<String>()));
            }
            let mut all = items(value)?;
            all.reverse();
            let list = value.kind() == ValueKind::Iterable && value.len().is_none();
            Ok(if list {
                Value::from(all)
            } else {
                Generator::value(all)
            })
        }
        "wordcount" => Ok(Value::from(word_count(&text(value)?))),
        name => Err(error(format!("there is no filter `{name}`"))),
    }
}

/// `map`, and what picks items by a test.
fn each(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value> {
    // Jinja2 asks whether there is anything first; nothing may be `none` too.
    if !value.is_true() {
        return Ok(Generator::value(Vec::new()));
    }
    let arguments = Arguments::any(name, args)?;
    let mut out = Vec::new();
    if name == "map" {
        let by_attribute = arguments.positions().is_empty();
        let wanted = arguments.named("attribute").filter(|_| by_attribute);
        let default = arguments.named("default");
        if by_attribute
            && (wanted.is_none()
                || arguments
                    .names()
                    .any(|name| name != "attribute" && name != "default"))
        {
            return Err(error("map requires a filter argument"));
        }
        let filter = arguments
            .positions()
            .first()
            .map(text)
            .transpose()?
            .unwrap_or_default();
        if wanted.is_none() && !filters::is_known(&filter) {
            return Err(error(format!("there is no filter `{filter}`")));
        }
        for item in items(value)? {
            let mapped = match &wanted {
                Some(wanted) => attribute(&item, wanted, default.as_ref())?,
                None => filters::call(state, &filter, &with(item, &args[1..]))?,
            };
            if is_namespace(&mapped) {
                bounded(&mapped)?;
            }
            out.push(mapped);
        }
        return Ok(Generator::value(out));
    }
    let by_attribute = name.ends_with("attr");
    let wanted = match (by_attribute, arguments.positions()) {
        (true, []) => return Err(error(format!("{name} needs an attribute"))),
        (true, [wanted, ..]) => Some(wanted),
        (false, _) => None,
    };
    let rest = &args[usize::from(by_attribute)..];
    let test = rest
        .first()
        .filter(|test| !test.is_kwargs())
        .map(text)
        .transpose()?;
    if let Some(test) = test.as_ref().filter(|test| !checks::is_known(test)) {
        return Err(error(format!("there is no test `{test}`")));
    }
    for item in items(value)? {
        let tested = match wanted {
            Some(wanted) => attribute(&item, wanted, None)?,
            None => item.clone(),
        };
        let passes = match &test {
            Some(test) => checks::call(test, &with(tested, &rest[1..]))?,
            None => tested.is_true(),
        };
        if passes == name.starts_with("select") {
            out.push(item);
        }
    }
    Ok(Generator::value(out))
}

fn with(value: Value, args: &[Value]) -> Vec<Value> {
    std::iter::once(value).chain(args.iter().cloned()).collect()
}

/// An attribute of an item: names or positions with dots between them.
pub(super) fn attribute(item: &Value, path: &Value, default: Option<&Value>) -> Result<Value> {
    let get = |item: Value, key: &Value| {
        let found = match item.is_undefined() {
            true => {
                return Err(error(format!(
                    "an undefined value has no attribute {key:?}"
                )));
            }
            false => item.get_item(key)?,
        };
        let name = key.as_str().filter(|_| found.is_undefined());
        let found = match name {
            Some(name) => super::operators::attribute(&item, name)?,
            None => found,
        };
        Ok(match default {
            Some(default) if found.is_undefined() => default.clone(),
            _ => found,
        })
    };
    let Some(path) = path.as_str() else {
        return get(item.clone(), path);
    };
    let mut value = item.clone();
    for part in path.split('.') {
        let key = match part.parse::<i64>() {
            Ok(at) if part.bytes().all(|byte| byte.is_ascii_digit()) => Value::from(at),
            _ => Value::from(part),
        };
        value = get(value, &key)?;
    }
    Ok(value)
}

fn batches(all: &[Value], count: usize, fill: Option<&Value>) -> Vec<Value> {
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

fn slices(all: &[Value], count: usize, fill: Option<&Value>) -> Vec<Value> {
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

fn dict_sort(value: &Value, arguments: &Arguments) -> Result<Value> {
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
fn sort_pairs(all: &mut Vec<(Value, Value)>, reverse: bool) -> Result<()> {
    match reverse {
        true => sort_by(all, |a, b| order(&b.0, &a.0)),
        false => sort_by(all, |a, b| order(&a.0, &b.0)),
    }
}

fn sort(
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

fn group_by(value: &Value, arguments: &Arguments) -> Result<Value> {
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
    groups
        .into_iter()
        .map(group)
        .collect::<Result<Vec<_>>>()
        .map(Value::from)
}

/// A group, and the items in it: a tuple whose parts have names.
#[derive(Debug)]
struct Group {
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

fn join(value: &Value, arguments: &Arguments) -> Result<Value> {
    let between = arguments
        .get(0, "d")
        .as_ref()
        .map(text)
        .transpose()?
        .unwrap_or_default();
    let wanted = arguments
        .get(1, "attribute")
        .filter(|wanted| !wanted.is_none());
    let all = match value.as_str() {
        Some(text) => characters(text),
        None => items(value)?,
    };
    charge(between.len().saturating_mul(all.len()))?;
    let mut out = String::new();
    for (at, item) in all.iter().enumerate() {
        out.push_str(if at == 0 { "" } else { &between });
        let before = out.len();
        match &wanted {
            Some(wanted) => print(&attribute(item, wanted, None)?, &mut out)?,
            None => print(item, &mut out)?,
        }
        charge(out.len() - before)?;
    }
    Ok(Value::from(out))
}

fn extreme(all: Vec<(Value, Value)>, wanted: Ordering) -> Result<Value> {
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

fn unique(all: Vec<(Value, Value)>) -> Vec<Value> {
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
