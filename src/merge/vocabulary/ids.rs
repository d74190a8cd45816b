//! The size of the vocabulary and the ids of special tokens in the output's configuration.

use serde_json::{Map, Value};

use super::files::Files;
use crate::checkpoint::CONFIG;
use crate::error::Result;
use crate::files::read_json;
use crate::progress::warn_once;

const SIZE: &str = "vocab_size";
/// The rows of an embedding that every layer adds.
const PER_LAYER_SIZE: &str = "vocab_size_per_layer_input";

/// What the names of fields with ids end with.
const ENDS: [&str; 6] = [
    "_token_id",
    "_token_ids",
    "_token_index",
    "_token_indices",
    "_token_indexes",
    "_tokens_ids",
];

/// The part of a configuration that describes the language model.
const TEXT: &str = "text_config";

/// Where ids come from.
struct Ids<'a> {
    files: &'a Files,
    /// The configurations of the tokenizer's model.
    sources: Vec<Value>,
    /// The file, for messages.
    file: &'a str,
}

impl Files {
    /// Corrects the output's `config.json`: the size of the vocabulary, ids of special tokens.
    ///
    /// # Errors
    ///
    /// A config of the source that cannot be read.
    pub fn correct_config(&self, config: &mut Map<String, Value>) -> Result<()> {
        let nested = config.get_mut(TEXT).and_then(Value::as_object_mut);
        let in_text = nested.is_some_and(|text| {
            let has = text.contains_key(SIZE);
            if has {
                self.insert_size(text);
            }
            has
        });
        if !in_text || config.contains_key(SIZE) {
            self.insert_size(config);
        }
        self.correct_ids(CONFIG, config)
    }

    fn insert_size(&self, config: &mut Map<String, Value>) {
        config.insert(SIZE.into(), self.rows.into());
        if self.per_layer {
            config.insert(PER_LAYER_SIZE.into(), self.rows.into());
        }
    }

    /// Corrects the ids of tokens in the file `name`, at its top and in the objects within it, where the
    /// tokenizer is another model's: they are those that its model has, or those of the same tokens.
    /// What is neither is left out.
    ///
    /// # Errors
    ///
    /// A config of the source that cannot be read.
    pub fn correct_ids(&self, name: &str, config: &mut Map<String, Value>) -> Result<()> {
        if self.foreign.is_none() {
            return Ok(());
        }
        let files = [name, CONFIG].map(|name| read_json(&self.source.join(name)));
        let files: Vec<Option<Value>> = files.into_iter().collect::<Result<_>>()?;
        let ids = Ids {
            files: self,
            sources: files.into_iter().flatten().collect(),
            file: name,
        };
        ids.correct(config, &mut Vec::new());
        Ok(())
    }
}

impl Ids<'_> {
    /// Corrects an object; `path` leads to it.
    fn correct(&self, map: &mut Map<String, Value>, path: &mut Vec<String>) {
        map.retain(|key, value| {
            if let Value::Object(inner) = value {
                path.push(key.clone());
                self.correct(inner, path);
                path.pop();
                return true;
            }
            if value.is_null() || !ENDS.iter().any(|end| key.ends_with(end)) {
                return true;
            }
            let found = self.stated(key, path).or_else(|| self.same_tokens(value));
            match found {
                Some(found) => *value = found,
                None => {
                    let mut name = path.join(".");
                    name += if path.is_empty() { "" } else { "." };
                    warn_once(format!(
                        "`{name}{key}` of {} is left out: the output's vocabulary lacks the token",
                        self.file
                    ));
                    return false;
                }
            }
            true
        });
    }

    /// The field in the configuration of the tokenizer's model: at the same place, at the top, or
    /// among the settings of its language model.
    fn stated(&self, key: &str, path: &[String]) -> Option<Value> {
        let at = |source: &Value, path: &[&str]| {
            let mut at = source;
            for key in path {
                at = at.get(*key)?;
            }
            at.get(key).filter(|value| !value.is_null()).cloned()
        };
        let own: Vec<&str> = path.iter().map(String::as_str).collect();
        let places = [&own[..], &[], &[TEXT]];
        let mut sources = self.sources.iter();
        sources.find_map(|source| places.iter().find_map(|path| at(source, path)))
    }

    /// The ids that the same tokens have in the output.
    fn same_tokens(&self, value: &Value) -> Option<Value> {
        let renumbered = self.files.foreign.as_ref()?;
        match value {
            // No token.
            Value::Number(id) if id.as_i64().is_some_and(|id| id < 0) => Some(value.clone()),
            Value::Number(id) => Some((*renumbered.get(&id.as_u64()?)?).into()),
            Value::Array(ids) => {
                let ids = ids.iter().map(|id| self.same_tokens(id));
                ids.collect::<Option<Vec<_>>>().map(Value::Array)
            }
            _ => None,
        }
    }
}
