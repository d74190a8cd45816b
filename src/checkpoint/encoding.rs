//! How the weights of a model folder are stored: as numbers, or packed.
//!
//! Quantisation is stated in many places: in fields of `config.json`, on top or in the part of a
//! submodel, and in files beside it. What the tensors are says more, and holds in any case.

use std::path::Path;

use serde_json::{Map, Value};

use super::companions::{CONFIG, QUANTISATION};
use super::weights::Checkpoint;
use crate::error::{Error, Result};
use crate::files::read_json;
use crate::tensors::{Packed, Quantisation, ScaleMap, Stored, packed};

/// The fields of a `config.json` in which quantisation is stated.
const FIELDS: [&str; 5] = [
    "quantization_config",
    "compression_config",
    "quantization",
    "quantize_config",
    "quant_config",
];

/// How the weights of a model folder are stored.
pub enum Encoding {
    /// As floats, with the scales of those that have 8 bits.
    Numbers(ScaleMap),
    /// In a format that is not decoded.
    Packed(PackedWeights),
}

/// Weights in a format that is not decoded.
#[derive(Clone, Debug)]
pub struct PackedWeights {
    /// What the tensors are.
    pub packed: Packed,
    /// Where it is stated, and what.
    statements: Vec<Statement>,
}

/// A place where quantisation is stated.
#[derive(Clone, Debug)]
struct Statement {
    /// The file and, in a `config.json`, the field.
    place: String,
    /// The field's path; empty for a file of its own.
    field: String,
    settings: Value,
}

impl Encoding {
    /// Finds out from the tensors of `checkpoint`, its configuration `config` (read from `file`) and
    /// the files beside it.
    ///
    /// # Errors
    /// Settings of a quantisation that is not known, where the tensors do not show it; scales that
    /// are not as expected ([`ScaleMap::new`]); files that are damaged.
    pub fn of(checkpoint: &Checkpoint, config: &Map<String, Value>, file: &Path) -> Result<Self> {
        let dir = checkpoint.dir();
        let tensors: Vec<Stored<'_>> = checkpoint.tensors().map(Stored::from).collect();
        let statements = statements(dir, config, file)?;
        if let Some(packed) = packed(&tensors) {
            return Ok(Self::Packed(PackedWeights { packed, statements }));
        }
        let eight_bits = tensors.iter().any(|tensor| tensor.dtype.is_f8());
        let mut found: Option<Quantisation> = None;
        for Statement {
            place, settings, ..
        } in &statements
        {
            let read = Quantisation::read(settings, place).map_err(|error| match eight_bits {
                true => error,
                false => error.remedy(
                    "the tensors are plain numbers: if they are what the model computes with, \
                     remove the statement, else convert the model to bfloat16",
                ),
            })?;
            let known = found.get_or_insert_with(|| Quantisation {
                method: read.method.clone(),
                blocks: Vec::new(),
            });
            known.blocks.extend(read.blocks);
        }
        Ok(Self::Numbers(ScaleMap::new(dir, &tensors, found.as_ref())?))
    }

    /// The scales of weights that are numbers.
    ///
    /// # Errors
    /// They are packed; `dir` is their folder, for the message.
    pub fn numbers(self, dir: &Path) -> Result<ScaleMap> {
        match self {
            Self::Numbers(scales) => Ok(scales),
            Self::Packed(packed) => Err(packed.refused(dir)),
        }
    }
}

/// Fails for a checkpoint whose weights are no numbers, whatever its configuration says.
///
/// # Errors
/// The format, and a tensor.
pub fn refuse_packed(checkpoint: &Checkpoint) -> Result<()> {
    let dir = checkpoint.dir();
    let tensors: Vec<Stored<'_>> = checkpoint.tensors().map(Stored::from).collect();
    let Some(packed) = packed(&tensors) else {
        return Ok(());
    };
    let path = dir.join(CONFIG);
    let config = match read_json(&path)? {
        Some(Value::Object(config)) => config,
        _ => Map::new(),
    };
    let statements = statements(dir, &config, &path)?;
    Err(PackedWeights { packed, statements }.refused(dir))
}

impl PackedWeights {
    /// The error of who needs numbers of the model in `dir`.
    pub fn refused(&self, dir: &Path) -> Error {
        Error::file(
            dir,
            format!("the weights are quantised: {}", self.describe()),
        )
        .remedy(
            "packed weights are no numbers: give the model that was quantised, or convert this one \
             to bfloat16 with the program that packed it",
        )
    }

    /// The format, an example, and where it is stated.
    pub fn describe(&self) -> String {
        let Packed {
            format,
            tensor,
            dtype,
            count,
        } = &self.packed;
        let stated = match self.statements.as_slice() {
            [] => "nothing beside the tensors says so".to_owned(),
            all => {
                let places: Vec<String> = all.iter().map(Statement::describe).collect();
                places.join(", ")
            }
        };
        format!("{format} ({count} tensors such as `{tensor}`, {dtype}; {stated})")
    }

    /// Whether another model is packed in the same way, so that layers of both may be stacked.
    pub fn is_like(&self, other: &Self) -> bool {
        let settings = |weights: &Self| -> Vec<(String, Value)> {
            let all = weights.statements.iter();
            all.map(|s| (s.field.clone(), s.settings.clone())).collect()
        };
        self.packed.format == other.packed.format && settings(self) == settings(other)
    }

    /// What the settings say about a layer by its number, if anything.
    pub fn names_layer(&self) -> Option<String> {
        let named = |text: &str| {
            let Some((_, rest)) = text.split_once("layers") else {
                return crate::tensors::layer(text).is_some();
            };
            let rest = rest.trim_start_matches(['\\', '.', '[', '(', '?', ':']);
            rest.starts_with(|c: char| c.is_ascii_digit())
        };
        self.statements.iter().find_map(|statement| {
            let text = find_text(&statement.settings, &named)?;
            Some(format!("{} names `{text}`", statement.place))
        })
    }
}

impl Statement {
    fn describe(&self) -> String {
        let name = self.place.rsplit('/').next().unwrap_or(&self.place);
        let method = ["quant_method", "quant_algo", "bits"]
            .iter()
            .find_map(|key| {
                let value = self.settings.get(*key).filter(|value| !value.is_null())?;
                Some(format!(" (`{key}`: {value})"))
            });
        format!("{name}{}", method.unwrap_or_default())
    }
}

/// The first key or text of a value for which `wanted` holds.
fn find_text(value: &Value, wanted: &impl Fn(&str) -> bool) -> Option<String> {
    match value {
        Value::String(text) => wanted(text).then(|| text.clone()),
        Value::Array(list) => list.iter().find_map(|value| find_text(value, wanted)),
        Value::Object(map) => map.iter().find_map(|(key, value)| match wanted(key) {
            true => Some(key.clone()),
            false => find_text(value, wanted),
        }),
        _ => None,
    }
}

/// Every place where quantisation is stated for the model in `dir`.
fn statements(dir: &Path, config: &Map<String, Value>, file: &Path) -> Result<Vec<Statement>> {
    let mut found = Vec::new();
    let mut fields: Vec<(String, Value)> = Vec::new();
    walk(config, "", &mut |path, value| {
        fields.push((path.to_owned(), value.clone()));
    });
    for (field, settings) in fields {
        found.push(Statement {
            place: format!("{}: field `{field}`", file.display()),
            field,
            settings,
        });
    }
    for name in QUANTISATION {
        let path = dir.join(name);
        let Some(value) = read_json(&path)? else {
            continue;
        };
        // ModelOpt names its method only in `config.json`.
        let settings = match value.get("quantization") {
            Some(Value::Object(inner)) => {
                let mut inner = inner.clone();
                inner.entry("quant_method").or_insert("modelopt".into());
                Value::Object(inner)
            }
            _ => value,
        };
        let only_caches = settings.get("quant_algo").is_some_and(Value::is_null);
        if states(&settings) && !only_caches {
            found.push(Statement {
                place: path.display().to_string(),
                field: String::new(),
                settings,
            });
        }
    }
    Ok(found)
}

/// Calls `each` with the path and value of every field of a configuration that states quantisation.
fn walk(config: &Map<String, Value>, before: &str, each: &mut impl FnMut(&str, &Value)) {
    for (key, value) in config {
        let path = match before {
            "" => key.clone(),
            _ => format!("{before}.{key}"),
        };
        if is_statement(key, value) {
            each(&path, value);
        } else if let Value::Object(inner) = value {
            walk(inner, &path, each);
        }
    }
}

/// Whether a field states quantisation: others have names like these.
fn is_statement(key: &str, value: &Value) -> bool {
    match key {
        "quantization" => value.get("bits").is_some() || value.get("quant_algo").is_some(),
        _ => FIELDS.contains(&key) && states(value),
    }
}

fn states(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Object(map) => !map.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    }
}

/// Takes every statement of quantisation out of a configuration: the weights that it is written
/// for are numbers.
pub fn remove_quantisation(config: &mut Map<String, Value>) {
    config.retain(|key, value| !is_statement(key, value));
    for value in config.values_mut() {
        if let Value::Object(inner) = value {
            remove_quantisation(inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn statements_are_found_wherever_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let found = |config: Value| -> Vec<String> {
            let path = dir.path().join("config.json");
            let all = statements(dir.path(), &object(config), &path).unwrap();
            all.iter().map(Statement::describe).collect()
        };
        let none = json!({"quantization_config": null, "quantization": {"codebooks": 4},
            "compression_config": {}, "text_config": {"hidden_size": 8}});
        assert!(found(none).is_empty());
        let mlx = json!({"quantization": {"group_size": 64, "bits": 4}});
        assert_eq!(
            found(mlx),
            ["config.json: field `quantization` (`bits`: 4)"]
        );
        let nested = json!({"text_config": {"quantization_config": {"quant_method": "awq"}}});
        let expected =
            "config.json: field `text_config.quantization_config` (`quant_method`: \"awq\")";
        assert_eq!(found(nested.clone()), [expected]);
        let mut cleaned = object(nested);
        remove_quantisation(&mut cleaned);
        assert_eq!(Value::Object(cleaned), json!({"text_config": {}}));
        let write = |name: &str, value: Value| {
            std::fs::write(dir.path().join(name), value.to_string()).unwrap();
        };
        write(
            "quantize_config.json",
            json!({"bits": 4, "group_size": 128}),
        );
        let caches = json!({"producer": {"name": "modelopt"},
            "quantization": {"quant_algo": null, "kv_cache_quant_algo": "FP8"}});
        write("hf_quant_config.json", caches);
        assert_eq!(found(json!({})), ["quantize_config.json (`bits`: 4)"]);
        let weights = json!({"quantization": {"quant_algo": "NVFP4"}});
        write("hf_quant_config.json", weights);
        assert_eq!(found(json!({})).len(), 2);
    }

    #[test]
    fn layers_that_settings_name_are_seen() {
        let named = |settings: Value| {
            let packed = PackedWeights {
                packed: Packed {
                    format: "MLX",
                    tensor: "w".into(),
                    dtype: crate::tensors::Dtype::U32,
                    count: 1,
                },
                statements: vec![Statement {
                    place: "p".into(),
                    field: String::new(),
                    settings,
                }],
            };
            packed.names_layer()
        };
        assert!(named(json!({"ignore": ["lm_head", "re:.*mlp.gate$"]})).is_none());
        assert!(named(json!({"bits": 4, "num_layers": "12"})).is_none());
        for settings in [
            json!({"modules_to_not_convert": ["model.layers.3.mlp"]}),
            json!({"model.layers.0.mlp.gate": {"bits": 8}}),
            json!({"ignore": ["re:model\\.layers\\.(3|4)\\..*"]}),
            json!({"ignore": ["transformer.h.1.attn"]}),
        ] {
            assert!(named(settings.clone()).is_some(), "{settings}");
        }
    }
}
