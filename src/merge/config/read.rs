//! Reading mergekit's YAML.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::check::check;
use super::json::{given, object, word};
use super::reader::Reader;
use super::tokenizer::TokenizerConfig;
use super::{ChatTemplate, MergeConfig};
use crate::error::{Error, Result};
use crate::files::read_yaml;
use crate::merge::methods::{Base, Method};
use crate::tensors::Dtype;

const KEYS: &[&str] = &[
    "merge_method",
    "models",
    "slices",
    "modules",
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "name",
];

impl MergeConfig {
    /// Reads mergekit's YAML; model paths are relative to `root` (the current folder: `""`).
    ///
    /// # Errors
    ///
    /// Broken YAML, misspelt keys (the nearest known one is offered), values of the wrong kind,
    /// parameters that the method does not have, too few or too many models.
    pub fn from_yaml(text: &str, root: &Path) -> Result<Self> {
        let value = read_yaml(text).map_err(|error| error.within("merge configuration"))?;
        Self::from_value(&value, root)
    }

    /// [`MergeConfig::from_yaml`] with the defaults of a recipe: `models` where neither models
    /// nor slices are given (each with weight 1 where the method needs one), `base_model`
    /// where the method takes one and none is given. Those are relative to the current folder,
    /// what the section itself names to `root`, or, where nothing is there, to the current folder.
    ///
    /// # Errors
    ///
    /// As [`MergeConfig::from_yaml`].
    pub fn from_recipe(
        section: &Value,
        models: &[PathBuf],
        base_model: &Path,
        root: &Path,
    ) -> Result<Self> {
        let mut value = object(section, "merge")?.clone();
        let method = method_of(&value)?;
        let mut given = Vec::new();
        if self::given(&value, "models").is_none() && self::given(&value, "slices").is_none() {
            let weight = value.get("parameters").and_then(|p| p.get("weight"));
            let weigh = weight.is_none() && method.parameter("weight").is_some();
            let entry = |model: &PathBuf| match weigh {
                true => json!({"model": text(model), "parameters": {"weight": 1.0}}),
                false => json!({"model": text(model)}),
            };
            let entries: Vec<Value> = models.iter().map(entry).collect();
            value.insert("models".into(), entries.into());
            given.extend(models.iter().map(|model| text(model)));
        }
        if self::given(&value, "base_model").is_none() {
            if method.base == Base::Required {
                value.insert("base_model".into(), text(base_model).into());
            }
            given.push(text(base_model));
        }
        let mut config = Self::from_value(&Value::Object(value), root)?;
        config.given = given;
        Ok(config)
    }

    /// [`MergeConfig::from_yaml`] from a parsed document.
    ///
    /// # Errors
    ///
    /// As [`MergeConfig::from_yaml`].
    pub fn from_value(value: &Value, root: &Path) -> Result<Self> {
        let map = object(value, "the merge configuration")?;
        if given(map, "modules").is_some() {
            return Err(Error::usage("`modules` is not supported")
                .remedy("give `models` or `slices`; models of several modules cannot be merged"));
        }
        let mut reader = Reader::new(method_of(map)?, root);
        reader.known(map, KEYS, "the merge configuration")?;
        let base_model = given(map, "base_model")
            .map(|value| reader.model(value, "base_model"))
            .transpose()?;
        let mut config = Self {
            method: reader.method,
            slices: reader.slices(map)?,
            base_model,
            parameters: reader.settings(map.get("parameters"), None)?,
            dtype: dtype(map, "dtype")?,
            out_dtype: dtype(map, "out_dtype")?,
            tokenizer: TokenizerConfig::read(map, &mut reader)?,
            chat_template: chat_template(map)?,
            root: root.to_path_buf(),
            given: Vec::new(),
            source: value.clone(),
            warnings: Vec::new(),
        };
        reader.add_base(&mut config, given(map, "models").is_some());
        config.warnings = reader.warnings;
        check(&config)?;
        Ok(config)
    }
}

fn method_of(map: &Map<String, Value>) -> Result<&'static Method> {
    match map.get("merge_method") {
        Some(name) => Method::named(&word(name, "merge_method")?),
        None => Err(Error::usage("the merge configuration lacks `merge_method`")),
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn dtype(map: &Map<String, Value>, key: &str) -> Result<Option<Dtype>> {
    let Some(value) = given(map, key) else {
        return Ok(None);
    };
    let name = word(value, key)?;
    Dtype::from_torch(&name)
        .filter(|dtype| dtype.is_writable())
        .map(Some)
        .ok_or_else(|| {
            Error::usage(format!("`{key}: {name}` cannot be written"))
                .remedy("use float32, bfloat16 or float16")
        })
}

fn chat_template(map: &Map<String, Value>) -> Result<Option<ChatTemplate>> {
    let Some(value) = given(map, "chat_template") else {
        return Ok(None);
    };
    let text = word(value, "chat_template")?;
    if text == "auto" {
        return Ok(Some(ChatTemplate::Commonest));
    }
    if !text.contains("{%") && !text.contains("{{") {
        return Err(Error::usage(format!("`chat_template: {text}` is no template"))
            .remedy("give the Jinja text of the template, or leave the key out to keep the base model's"));
    }
    Ok(Some(ChatTemplate::Text(text)))
}
