//! Jinja2's filters of lists.

use std::cmp::Ordering;

use minijinja::value::ValueKind;
use minijinja::{State, Value};

use super::arguments::Arguments;
use super::filters::keyed;
use super::groups::{batches, dict_sort, extreme, group_by, slices, sort, unique};
use super::objects::Generator;
use super::python::{Result, bounded, characters, charge, error, is_namespace, items, print, text};
use super::texts::word_count;
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
