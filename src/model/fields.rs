//! Reading single fields of a `config.json`, with errors that name file and field.

use std::path::Path;

use serde_json::{Map, Value};

use super::config::{Activation, Architecture, Rope, RopeScaling};
use crate::error::{Error, Result, did_you_mean};

/// The object in the file, and where it is.
pub(crate) struct Fields<'a> {
    path: &'a Path,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub fn new(path: &'a Path, map: &'a Map<String, Value>) -> Self {
        Self { path, map }
    }

    pub fn wrong(&self, field: &str, expected: impl std::fmt::Display) -> Error {
        let found = match self.map.get(field) {
            Some(value) => short(value),
            None => "nothing".to_owned(),
        };
        Error::file(
            self.path,
            format!("field `{field}`: expected {expected}, found {found}"),
        )
    }

    /// The field's value; JSON `null` is the same as absent.
    fn get(&self, field: &str) -> Option<&Value> {
        self.map.get(field).filter(|value| !value.is_null())
    }

    pub fn optional_size(&self, field: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        match value.as_u64() {
            // Ids are u32, so no dimension of interest is larger.
            Some(size @ 1..=0xffff_ffff) => Ok(Some(size as usize)),
            _ => Err(self.wrong(field, "a positive integer")),
        }
    }

    pub fn size(&self, field: &str) -> Result<usize> {
        self.optional_size(field)?
            .ok_or_else(|| self.wrong(field, "a positive integer"))
    }

    pub fn flag(&self, field: &str, default: bool) -> Result<bool> {
        match self.get(field) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong(field, "true or false")),
        }
    }

    pub fn number(&self, field: &str, default: f64) -> Result<f64> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => match value.as_f64() {
                Some(number) if number.is_finite() && number > 0.0 => Ok(number),
                _ => Err(self.wrong(field, "a positive number")),
            },
        }
    }

    pub fn ids(&self, field: &str) -> Result<Vec<u32>> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match self.get(field) {
            None => Some(Vec::new()),
            Some(Value::Array(items)) => items.iter().map(id).collect(),
            // Some files write -1 for "none".
            Some(Value::Number(number)) if number.as_i64() == Some(-1) => Some(Vec::new()),
            Some(value) => id(value).map(|id| vec![id]),
        }
        .ok_or_else(|| self.wrong(field, "a token id or a list of them"))
    }

    pub fn architecture(&self) -> Result<Architecture> {
        let known = Architecture::KNOWN;
        let named = match self.get("architectures") {
            Some(Value::Array(names)) => names.first().and_then(Value::as_str),
            _ => None,
        };
        let found = match (named, self.get("model_type").and_then(Value::as_str)) {
            (Some(name), _) => known.iter().find(|(class, _, _)| *class == name),
            (None, Some(kind)) => known.iter().find(|(_, model_type, _)| *model_type == kind),
            (None, None) => None,
        };
        found
            .map(|(_, _, architecture)| *architecture)
            .ok_or_else(|| {
                let classes: Vec<&str> = known.iter().map(|(class, _, _)| *class).collect();
                let error = self.wrong(
                    if named.is_none() && self.get("model_type").is_some() {
                        "model_type"
                    } else {
                        "architectures"
                    },
                    format!("one of the supported architectures {}", classes.join(", ")),
                );
                match named.and_then(|name| did_you_mean(name, classes)) {
                    Some(near) => error.remedy(near),
                    None => error.remedy("distributions of other models can be imported as `topk`"),
                }
            })
    }

    pub fn activation(&self) -> Result<Activation> {
        match self.get("hidden_act").map(Value::as_str) {
            None | Some(Some("silu" | "swish")) => Ok(Activation::Silu),
            Some(Some("gelu")) => Ok(Activation::Gelu),
            Some(Some("gelu_pytorch_tanh" | "gelu_new")) => Ok(Activation::GeluTanh),
            _ => Err(self.wrong("hidden_act", "silu, gelu or gelu_pytorch_tanh")),
        }
    }

    /// The old `rope_theta` + `rope_scaling`, or the new `rope_parameters` that has both.
    pub fn rope(&self) -> Result<Rope> {
        let object = |field: &'static str| match self.get(field) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some((field, map))),
            Some(_) => Err(self.wrong(field, "an object")),
        };
        let outer = self.number("rope_theta", 10_000.0)?;
        if let Some(factor) = self.get("partial_rotary_factor")
            && factor.as_f64() != Some(1.0)
        {
            return Err(self.wrong("partial_rotary_factor", "1 (whole heads are rotated)"));
        }
        let found = match object("rope_parameters")? {
            Some(parameters) => Some(parameters),
            None => object("rope_scaling")?,
        };
        let Some((field, map)) = found else {
            return Ok(Rope {
                theta: outer,
                scaling: RopeScaling::Default,
            });
        };
        let inner = Fields {
            path: self.path,
            map,
        };
        let place = |error: Error| match error {
            Error::Input {
                subject,
                problem,
                remedy,
            } => Error::Input {
                subject,
                problem: problem.replacen("field `", &format!("field `{field}."), 1),
                remedy,
            },
            other => other,
        };
        inner.rope_values(outer).map_err(place)
    }

    fn rope_values(&self, outer_theta: f64) -> Result<Rope> {
        let theta = self.number("rope_theta", outer_theta)?;
        if let Some(factor) = self.get("partial_rotary_factor")
            && factor.as_f64() != Some(1.0)
        {
            return Err(self.wrong("partial_rotary_factor", "1 (whole heads are rotated)"));
        }
        let kind = if self.get("rope_type").is_some() {
            "rope_type"
        } else {
            "type"
        };
        let required = |field: &str| match self.get(field) {
            Some(_) => self.number(field, 1.0),
            None => Err(self.wrong(field, "a positive number")),
        };
        let scaling = match self.get(kind).map(Value::as_str) {
            None | Some(Some("default")) => RopeScaling::Default,
            Some(Some("linear")) => RopeScaling::Linear {
                factor: required("factor")?,
            },
            Some(Some("llama3")) => {
                let low = required("low_freq_factor")?;
                let high = required("high_freq_factor")?;
                if high <= low {
                    let expected = format!("more than low_freq_factor {low}");
                    return Err(self.wrong("high_freq_factor", expected));
                }
                RopeScaling::Llama3 {
                    factor: required("factor")?,
                    low_freq_factor: low,
                    high_freq_factor: high,
                    original_max_position_embeddings: required("original_max_position_embeddings")?,
                }
            }
            _ => return Err(self.wrong(kind, "default, linear or llama3")),
        };
        Ok(Rope { theta, scaling })
    }

    pub fn windows(&self, architecture: Architecture, layers: usize) -> Result<Vec<Option<usize>>> {
        let none = vec![None; layers];
        let Some(window) = self.optional_size("sliding_window")? else {
            return Ok(none);
        };
        match architecture {
            Architecture::Llama => return Ok(none),
            Architecture::Mistral => return Ok(vec![Some(window); layers]),
            Architecture::Qwen2 | Architecture::Qwen3 => {}
        }
        if !self.flag("use_sliding_window", false)? {
            return Ok(none);
        }
        if let Some(types) = self.get("layer_types") {
            let expected = || format!("{layers} times `full_attention` or `sliding_attention`");
            let types = types
                .as_array()
                .filter(|types| types.len() == layers)
                .ok_or_else(|| self.wrong("layer_types", expected()))?;
            return types
                .iter()
                .map(|kind| match kind.as_str() {
                    Some("full_attention") => Ok(None),
                    Some("sliding_attention") => Ok(Some(window)),
                    _ => Err(self.wrong("layer_types", expected())),
                })
                .collect();
        }
        let first = match self.get("max_window_layers") {
            None => 28,
            Some(value) => value
                .as_u64()
                .ok_or_else(|| self.wrong("max_window_layers", "a number of layers"))?,
        };
        Ok((0..layers)
            .map(|layer| (layer as u64 >= first).then_some(window))
            .collect())
    }
}

/// A JSON value short enough for a message.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("`{}…`", &text[..end]),
        None => format!("`{text}`"),
    }
}
