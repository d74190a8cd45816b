//! Variants of a recipe: `variants` lists them one by one, `grid` all combinations of some values.
//!
//! ```yaml
//! variants:
//!   - { name: warped, set: { align.spans: dtw, map.method: ms } }
//! grid: { fuse.metric: [bpb, ce], fuse.level: [sequence, token] }   # bpb-sequence, bpb-token, ...
//! ```

use serde::Deserialize;
use serde_json::{Map, Value};

use super::schema::File;
use crate::artifact::check_name;
use crate::error::{Error, Result};

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

/// Takes `variants` and `grid` out of a recipe: names with what they set.
///
/// # Errors
/// A wrong shape, a name that cannot be a folder or is there twice.
pub(super) fn take(map: &mut Settings, file: &File<'_>) -> Result<Vec<(String, Settings)>> {
    let listed: Option<Vec<Listed>> = file.section(map, "variants")?;
    let listed = listed.into_iter().flatten();
    let mut variants: Vec<(String, Settings)> = listed.map(|v| (v.name, v.set)).collect();
    if let Some(grid) = file.section(map, "grid")? {
        variants.extend(combinations(grid, file)?);
    }
    for (at, (name, _)) in variants.iter().enumerate() {
        let place = || file.place(file.word("variants", name));
        check_name("variant", name).map_err(|error| error.within(place()))?;
        if name == RESERVED {
            return Err(wrong(file, name, "a variant cannot be called `valid`")
                .remedy("the run keeps the tokens of `train.valid` under that name"));
        }
        if variants[..at].iter().any(|(other, _)| other == name) {
            return Err(
                wrong(file, "grid", format!("two variants are called `{name}`"))
                    .remedy("name them one by one in `variants`"),
            );
        }
    }
    Ok(variants)
}

fn wrong(file: &File<'_>, word: &str, problem: impl Into<String>) -> Error {
    let line = |section: &&str| file.word(section, word);
    let place = file.place(["variants", "grid"].iter().find_map(line));
    Error::usage(format!("{place}: {}", problem.into()))
}

/// Every combination of the values, the last key changing fastest; named by the values.
fn combinations(grid: Settings, file: &File<'_>) -> Result<Vec<(String, Settings)>> {
    let mut all = vec![(String::new(), Settings::new())];
    for (key, values) in grid {
        let values = match values {
            Value::Array(values) if !values.is_empty() => values,
            _ => {
                return Err(wrong(
                    file,
                    "grid",
                    format!("`grid` gives `{key}` no list of values, expected a list of values"),
                ));
            }
        };
        if all.len() * values.len() > MOST {
            return Err(wrong(
                file,
                "grid",
                format!("`grid` has more than {MOST} combinations"),
            ));
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
    Ok(all)
}

/// Sets a dotted key of a recipe.
///
/// # Errors
/// A key that variants share, or one below something that is no section.
pub(super) fn set(map: &mut Settings, key: &str, value: Value, file: &File<'_>) -> Result<()> {
    let mut words: Vec<&str> = key.split('.').collect();
    if let Some(fixed) = FIXED.iter().find(|fixed| **fixed == words[0]) {
        return Err(wrong(
            file,
            key,
            format!("a variant cannot set `{fixed}`: all share it"),
        )
        .remedy("write a recipe of its own; `topk: { from: RUN }` reuses distributions"));
    }
    let last = words.pop().unwrap_or_default();
    let mut section = map;
    for (depth, word) in words.iter().enumerate() {
        let inner = section
            .entry((*word).to_owned())
            .or_insert_with(|| Value::Object(Settings::new()));
        section = match inner {
            Value::Object(inner) => inner,
            _ => {
                let place = words[..=depth].join(".");
                return Err(wrong(
                    file,
                    key,
                    format!("a variant sets `{key}`, but `{place}` holds no keys"),
                ));
            }
        };
    }
    section.insert(last.to_owned(), value);
    Ok(())
}
