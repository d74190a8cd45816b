//! The rules, applied to one object of the configuration.

use serde_json::{Map, Value, json};

use super::implied::IMPLIED;
use super::rules::{Class, HARMLESS, ROWS, Row, Rule};
use super::scope::Scope;
use crate::error::Result;

impl Scope<'_> {
    /// Makes all settings follow the layers.
    pub fn follow(&self, map: &mut Map<String, Value>, notes: &mut Vec<String>) -> Result<()> {
        let written = self.write_implied(map, notes)?;
        self.follow_unknown(map, notes)?;
        for row in ROWS {
            let given = |list: &&str| matches!(map.get(*list), Some(Value::Array(list)) if !list.is_empty());
            let replaced = row.unless.iter().any(given);
            for key in row.keys.iter().filter(|key| !written.contains(*key)) {
                let value = map.get(*key).filter(|value| !value.is_null()).cloned();
                if let Some(value) = value.filter(|_| !replaced) {
                    self.apply(row, key, &value, map)?;
                }
            }
        }
        Ok(())
    }

    fn apply(
        &self,
        row: &Row,
        key: &str,
        value: &Value,
        map: &mut Map<String, Value>,
    ) -> Result<()> {
        let new = match row.rule {
            Rule::Each => self.each(key, value)?,
            Rule::Cycle => self.cycle(key, value)?,
            Rule::Numbers => self.numbers(key, value)?,
            Rule::ByNumber => self.by_number(key, value),
            Rule::First => self.first(key, value, map)?,
            Rule::Last => self.last(key, value)?,
            Rule::Share => self.share(key, value)?,
            Rule::Class(class) => match self.keep_classes(class, map) {
                true => None,
                false => {
                    let why = "layers differ by their numbers";
                    return Err(self.refused(key, value, why));
                }
            },
            Rule::Listed {
                class,
                list,
                of,
                reset,
            } => {
                if self.keep_classes(class, map) {
                    return Ok(());
                }
                if map.get(list).is_none() {
                    let why = "layers differ by their numbers";
                    return Err(self.refused(key, value, why));
                }
                let listed = self.of_class(class, of);
                map.insert(list.to_owned(), listed);
                reset.then(|| json!(1))
            }
            Rule::Repeated => self.repeated(key, value)?,
            Rule::PerRoot => value.as_f64().map(|scale| {
                json!(scale * (self.count_now() as f64 / self.count_before() as f64).sqrt())
            }),
            Rule::Refused if is_off(value) => None,
            Rule::Refused => {
                let why = "layers use what others have computed";
                return Err(self.refused(key, value, why));
            }
        };
        if let Some(new) = new {
            map.insert(key.to_owned(), new);
        }
        Ok(())
    }

    /// Writes the lists that the model goes by without having them, where they do not hold any more.
    /// Returns their names.
    fn write_implied(
        &self,
        map: &mut Map<String, Value>,
        notes: &mut Vec<String>,
    ) -> Result<Vec<&'static str>> {
        let mut written = Vec::new();
        let model_type = |map: &Map<String, Value>| {
            let own = map.get("model_type").and_then(Value::as_str);
            own.map(str::to_owned).or_else(|| {
                let top = self.layers.configs[self.layers.reference].get("model_type")?;
                (!self.path.is_empty()).then(|| format!("{}_text", top.as_str().unwrap_or("")))
            })
        };
        let Some(kind) = model_type(map) else {
            return Ok(written);
        };
        for implied in IMPLIED.iter().filter(|i| i.types.contains(&kind.as_str())) {
            let list = implied.list;
            let is_given = |value: Option<&Value>| matches!(value, Some(Value::Array(list)) if !list.is_empty());
            if is_given(map.get(list)) || self.is_in_place() {
                continue;
            }
            let entry = |&(model, layer): &(usize, usize)| match self.value(model, list) {
                Some(Value::Array(list)) if !list.is_empty() => list.get(layer).cloned(),
                _ => implied.kind.entry(layer, self.of(model)?),
            };
            let entries: Option<Vec<Value>> = self.sources().iter().map(entry).collect();
            let Some(entries) = entries else {
                let why = "without it, layers differ by their numbers";
                return Err(self.refused(list, &Value::Null, why));
            };
            let same =
                |(at, new): (usize, &Value)| implied.kind.entry(at, map).as_ref() == Some(new);
            if !entries.iter().enumerate().all(same) {
                notes.push(format!(
                    "`{}` is written into config.json: layers had what follows from their numbers",
                    self.name(list)
                ));
                map.insert(list.to_owned(), entries.into());
                written.push(list);
            }
        }
        Ok(written)
    }

    /// Whether each layer has the number that it had.
    fn is_in_place(&self) -> bool {
        let mut sources = self.sources().iter().enumerate();
        sources.all(|(at, (_, layer))| at == *layer)
    }

    /// What no row knows: lists as long as the model are sliced, numbers that seem to be about layers are
    /// refused.
    fn follow_unknown(&self, map: &mut Map<String, Value>, notes: &mut Vec<String>) -> Result<()> {
        let is_known = |key: &str| {
            ROWS.iter().any(|row| row.keys.contains(&key))
                || IMPLIED.iter().any(|implied| implied.list == key)
                || HARMLESS.contains(&key)
                || key.contains("token")
                || crate::merge::stacks::COUNTS.contains(&key)
        };
        let unknown: Vec<String> = map.keys().filter(|key| !is_known(key)).cloned().collect();
        for key in unknown {
            let value = &map[&key];
            match value {
                Value::Array(list) if list.len() == self.count_before() => {
                    let value = value.clone();
                    if let Some(new) = self.each(&key, &value)? {
                        notes.push(format!(
                            "`{}` has an entry for each layer: they follow the layers",
                            self.name(&key)
                        ));
                        map.insert(key, new);
                    }
                }
                _ if is_about_layers(&key) && !is_trivial(&key, value) && !self.is_in_place() => {
                    let why = "it seems to depend on layers, and is not known";
                    return Err(self.refused(&key, value, why));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A list or text with an entry for each layer. It may go on with entries for modules that are no
    /// layers; these are left out.
    fn each(&self, key: &str, value: &Value) -> Result<Option<Value>> {
        let length = match value {
            Value::Array(list) => list.len(),
            Value::String(text) => text.chars().count(),
            _ => return Ok(None),
        };
        if length == 0 {
            return Ok(None);
        }
        if length < self.count_before() {
            let why = "it has not an entry for each layer";
            return Err(self.refused(key, value, why));
        }
        if let Value::String(_) = value {
            let letter = |&(model, layer): &(usize, usize)| {
                self.value(model, key)?.as_str()?.chars().nth(layer)
            };
            let letters: Option<String> = self.sources().iter().map(letter).collect();
            let letters = letters.ok_or_else(|| self.lacking(key, value))?;
            return Ok(Some(letters.into()));
        }
        let entry = |&(model, layer): &(usize, usize)| {
            self.value(model, key)?.as_array()?.get(layer).cloned()
        };
        let entries: Option<Vec<Value>> = self.sources().iter().map(entry).collect();
        let entries = entries.ok_or_else(|| self.lacking(key, value))?;
        Ok(Some(entries.into()))
    }

    fn lacking(&self, key: &str, value: &Value) -> crate::error::Error {
        self.refused(key, value, "another model has no entry for its layer")
    }

    fn cycle(&self, key: &str, value: &Value) -> Result<Option<Value>> {
        let Some(list) = value.as_array().filter(|list| !list.is_empty()) else {
            return Ok(None);
        };
        let entry = |&(model, layer): &(usize, usize)| {
            let list = self.value(model, key)?.as_array()?;
            list.get(layer % list.len().max(1)).cloned()
        };
        let entries: Option<Vec<Value>> = self.sources().iter().map(entry).collect();
        let entries = entries.ok_or_else(|| self.lacking(key, value))?;
        let holds = entries.iter().zip(list.iter().cycle()).all(|(a, b)| a == b);
        Ok((!holds).then(|| entries.into()))
    }

    /// Numbers of layers, as a list or as text with commas.
    fn numbers(&self, key: &str, value: &Value) -> Result<Option<Value>> {
        let numbers = |value: &Value| -> Option<Vec<usize>> {
            match value {
                Value::Array(list) => {
                    let numbers = list.iter().map(Value::as_u64);
                    numbers.map(|n| Some(n? as usize)).collect()
                }
                Value::String(text) => {
                    let parts = text.split(',').map(str::trim);
                    parts
                        .filter(|part| !part.is_empty())
                        .map(|part| part.parse().ok())
                        .collect()
                }
                _ => None,
            }
        };
        if numbers(value).is_none() {
            return Err(self.refused(key, value, "numbers of layers are expected"));
        }
        let is_named = |&(_, (model, layer)): &(usize, &(usize, usize))| {
            let named = self.value(*model, key).and_then(numbers);
            named.is_some_and(|named| named.contains(layer))
        };
        let new = self.sources().iter().enumerate().filter(is_named);
        let new: Vec<usize> = new.map(|(at, _)| at).collect();
        Ok(Some(match value {
            Value::String(_) => {
                let new: Vec<String> = new.iter().map(usize::to_string).collect();
                new.join(",").into()
            }
            _ => new.into(),
        }))
    }

    fn by_number(&self, key: &str, value: &Value) -> Option<Value> {
        value.as_object()?;
        let entry = |(at, &(model, layer)): (usize, &(usize, usize))| {
            let settings = self.value(model, key)?.get(layer.to_string())?;
            Some((at.to_string(), settings.clone()))
        };
        let entries = self.sources().iter().enumerate().filter_map(entry);
        Some(Value::Object(entries.collect()))
    }

    fn first(&self, key: &str, value: &Value, map: &Map<String, Value>) -> Result<Option<Value>> {
        let off = key == "max_window_layers" && map.get("use_sliding_window") != Some(&json!(true));
        let Some(number) = value.as_u64().filter(|_| !off) else {
            return Ok(None);
        };
        let is_first = |&(model, layer): &(usize, usize)| {
            let first = self
                .value(model, key)
                .and_then(Value::as_u64)
                .unwrap_or(number);
            (layer as u64) < first
        };
        let first: Vec<bool> = self.sources().iter().map(is_first).collect();
        let count = first.iter().take_while(|first| **first).count();
        if first.iter().skip(count).any(|first| *first) {
            let why = "these layers do not come first any more";
            return Err(self.refused(key, value, why));
        }
        // A number beyond all layers stays beyond them.
        let beyond = number >= self.count_before() as u64;
        Ok(Some(match beyond && count == first.len() {
            true => number.max(count as u64).into(),
            false => count.into(),
        }))
    }

    fn last(&self, key: &str, value: &Value) -> Result<Option<Value>> {
        match value.as_i64() {
            Some(-1) => Ok(None),
            Some(last) if last + 1 == self.count_before() as i64 => {
                Ok(Some(json!(self.count_now() as i64 - 1)))
            }
            _ if self.is_in_place() => Ok(None),
            _ => Err(self.refused(key, value, "it is not the last layer")),
        }
    }

    fn share(&self, key: &str, value: &Value) -> Result<Option<Value>> {
        let Some(number) = value.as_u64().map(|n| n as usize).filter(|n| *n > 0) else {
            return Ok(None);
        };
        let period = (self.count_before() / number).max(1);
        let mut sources = self.sources().iter().enumerate();
        let holds = sources.all(|(at, (_, layer))| at % period == layer % period);
        match holds && self.count_now().is_multiple_of(period) {
            true => Ok(Some((self.count_now() / period).into())),
            false => Err(self.refused(key, value, "layers differ by their numbers")),
        }
    }

    /// Whether each layer of the output has the class that it had.
    fn keep_classes(&self, class: Class, map: &Map<String, Value>) -> bool {
        let mut sources = self.sources().iter().enumerate();
        sources.all(|(at, &(model, layer))| {
            let before = self.of(model).and_then(|map| class(layer, map));
            class(at, map) == before
        })
    }

    /// The numbers of the output's layers that had a class.
    fn of_class(&self, class: Class, wanted: u64) -> Value {
        let sources = self.sources().iter().enumerate();
        let had = sources.filter(|(_, (model, layer))| {
            self.of(*model).and_then(|map| class(*layer, map)) == Some(wanted)
        });
        had.map(|(at, _)| at).collect::<Vec<usize>>().into()
    }

    /// `[[[a, b], 2]]` is a, b, a, b.
    fn repeated(&self, key: &str, value: &Value) -> Result<Option<Value>> {
        let flat = |value: &Value| -> Option<Vec<Value>> {
            let mut all = Vec::new();
            for part in value.as_array()? {
                let kinds = part.get(0)?.as_array()?;
                for _ in 0..part.get(1)?.as_u64()?.min(1 << 16) {
                    all.extend(kinds.iter().cloned());
                }
            }
            Some(all)
        };
        let entry =
            |&(model, layer): &(usize, usize)| flat(self.value(model, key)?)?.get(layer).cloned();
        let entries: Option<Vec<Value>> = self.sources().iter().map(entry).collect();
        let entries = entries.ok_or_else(|| self.lacking(key, value))?;
        Ok(Some(json!([[entries, 1]])))
    }
}

/// Whether a setting that no row knows seems to be about layers by their numbers.
fn is_about_layers(key: &str) -> bool {
    const WORDS: [&str; 19] = [
        "interval", "period", "offset", "freq", "every", "step", "pattern", "start", "end",
        "first", "last", "index", "indices", "idx", "ids", "group", "shared", "types", "list",
    ];
    const NOT: [&str; 12] = [
        "norm", "drop", "vision", "visual", "image", "audio", "speech", "scale", "init", "lora",
        "mtp", "router",
    ];
    let parts = || key.split('_');
    let layers = parts().any(|part| matches!(part, "layer" | "layers" | "block" | "blocks"));
    layers
        && parts().any(|part| WORDS.contains(&part))
        && !NOT.iter().any(|part| key.contains(part))
}

/// Whether a number or list means the same for all layers.
fn is_trivial(key: &str, value: &Value) -> bool {
    let periodic = ["interval", "period", "freq", "every", "step", "group"];
    let periodic = periodic.iter().any(|part| key.contains(part));
    is_off(value) || (periodic && value.as_f64() == Some(1.0))
}

/// Whether a setting is off.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64().is_none_or(|number| number <= 0.0),
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}
