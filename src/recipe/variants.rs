//! Variants of a recipe: `variants` lists them one by one, `grid` all combinations of some values.
//!
//! ```yaml
//! variants:
//!   - { name: warped, set: { align.spans: dtw, map.method: ms } }
//! grid: { fuse.metric: [bpb, ce], fuse.level: [sequence, token] }   # bpb-sequence, bpb-token, ...
//! ```

use serde::Deserialize;
use serde_json::{Map, Value};

use super::file::File;
use crate::artifact::check_name;
use crate::error::{Error, Result};
use crate::files::read_located;

/// The most variants that a recipe may have: more are a mistake in a grid.
const MOST: usize = 1000;

/// What a variant cannot change, because all of them share it.
const FIXED: [&str; 5] = ["run", "pivot", "sources", "variants", "grid"];

/// The folder of `variants/` that holds the tokens of `train.valid`.
const RESERVED: &str = "valid";

/// Dotted keys and what they are set to.
type Settings = Map<String, Value>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    name: String,
    set: Settings,
}

/// A variant: what it sets, and where the file says so.
pub(super) struct Variant {
    /// Its name.
    pub name: String,
    /// Where its keys are.
    pub path: String,
    /// What it sets.
    pub set: Settings,
}

/// Takes `variants` and `grid` out of a recipe. A wrong shape, a name that cannot be a folder or is
/// there twice, are mistakes of the file.
pub(super) fn take(map: &mut Settings, file: &File<'_>) -> Vec<Variant> {
    let listed: Option<Vec<Listed>> = file.section(map, "variants");
    let listed = listed.into_iter().flatten().enumerate();
    let mut variants: Vec<Variant> = listed
        .map(|(at, listed)| Variant {
            name: listed.name,
            path: format!("variants[{at}].set"),
            set: listed.set,
        })
        .collect();
    if let Some(grid) = file.section(map, "grid") {
        match combinations(grid, file) {
            Ok(combinations) => variants.extend(combinations),
            Err(error) => file.mistake(error),
        }
    }
    for (at, Variant { name, path, .. }) in variants.iter().enumerate() {
        let place = || file.place(&path.replace(".set", ".name"));
        if let Err(error) = check_name("variant", name) {
            file.mistake(error.within(place()));
        }
        if name == RESERVED {
            let problem = format!("{}: a variant cannot be called `valid`", place());
            file.mistake(
                Error::usage(problem)
                    .remedy("the run keeps the tokens of `train.valid` under that name"),
            );
        }
        if variants[..at].iter().any(|other| other.name == *name) {
            let problem = format!("{}: two variants are called `{name}`", place());
            file.mistake(Error::usage(problem).remedy("name them one by one in `variants`"));
        }
    }
    variants
}

/// Every combination of the values, the last key changing fastest; named by the values.
fn combinations(grid: Settings, file: &File<'_>) -> Result<Vec<Variant>> {
    let mut all = vec![(String::new(), Settings::new())];
    for (key, values) in grid {
        let place = file.place(&format!("grid.{key}"));
        let values = match values {
            Value::Array(values) if !values.is_empty() => values,
            _ => {
                return Err(Error::usage(format!(
                    "{place}: `grid` gives `{key}` no list of values, expected a list of values"
                )));
            }
        };
        if all.len() * values.len() > MOST {
            return Err(Error::usage(format!(
                "{place}: `grid` has more than {MOST} combinations"
            )));
        }
        let longer = |(name, set): &(String, Settings)| {
            let (name, set, key) = (name.clone(), set.clone(), key.clone());
            let with = move |value: &Value| {
                let word = match value {
                    Value::String(word) => word.clone(),
                    other => other.to_string(),
                };
                let mut set = set.clone();
                set.insert(key.clone(), value.clone());
                let separator = if name.is_empty() { "" } else { "-" };
                (format!("{name}{separator}{word}"), set)
            };
            values.iter().map(with).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(longer).collect();
    }
    let variant = |(name, set)| Variant {
        name,
        path: "grid".to_owned(),
        set,
    };
    Ok(all.into_iter().map(variant).collect())
}

/// A setting of the command line, as `train.lr=1e-4`: the key, and its value, which is YAML.
///
/// # Errors
/// It has no `=`, or its value is no YAML.
pub(super) fn parse(setting: &str) -> Result<(String, Value)> {
    let Some((key, value)) = setting.split_once('=') else {
        return Err(Error::usage(format!(
            "`--set {setting}`: expected KEY=VALUE, as in `train.lr=1e-4`"
        )));
    };
    let (value, _) = read_located(value).map_err(|error| error.within(format!("`--set {key}`")))?;
    Ok((key.to_owned(), value))
}

/// Sets a dotted key of a variant.
///
/// # Errors
/// A key that variants share; those of [`set`].
pub(super) fn set_shared(map: &mut Settings, key: &str, value: Value) -> Result<()> {
    let first = key.split(['.', '[']).next();
    if let Some(fixed) = FIXED.iter().find(|fixed| Some(**fixed) == first) {
        return Err(
            Error::usage(format!("a variant cannot set `{fixed}`: all share it"))
                .remedy("write a recipe of its own; `topk: { from: RUN }` reuses distributions"),
        );
    }
    set(map, key, value)
}

/// Sets a dotted key of a recipe; `sources[0].dtype` is a key of the first entry of a list.
///
/// # Errors
/// A key below something that holds none, or in an entry that is not there.
pub(super) fn set(map: &mut Settings, key: &str, value: Value) -> Result<()> {
    let words: Vec<&str> = key
        .split(['.', '['])
        .map(|word| word.trim_end_matches(']'))
        .collect();
    let Some((first, inner)) = words.split_first() else {
        return Ok(());
    };
    let mut place = (*first).to_owned();
    let mut at = map.entry(place.clone()).or_insert(Value::Null);
    for word in inner {
        if at.is_null() {
            *at = Value::Object(Settings::new());
        }
        at = match at {
            Value::Object(section) => section.entry((*word).to_owned()).or_insert(Value::Null),
            Value::Array(list) if word.parse::<usize>().is_ok() => {
                let entry = word.parse().ok().and_then(|at: usize| list.get_mut(at));
                entry.ok_or_else(|| Error::usage(format!("`{place}` has no entry {word}")))?
            }
            _ => {
                let problem = format!("`{key}` is to be set, but `{place}` holds no keys");
                return Err(Error::usage(problem));
            }
        };
        place = format!("{place}.{word}");
    }
    *at = value;
    Ok(())
}
