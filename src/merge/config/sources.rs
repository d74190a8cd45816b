//! Reading `models`, `slices` and the models in them.

use serde_json::{Map, Value};

use super::json::{given, known, list, object, whole, word};
use super::reader::Reader;
use super::{MergeConfig, Slice, Source};
use crate::error::{Error, Result};
use crate::lora::split;
use crate::merge::methods::{Base, DefaultValue};

impl Reader {
    /// The slices; `models` makes one.
    ///
    /// # Errors
    ///
    /// Both or neither, entries of another form.
    pub fn slices(&mut self, map: &Map<String, Value>) -> Result<Vec<Slice>> {
        match (given(map, "models"), given(map, "slices")) {
            (Some(models), None) => Ok(vec![Slice {
                sources: list(models, "models")?
                    .iter()
                    .map(|entry| self.source(entry, false))
                    .collect::<Result<_>>()?,
                base_model: None,
                parameters: Vec::new(),
            }]),
            (None, Some(slices)) => list(slices, "slices")?
                .iter()
                .map(|entry| self.slice(entry))
                .collect(),
            _ => Err(Error::usage(
                "expected exactly one of `models` and `slices` in the merge configuration",
            )),
        }
    }

    fn slice(&mut self, value: &Value) -> Result<Slice> {
        const KEYS: &[&str] = &["sources", "base_model", "parameters", "residual_weight"];
        let map = object(value, "a slice")?;
        self.known(map, KEYS, "a slice")?;
        if given(map, "residual_weight").is_some() {
            self.warn("`residual_weight` has no effect: mergekit does not use it either".into());
        }
        let sources =
            given(map, "sources").ok_or_else(|| Error::usage("a slice lacks `sources`"))?;
        Ok(Slice {
            sources: list(sources, "sources")?
                .iter()
                .map(|entry| self.source(entry, true))
                .collect::<Result<_>>()?,
            base_model: given(map, "base_model")
                .map(|value| self.model(value, "base_model"))
                .transpose()?,
            parameters: self.settings(map.get("parameters"), None)?,
        })
    }

    fn source(&mut self, value: &Value, layers: bool) -> Result<Source> {
        if !layers && value.is_string() {
            return Ok(Source {
                model: self.model(value, "model")?,
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
        self.known(map, keys, "a model's entry")?;
        let model = given(map, "model")
            .ok_or_else(|| Error::usage(format!("a model's entry lacks `model`: {value}")))?;
        let model = self.model(model, "model")?;
        let range = match map.get("layer_range") {
            None if layers => {
                return Err(Error::usage(format!(
                    "the slice of `{model}` lacks `layer_range`"
                )));
            }
            Some(range) if layers => Some(layer_range(range)?),
            _ => None,
        };
        Ok(Source {
            parameters: self.settings(map.get("parameters"), Some(&model))?,
            layers: range,
            model,
        })
    }

    /// A model as text, `MODEL` or `MODEL+ADAPTER`: it may be written as a mapping of `model` and
    /// `lora`, each of which may be one of `path` and `revision`.
    ///
    /// # Errors
    ///
    /// Something else, or an `override_architecture`.
    pub fn model(&mut self, value: &Value, key: &str) -> Result<String> {
        let Value::Object(map) = value else {
            let name = word(value, key)?;
            return Ok(self.without_revisions(name));
        };
        let place = format!("`{key}`");
        known(map, &["model", "lora", "override_architecture"], &place)?;
        if let Some(architecture) = given(map, "override_architecture") {
            return Err(Error::usage(format!(
                "{place}: `override_architecture: {architecture}` is not supported"
            ))
            .remedy("remove it; tensors are matched by their names, whatever the architecture"));
        }
        let model = given(map, "model")
            .ok_or_else(|| Error::usage(format!("{place} lacks `model`, found {value}")))?;
        let model = self.path(model, key)?;
        match given(map, "lora") {
            None => Ok(model),
            Some(lora) => Ok(format!("{model}+{}", self.path(lora, "lora")?)),
        }
    }

    /// A folder: text, or a mapping of `path` and `revision`.
    fn path(&mut self, value: &Value, key: &str) -> Result<String> {
        let Value::Object(map) = value else {
            let name = word(value, key)?;
            return Ok(self.without_revisions(name));
        };
        let place = format!("`{key}`");
        known(map, &["path", "revision"], &place)?;
        let path = given(map, "path")
            .ok_or_else(|| Error::usage(format!("{place} lacks `path`, found {value}")))?;
        let path = word(path, "path")?;
        if let Some(revision) = given(map, "revision") {
            self.revision(&path, &revision.to_string());
        }
        Ok(path)
    }

    fn revision(&mut self, path: &str, revision: &str) {
        self.warn(format!(
            "the revision {revision} of `{path}` has no effect: folders are read as they are"
        ));
    }

    /// `PATH@REVISION+ADAPTER@REVISION` without the revisions, of folders that are there without.
    fn without_revisions(&mut self, name: String) -> String {
        let exists = |name: &str| self.root.join(name).exists();
        let (base, adapter) = split(&name, exists);
        let cut = |path: &str| {
            let (folder, revision) = path.rsplit_once('@')?;
            let only = !exists(path) && exists(folder);
            only.then(|| (folder.to_owned(), revision.to_owned()))
        };
        let found = [Some(base), adapter].map(|path| path.and_then(cut));
        let [base, adapter] = [Some(base), adapter].map(|path| path.map(str::to_owned));
        if found.iter().all(Option::is_none) {
            return name;
        }
        let mut parts = Vec::new();
        for (part, found) in [base, adapter].into_iter().zip(found) {
            match found {
                Some((folder, revision)) => {
                    self.revision(&folder, &format!("`{revision}`"));
                    parts.push(folder);
                }
                None => parts.extend(part),
            }
        }
        parts.join("+")
    }

    /// What becomes of a base model in methods that have no base. As in mergekit, one that is
    /// not among `models` is the last of them, if the parameters that a model must have are
    /// given for all; else it is said that the base has no effect.
    pub fn add_base(&mut self, config: &mut MergeConfig, whole_models: bool) {
        if self.method.base != Base::Listed {
            return;
        }
        for slice in &mut config.slices {
            let Some(base) = slice.base_model.as_ref().or(config.base_model.as_ref()) else {
                continue;
            };
            if slice.sources.iter().any(|source| source.model == *base) {
                continue;
            }
            let given = |name: &str| config.parameters.iter().any(|(key, _)| key == name);
            let required = self.method.parameters.iter();
            let mut required =
                required.filter(|p| p.per_model && p.default == DefaultValue::Required);
            let fits = slice.sources.len() < self.method.models.1;
            if whole_models && fits && required.all(|p| given(p.name)) {
                slice.sources.push(Source {
                    model: base.clone(),
                    layers: None,
                    parameters: Vec::new(),
                });
                continue;
            }
            self.warn(format!(
                "`base_model: {base}` is not among the models: it has no effect on the weights"
            ));
        }
    }
}

fn layer_range(value: &Value) -> Result<(usize, usize)> {
    let ends = value.as_array().map(Vec::as_slice);
    if let Some([begin, end]) = ends
        && let (Some(begin), Some(end)) = (whole(begin), whole(end))
        && begin < end
        && end < 1 << 20
    {
        return Ok((begin as usize, end as usize));
    }
    Err(Error::usage(format!(
        "expected `layer_range: [first, end]` with first < end, found {value}"
    )))
}
