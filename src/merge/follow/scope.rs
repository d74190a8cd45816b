//! One object of the configuration, in the output and in the models.

use std::path::Path;

use serde_json::{Map, Value};

use super::Layers;
use crate::error::Error;
use crate::merge::stacks::COUNTS;

/// Names of the number of modules that predict several tokens.
const PREDICTION: [&str; 4] = [
    "num_nextn_predict_layers",
    "num_mtp_layers",
    "mtp_num_layers",
    "mtp_num_hidden_layers",
];

/// Lists that stand for the number of layers.
const COUNTING: [&str; 2] = ["layers_block_type", "hybrid_override_pattern"];

/// One object of the configuration.
pub(super) struct Scope<'a> {
    /// The output's layers.
    pub layers: &'a Layers<'a>,
    /// The way to the object.
    pub path: &'a [&'static str],
    /// The file, for messages.
    pub file: &'a Path,
}

impl<'a> Scope<'a> {
    /// Where each output layer comes from.
    pub fn sources(&self) -> &'a [(usize, usize)] {
        &self.layers.sources
    }

    /// The number of layers of the output.
    pub fn count_now(&self) -> usize {
        self.layers.sources.len()
    }

    /// The number of layers of the reference.
    pub fn count_before(&self) -> usize {
        self.layers.has[self.layers.reference]
    }

    /// The object in a model's configuration.
    pub fn of(&self, model: usize) -> Option<&'a Map<String, Value>> {
        let mut at: &'a Value = self.layers.configs[model];
        for key in self.path {
            at = at.get(*key)?;
        }
        at.as_object()
    }

    /// A setting of a model.
    pub fn value(&self, model: usize, key: &str) -> Option<&'a Value> {
        self.of(model)?.get(key).filter(|value| !value.is_null())
    }

    /// The setting's name for messages.
    pub fn name(&self, key: &str) -> String {
        let mut name = self.path.join(".");
        if !name.is_empty() {
            name.push('.');
        }
        name + key
    }

    /// The error for a setting that cannot follow the layers.
    pub fn refused(&self, key: &str, value: &Value, why: &str) -> Error {
        let name = self.name(key);
        Error::file(
            self.file,
            format!("`{name}` is {value}: {why}; it cannot follow these slices"),
        )
        .remedy("choose slices that it holds for, or take it out of the configuration")
    }

    /// Sets the numbers of layers. Whether there is one, or a list that stands for it.
    pub fn count(&self, map: &mut Map<String, Value>) -> bool {
        let (before, now) = (self.count_before() as u64, self.count_now());
        let mut any = COUNTING.iter().any(|list| match map.get(*list) {
            Some(Value::Array(list)) => list.len() as u64 == before,
            Some(Value::String(letters)) => letters.len() as u64 == before,
            _ => false,
        });
        for key in COUNTS {
            if map.get(key).and_then(Value::as_u64) == Some(before) {
                map.insert(key.to_owned(), now.into());
                any = true;
            }
        }
        any
    }

    /// Sets the numbers of modules that predict several tokens, which are left out, to zero.
    pub fn forget_prediction(&self, map: &mut Map<String, Value>, notes: &mut Vec<String>) {
        for key in PREDICTION {
            if map.get(key).and_then(Value::as_u64).is_some_and(|n| n > 0) {
                map.insert(key.to_owned(), 0.into());
                notes.push(format!(
                    "`{}` is 0 in the output's config.json",
                    self.name(key)
                ));
            }
        }
    }
}
