//! mergekit's YAML, read strictly.
//!
//! `models` is short for one slice that holds all layers. A parameter is looked up at the
//! model, then at its slice, then at the top; at each level it is a scalar, a gradient (a list
//! of numbers spread over the layers of the slice) or a list of `{filter, value}`, of which the
//! first whose filter occurs in the tensor's name holds.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::methods::{self, Kind, MEMORY_SAVERS, METHODS, Method, Parameter};
use super::vocabulary::{TokenizerConfig, TokenizerSource};
use crate::error::{Error, Result, did_you_mean};
use crate::lora::split;
use crate::tensors::Dtype;

/// A value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar {
    /// A number.
    Number(f64),
    /// `true` or `false`.
    Flag(bool),
    /// A word.
    Word(String),
}

/// A parameter as configured.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// One value for all tensors.
    Scalar(Scalar),
    /// Numbers spread evenly over the layers, with linear interpolation between them.
    Gradient(Vec<f64>),
    /// The first entry whose filter is absent, `*` or part of the tensor's name.
    Filters(Vec<(Option<String>, Setting)>),
}

impl Setting {
    /// The value for `tensor` at relative depth `t` in 0..=1, if any entry holds for it.
    pub fn at(&self, tensor: &str, t: f64) -> Option<Scalar> {
        match self {
            Self::Scalar(value) => Some(value.clone()),
            Self::Gradient(values) => {
                let place = t * (values.len() - 1) as f64;
                let low = (place as usize).min(values.len() - 1);
                let high = (low + 1).min(values.len() - 1);
                let share = place - low as f64;
                let value = (1.0 - share) * values[low] + share * values[high];
                Some(Scalar::Number(value))
            }
            Self::Filters(entries) => entries
                .iter()
                .find(|(filter, _)| match filter.as_deref() {
                    None | Some("*") => true,
                    Some(part) => tensor.contains(part),
                })
                .and_then(|(_, setting)| setting.at(tensor, t)),
        }
    }

    fn scalars(&self, each: &mut impl FnMut(&Scalar) -> Result<()>) -> Result<()> {
        match self {
            Self::Scalar(value) => each(value),
            Self::Gradient(values) => values
                .iter()
                .try_for_each(|value| each(&Scalar::Number(*value))),
            Self::Filters(entries) => entries
                .iter()
                .try_for_each(|(_, setting)| setting.scalars(each)),
        }
    }
}

/// The parameters of one level, in the order given.
pub type Settings = Vec<(String, Setting)>;

/// A model in a slice.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The model's folder, as written.
    pub model: String,
    /// Its layers (half-open); all where absent.
    pub layers: Option<(usize, usize)>,
    /// Its own parameters.
    pub parameters: Settings,
}

/// A run of output layers and the models that it is made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// The models, in the order given.
    pub sources: Vec<Source>,
    /// The base model of this slice, where it differs.
    pub base_model: Option<String>,
    /// Parameters of the slice.
    pub parameters: Settings,
}

/// A merge as configured: every key known, every value of the right kind.
#[derive(Clone, Debug)]
pub struct MergeConfig {
    /// The method.
    pub method: &'static Method,
    /// The slices of the output; `models` makes one.
    pub slices: Vec<Slice>,
    /// The base model's folder, as written.
    pub base_model: Option<String>,
    /// Parameters for all models and tensors.
    pub parameters: Settings,
    /// The configured dtype: the output's, unless `out_dtype` says otherwise.
    pub dtype: Option<Dtype>,
    /// The dtype of the output.
    pub out_dtype: Option<Dtype>,
    /// The output's vocabulary; without it rows are merged as they are, and the tokenizer of the
    /// base (or first) model is copied.
    pub tokenizer: Option<TokenizerConfig>,
    /// A chat template (Jinja) that replaces the tokenizer's own.
    pub chat_template: Option<String>,
    /// The folder that model paths are relative to.
    pub root: PathBuf,
    /// Models that a recipe gives instead of the configuration, relative to the current folder.
    pub given: Vec<String>,
    /// The configuration as JSON, for the fingerprint and the model card.
    pub source: Value,
}

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
        if !value.contains_key("models") && !value.contains_key("slices") {
            let given = value.get("parameters").and_then(|p| p.get("weight"));
            let weigh = given.is_none() && method.parameter("weight").is_some();
            let models: Vec<Value> = models
                .iter()
                .map(|model| {
                    let mut entry = Map::new();
                    entry.insert("model".into(), text(model).into());
                    if weigh {
                        entry.insert("parameters".into(), serde_json::json!({"weight": 1.0}));
                    }
                    Value::Object(entry)
                })
                .collect();
            value.insert("models".into(), Value::Array(models));
        }
        if method.base == methods::Base::Required && !value.contains_key("base_model") {
            value.insert("base_model".into(), text(base_model).into());
        }
        let mut config = Self::from_value(&Value::Object(value), root)?;
        let written = object(section, "merge")?;
        if !written.contains_key("models") && !written.contains_key("slices") {
            config.given.extend(models.iter().map(|model| text(model)));
        }
        if !written.contains_key("base_model") {
            config.given.push(text(base_model));
        }
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
        let slices = match (map.get("models"), map.get("slices")) {
            (Some(models), None) => vec![Slice {
                sources: list(models, "models")?
                    .iter()
                    .map(|entry| source(entry, method, false))
                    .collect::<Result<_>>()?,
                base_model: None,
                parameters: Vec::new(),
            }],
            (None, Some(slices)) => list(slices, "slices")?
                .iter()
                .map(|entry| slice(entry, method))
                .collect::<Result<_>>()?,
            _ => {
                return Err(Error::usage(
                    "expected exactly one of `models` and `slices` in the merge configuration",
                ));
            }
        };
        let config = Self {
            method,
            slices,
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
        config.validate()?;
        Ok(config)
    }

    /// The folder of a model as written.
    pub fn resolve(&self, model: &str) -> PathBuf {
        let inside = self.root.join(model);
        match self.given.iter().any(|given| given == model) || !inside.exists() {
            true => PathBuf::from(model),
            false => inside,
        }
    }

    /// The folders of a model as written: its own, and after a `+` that of an adapter.
    pub fn folders(&self, model: &str) -> (PathBuf, Option<PathBuf>) {
        let (base, adapter) = split(model, |name| self.resolve(name).exists());
        (self.resolve(base), adapter.map(|name| self.resolve(name)))
    }

    /// The models whose weights are read, as written: of each slice its base and its sources.
    pub fn models(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for slice in &self.slices {
            let base = slice.base_model.as_ref().or(self.base_model.as_ref());
            let sources = slice.sources.iter().map(|source| &source.model);
            for name in base.into_iter().chain(sources) {
                if !names.contains(&name.as_str()) {
                    names.push(name);
                }
            }
        }
        names
    }

    /// The folder whose tokenizer the output gets, where the configuration names one.
    pub fn tokenizer_folder(&self) -> Option<PathBuf> {
        match &self.tokenizer.as_ref()?.source {
            TokenizerSource::Model(name) => Some(self.resolve(name)),
            TokenizerSource::Base | TokenizerSource::Union => None,
        }
    }

    /// The dtype of the output, where one is configured.
    pub fn output_dtype(&self) -> Option<Dtype> {
        self.out_dtype.or(self.dtype)
    }

    fn validate(&self) -> Result<()> {
        let method = self.method;
        for slice in &self.slices {
            if slice.sources.is_empty() {
                return Err(Error::usage("a slice (or `models`) lists no model"));
            }
            let base = slice.base_model.as_ref().or(self.base_model.as_ref());
            if method.base == methods::Base::Required && base.is_none() {
                return Err(Error::usage(format!(
                    "`{}` needs a `base_model`",
                    method.name
                )));
            }
            let is_base = |source: &&Source| {
                method.base == methods::Base::Listed || Some(&source.model) != base
            };
            let count = slice.sources.iter().filter(is_base).count();
            let (fewest, most) = method.models;
            if count < fewest || count > most {
                let wanted = match (fewest, most) {
                    (a, b) if a == b => format!("exactly {a}"),
                    (a, usize::MAX) => format!("at least {a}"),
                    (a, b) => format!("{a} to {b}"),
                };
                let but = if method.base == methods::Base::Listed {
                    ""
                } else {
                    " besides the base model"
                };
                return Err(Error::usage(format!(
                    "`{}` merges {wanted} model(s){but}, found {count}",
                    method.name
                )));
            }
            for (at, source) in slice.sources.iter().enumerate() {
                let earlier = &slice.sources[..at];
                if earlier.iter().any(|other| other.model == source.model) {
                    let message = format!("model `{}` is listed twice", source.model);
                    return Err(Error::usage(message));
                }
            }
        }
        Ok(())
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

pub(super) fn object<'a>(value: &'a Value, what: &str) -> Result<&'a Map<String, Value>> {
    value
        .as_object()
        .ok_or_else(|| Error::usage(format!("expected a mapping in {what}, found {value}")))
}

fn list<'a>(value: &'a Value, what: &str) -> Result<&'a [Value]> {
    value
        .as_array()
        .map(Vec::as_slice)
        .ok_or_else(|| Error::usage(format!("expected a list in `{what}`, found {value}")))
}

pub(super) fn word(value: &Value, what: &str) -> Result<String> {
    match value {
        Value::String(text) if !text.is_empty() => Ok(text.clone()),
        // `model: {path: x}` and bare numbers are no paths; mergekit also wants text here.
        _ => Err(Error::usage(format!(
            "expected text for `{what}`, found {value}"
        ))),
    }
}

pub(super) fn known(map: &Map<String, Value>, keys: &[&str], place: &str) -> Result<()> {
    for key in map.keys() {
        if !keys.contains(&key.as_str()) {
            let error = Error::usage(format!("unknown key `{key}` in {place}"));
            return Err(match did_you_mean(key, keys.iter().copied()) {
                Some(remedy) => error.remedy(remedy),
                None => error.remedy(format!("known keys are {}", keys.join(", "))),
            });
        }
    }
    Ok(())
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

/// Parameters of one level; `model` names the model whose they are.
fn settings(value: Option<&Value>, method: &Method, model: Option<&str>) -> Result<Settings> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(Vec::new());
    };
    let mut all = Vec::new();
    for (name, value) in object(value, "`parameters`")? {
        let setting = setting(name, value)?;
        if MEMORY_SAVERS.contains(&name.as_str()) {
            continue;
        }
        let Some(parameter) = method.parameter(name) else {
            return Err(unknown_parameter(name, method));
        };
        if let (Some(model), false) = (model, parameter.per_model) {
            return Err(Error::usage(format!(
                "`{name}` of model `{model}` has no effect: it is one for all models"
            ))
            .remedy("move it to the `parameters` at the top"));
        }
        setting.scalars(&mut |scalar| check(parameter, scalar))?;
        all.push((name.clone(), setting));
    }
    Ok(all)
}

fn unknown_parameter(name: &str, method: &Method) -> Error {
    let names = || method.parameters.iter().map(|p| p.name);
    let error = Error::usage(format!("`{}` has no parameter `{name}`", method.name));
    let elsewhere = METHODS.iter().any(|other| other.parameter(name).is_some());
    if elsewhere {
        return error.remedy("remove it, it would have no effect");
    }
    match did_you_mean(name, names()) {
        Some(remedy) => error.remedy(remedy),
        None => {
            let names: Vec<_> = names().collect();
            error.remedy(if names.is_empty() {
                "it has none".into()
            } else {
                format!("its parameters are {}", names.join(", "))
            })
        }
    }
}

fn scalar(name: &str, value: &Value) -> Result<Scalar> {
    match value {
        Value::Bool(flag) => Ok(Scalar::Flag(*flag)),
        Value::String(word) => Ok(Scalar::Word(word.clone())),
        Value::Number(number) => match number.as_f64().filter(|n| n.is_finite()) {
            Some(number) => Ok(Scalar::Number(number)),
            None => Err(Error::usage(format!(
                "`{name}`: {number} is no finite number"
            ))),
        },
        _ => Err(Error::usage(format!(
            "`{name}`: expected a value, a list of numbers or a list of {{filter, value}}, found {value}"
        ))),
    }
}

fn setting(name: &str, value: &Value) -> Result<Setting> {
    let condition = |map: &Map<String, Value>| -> Result<(Option<String>, Setting)> {
        known(map, &["filter", "value"], &format!("`{name}`"))?;
        let filter = map.get("filter").filter(|filter| !filter.is_null());
        let filter = filter.map(|v| word(v, "filter")).transpose()?;
        let value = map
            .get("value")
            .ok_or_else(|| Error::usage(format!("`{name}`: an entry lacks `value`")))?;
        match setting(name, value)? {
            Setting::Filters(_) => Err(Error::usage(format!("`{name}`: filters cannot be nested"))),
            setting => Ok((filter, setting)),
        }
    };
    match value {
        Value::Object(map) => Ok(Setting::Filters(vec![condition(map)?])),
        Value::Array(values) if values.is_empty() => {
            Err(Error::usage(format!("`{name}` is an empty list")))
        }
        Value::Array(values) if values.iter().any(Value::is_object) => values
            .iter()
            .map(|entry| condition(object(entry, &format!("`{name}`"))?))
            .collect::<Result<_>>()
            .map(Setting::Filters),
        Value::Array(values) => values
            .iter()
            .map(|value| match scalar(name, value)? {
                Scalar::Number(number) => Ok(number),
                _ => Err(Error::usage(format!(
                    "`{name}`: a gradient is a list of numbers"
                ))),
            })
            .collect::<Result<_>>()
            .map(Setting::Gradient),
        _ => scalar(name, value).map(Setting::Scalar),
    }
}

fn check(parameter: &Parameter, value: &Scalar) -> Result<()> {
    let name = parameter.name;
    let expected = match (parameter.kind, value) {
        (Kind::Number(low, high), Scalar::Number(number)) if (low..=high).contains(number) => {
            return Ok(());
        }
        (Kind::Flag, Scalar::Flag(_)) => return Ok(()),
        (Kind::Choice(words), Scalar::Word(word)) if words.contains(&word.as_str()) => {
            return Ok(());
        }
        (Kind::Number(f64::MIN, f64::MAX), _) => "a number".to_owned(),
        (Kind::Number(low, f64::MAX), _) => format!("a number of at least {low}"),
        (Kind::Number(low, high), _) => format!("a number from {low} to {high}"),
        (Kind::Flag, _) => "true or false".to_owned(),
        (Kind::Choice(words), _) => format!("one of {}", words.join(", ")),
    };
    let found = match value {
        Scalar::Number(number) => number.to_string(),
        Scalar::Flag(flag) => flag.to_string(),
        Scalar::Word(word) => format!("`{word}`"),
    };
    Err(Error::usage(format!(
        "`{name}`: expected {expected}, found {found}"
    )))
}

fn dtype(map: &Map<String, Value>, key: &str) -> Result<Option<Dtype>> {
    let Some(value) = map.get(key).filter(|value| !value.is_null()) else {
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
    let Some(value) = map.get("chat_template").filter(|value| !value.is_null()) else {
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
