//! Reading mergekit's YAML, strictly.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::check::check;
use super::json::{given, known, list, object, word};
use super::parameters::settings;
use super::tokenizer::TokenizerConfig;
use super::{MergeConfig, Slice, Source};
use crate::error::{Error, Result};
use crate::merge::methods::{Base, Method};
use crate::tensors::Dtype;

const KEYS: &[&str] = &[
    "merge_method",
    "models",
    "slices",
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
    /// Broken YAML, unknown keys (the nearest known one is offered), values of the wrong kind,
    /// parameters that the method does not have, too few or too many models.
    pub fn from_yaml(text: &str, root: &Path) -> Result<Self> {
        let value: Value = serde_saphyr::from_str(text)
            .map_err(|error| Error::usage(format!("merge configuration: {error}")))?;
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
        if !value.contains_key("models") && !value.contains_key("slices") {
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
        if !value.contains_key("base_model") {
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
        if map.contains_key("modules") {
            return Err(Error::usage("`modules` is not supported")
                .remedy("give `models` or `slices`; models of several modules cannot be merged"));
        }
        known(map, KEYS, "the merge configuration")?;
        let method = method_of(map)?;
        let base_model = map.get("base_model").map(|v| word(v, "base_model"));
        let base_model = base_model.transpose()?;
        let config = Self {
            method,
            slices: slices(map, method)?,
            base_model,
            parameters: settings(map.get("parameters"), method, None)?,
            dtype: dtype(map, "dtype")?,
            out_dtype: dtype(map, "out_dtype")?,
            tokenizer: TokenizerConfig::read(map)?,
            chat_template: chat_template(map)?,
            root: root.to_path_buf(),
            given: Vec::new(),
            source: value.clone(),
        };
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

/// The slices; `models` makes one.
fn slices(map: &Map<String, Value>, method: &'static Method) -> Result<Vec<Slice>> {
    match (map.get("models"), map.get("slices")) {
        (Some(models), None) => Ok(vec![Slice {
            sources: list(models, "models")?
                .iter()
                .map(|entry| source(entry, method, false))
                .collect::<Result<_>>()?,
            base_model: None,
            parameters: Vec::new(),
        }]),
        (None, Some(slices)) => list(slices, "slices")?
            .iter()
            .map(|entry| slice(entry, method))
            .collect(),
        _ => Err(Error::usage(
            "expected exactly one of `models` and `slices` in the merge configuration",
        )),
    }
}

fn source(value: &Value, method: &'static Method, layers: bool) -> Result<Source> {
    if !layers && let Value::String(model) = value {
        return Ok(Source {
            model: model.clone(),
            layers: None,
            parameters: Vec::new(),
        });
    }
    let map = object(value, "a model's entry")?;
    let keys: &[&str] = if layers {
        &["model", "layer_range", "parameters"]
    } else {
        &["model", "parameters"]
    };
    known(map, keys, "a model's entry")?;
    let model = map
        .get("model")
        .ok_or_else(|| Error::usage(format!("a model's entry lacks `model`: {value}")))?;
    let model = word(model, "model")?;
    let range = match map.get("layer_range") {
        None if layers => {
            return Err(Error::usage(format!(
                "the slice of `{model}` lacks `layer_range`"
            )));
        }
        None => None,
        Some(range) => Some(layer_range(range)?),
    };
    Ok(Source {
        parameters: settings(map.get("parameters"), method, Some(&model))?,
        layers: range,
        model,
    })
}

fn layer_range(value: &Value) -> Result<(usize, usize)> {
    let ends = value.as_array().map(Vec::as_slice);
    if let Some([begin, end]) = ends
        && let (Some(begin), Some(end)) = (begin.as_u64(), end.as_u64())
        && begin < end
        && end < 1 << 20
    {
        return Ok((begin as usize, end as usize));
    }
    Err(Error::usage(format!(
        "expected `layer_range: [first, end]` with first < end, found {value}"
    )))
}

fn slice(value: &Value, method: &'static Method) -> Result<Slice> {
    let map = object(value, "a slice")?;
    if map.contains_key("residual_weight") {
        return Err(Error::usage("`residual_weight` is not supported")
            .remedy("remove it; mergekit does not use it either"));
    }
    known(map, &["sources", "base_model", "parameters"], "a slice")?;
    let sources = map
        .get("sources")
        .ok_or_else(|| Error::usage("a slice lacks `sources`"))?;
    Ok(Slice {
        sources: list(sources, "sources")?
            .iter()
            .map(|entry| source(entry, method, true))
            .collect::<Result<_>>()?,
        base_model: map
            .get("base_model")
            .map(|v| word(v, "base_model"))
            .transpose()?,
        parameters: settings(map.get("parameters"), method, None)?,
    })
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

fn chat_template(map: &Map<String, Value>) -> Result<Option<String>> {
    let Some(value) = given(map, "chat_template") else {
        return Ok(None);
    };
    let text = word(value, "chat_template")?;
    if text == "auto" {
        return Ok(None);
    }
    if !text.contains("{%") && !text.contains("{{") {
        return Err(Error::usage(format!("`chat_template: {text}` is no template"))
            .remedy("give the Jinja text of the template, or leave the key out to keep the base model's"));
    }
    Ok(Some(text))
}
