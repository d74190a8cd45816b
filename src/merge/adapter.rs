//! LoRA adapters in PEFT's layout, applied to a tensor while it is read.
//!
//! ```text
//! adapter_config.json            r, lora_alpha, alpha_pattern, use_rslora, fan_in_fan_out
//! adapter_model.safetensors      base_model.model.<module>.lora_A.weight (r × in), .lora_B.weight (out × r)
//!                                .lora_embedding_A (r × rows), .lora_embedding_B (columns × r)
//!                                .lora_magnitude_vector (out): DoRA
//!                                .weight, .base_layer.weight: in place of the model's own
//! ```
//!
//! The weight of an adapted module is W + s · B A, with s = lora_alpha / r, or lora_alpha / √r with
//! `use_rslora`; an embedding's is W + s · (B A)ᵀ. It is computed in `f32` and not rounded to the
//! dtype of W.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::low_rank::{LowRank, Update};
use crate::checkpoint::{ADAPTER_CONFIG as CONFIG, ADAPTER_WEIGHTS as WEIGHTS, Checkpoint};
use crate::error::{Context, Error, Result};
use crate::tensors::Elements;

/// What PEFT puts before the names of modules.
pub(super) const PREFIX: &str = "base_model.model.";

/// An open adapter.
pub(super) struct Adapter {
    /// Its folder.
    pub dir: PathBuf,
    /// Its matrices.
    pub checkpoint: Checkpoint,
    /// Its settings as they are in the file.
    pub config: String,
    settings: Settings,
    /// By the name of the weight.
    modules: BTreeMap<String, Module>,
    /// By the name of the weight: the tensor in its place.
    whole: BTreeMap<String, String>,
}

/// The settings that are needed.
struct Settings {
    alpha: f64,
    /// Modules with another alpha.
    alphas: Vec<(String, f64)>,
    rslora: bool,
    /// W is stored as in × out.
    transposed: bool,
}

/// The tensors of an adapted weight.
#[derive(Default)]
struct Module {
    a: Option<String>,
    b: Option<String>,
    magnitude: Option<String>,
    embedding: bool,
}

/// What a tensor is to the module whose name it begins with.
enum Part {
    A,
    B,
    Magnitude,
    Whole,
}

/// How the name of a tensor ends, what that makes it, and whether the module is an embedding.
const PARTS: [(&str, Part, bool); 9] = [
    (".lora_A.weight", Part::A, false),
    (".lora_B.weight", Part::B, false),
    (".lora_A.default.weight", Part::A, false),
    (".lora_B.default.weight", Part::B, false),
    (".lora_embedding_A", Part::A, true),
    (".lora_embedding_B", Part::B, true),
    (".lora_magnitude_vector", Part::Magnitude, false),
    (".lora_magnitude_vector.weight", Part::Magnitude, false),
    (".base_layer.weight", Part::Whole, false),
];

/// Settings that change what an adapter computes, and are not supported.
const UNSUPPORTED: &[&str] = &[
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "use_qalora",
    "use_bdlora",
];

impl Settings {
    fn read(path: &Path, config: &Value) -> Result<Self> {
        let wrong = |field: &str, expected: &str| {
            let found = &config[field];
            let problem = format!("field `{field}`: expected {expected}, found {found}");
            Error::file(path, problem)
        };
        if config["peft_type"] != "LORA" {
            return Err(wrong("peft_type", "\"LORA\"").remedy("only LoRA adapters are supported"));
        }
        if !matches!(config["bias"].as_str(), None | Some("none")) {
            return Err(wrong("bias", "\"none\"").remedy("adapters with biases are not supported"));
        }
        for field in UNSUPPORTED {
            let nothing = match &config[*field] {
                Value::Null | Value::Bool(false) => true,
                Value::Array(list) => list.is_empty(),
                Value::Object(map) => map.is_empty(),
                _ => false,
            };
            if !nothing {
                return Err(wrong(field, "none").remedy("this setting is not supported"));
            }
        }
        let flag = |field: &str| match &config[field] {
            Value::Null => Ok(false),
            Value::Bool(flag) => Ok(*flag),
            _ => Err(wrong(field, "true or false")),
        };
        let number = |value: &Value| value.as_f64().filter(|number| number.is_finite());
        let plain = |module: &str| {
            module
                .chars()
                .all(|c| c.is_alphanumeric() || "._-".contains(c))
        };
        let alphas = match &config["alpha_pattern"] {
            Value::Null => Vec::new(),
            Value::Object(map) => map
                .iter()
                .map(|(module, alpha)| {
                    let alpha = number(alpha).filter(|_| plain(module))?;
                    Some((module.clone(), alpha))
                })
                .collect::<Option<_>>()
                .ok_or_else(|| wrong("alpha_pattern", "a number for each name of modules"))?,
            _ => return Err(wrong("alpha_pattern", "an object")),
        };
        Ok(Self {
            alpha: number(&config["lora_alpha"]).ok_or_else(|| wrong("lora_alpha", "a number"))?,
            alphas,
            rslora: flag("use_rslora")?,
            transposed: flag("fan_in_fan_out")?,
        })
    }

    /// The factor of B A in the module with this name. A pattern is the end of a name, in whole
    /// parts; the first that fits counts, as in PEFT.
    fn scale(&self, module: &str, rank: usize) -> f32 {
        let matches = |pattern: &str| {
            let before = module.strip_suffix(pattern);
            before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        let found = self.alphas.iter().find(|(pattern, _)| matches(pattern));
        let alpha = found.map_or(self.alpha, |(_, alpha)| *alpha);
        let strength = match self.rslora {
            true => (rank as f64).sqrt(),
            false => rank as f64,
        };
        (alpha / strength) as f32
    }
}

impl Adapter {
    /// Opens the adapter in `dir` for the model `base`.
    ///
    /// # Errors
    ///
    /// Missing or damaged files; another kind of adapter; settings that are not supported; tensors
    /// that are no part of an adapter; A without B; modules that the model does not have; shapes
    /// that do not fit.
    pub fn open(dir: &Path, base: &Checkpoint) -> Result<Self> {
        let path = dir.join(CONFIG);
        if !path.is_file() {
            return Err(
                Error::file(dir, format!("expected an adapter, there is no `{CONFIG}`"))
                    .remedy("write `model+adapter` with the folder of a LoRA adapter"),
            );
        }
        let text = std::fs::read_to_string(&path).at(&path)?;
        let settings = Settings::read(&path, &serde_json::from_str(&text).at(&path)?)?;
        let mut adapter = Self {
            dir: dir.to_path_buf(),
            checkpoint: Checkpoint::open(&dir.join(WEIGHTS))?,
            config: text,
            settings,
            modules: BTreeMap::new(),
            whole: BTreeMap::new(),
        };
        adapter.sort(base)?;
        for (weight, module) in &adapter.modules {
            adapter.check(weight, module, base)?;
        }
        Ok(adapter)
    }

    /// An error about one of the tensors.
    fn bad(&self, name: &str, problem: impl std::fmt::Display) -> Error {
        let problem = format!("tensor `{name}`: {problem}");
        Error::file(&self.dir.join(WEIGHTS), problem)
            .remedy("check that the adapter belongs to this model")
    }

    /// Finds what each tensor is.
    fn sort(&mut self, base: &Checkpoint) -> Result<()> {
        let mut modules: BTreeMap<String, Module> = BTreeMap::new();
        let mut whole = BTreeMap::new();
        for tensor in self.checkpoint.tensors() {
            let name = &tensor.name;
            if !tensor.dtype.is_float() || tensor.dtype.is_f8() {
                return Err(self.bad(name, format!("expected floats, found {}", tensor.dtype)));
            }
            let Some(inner) = name.strip_prefix(PREFIX) else {
                return Err(self.bad(name, format!("expected a name with `{PREFIX}`")));
            };
            let part = PARTS.iter().find_map(|(end, part, embedding)| {
                Some((inner.strip_suffix(end)?, part, *embedding))
            });
            let second = match part {
                Some((module, Part::Whole, _)) => {
                    whole.insert(format!("{module}.weight"), name.clone())
                }
                Some((module, part, embedding)) => {
                    let found = modules.entry(format!("{module}.weight")).or_default();
                    found.embedding |= embedding;
                    let place = match part {
                        Part::A => &mut found.a,
                        Part::B => &mut found.b,
                        _ => &mut found.magnitude,
                    };
                    place.replace(name.clone())
                }
                None if base.info(inner).is_some() => whole.insert(inner.to_owned(), name.clone()),
                None => {
                    let what = "the model has no such tensor, and it is no part of an adapter \
                                (`.lora_A.weight`, `.lora_B.weight`)";
                    return Err(self.bad(name, what));
                }
            };
            if second.is_some() {
                return Err(self.bad(name, "the module has another one"));
            }
        }
        for (weight, name) in &whole {
            let own = base.info(weight).map(|info| info.shape.as_slice());
            let found = self.checkpoint.info(name).map(|info| info.shape.as_slice());
            if own != found {
                let problem = match own {
                    Some(own) => format!("expected the model's shape {own:?}, found {found:?}"),
                    None => format!("the model has no tensor `{weight}`"),
                };
                return Err(self.bad(name, problem));
            }
        }
        if modules.is_empty() {
            let path = self.dir.join(WEIGHTS);
            return Err(Error::file(&path, "there is no adapter in this file"));
        }
        (self.modules, self.whole) = (modules, whole);
        Ok(())
    }

    /// Checks the shapes of a module.
    fn check(&self, weight: &str, module: &Module, base: &Checkpoint) -> Result<()> {
        let (Some(a), Some(b)) = (&module.a, &module.b) else {
            let missing = format!("`{weight}` has A without B, or B without A");
            return Err(
                Error::file(&self.dir.join(WEIGHTS), missing).remedy("the adapter is incomplete")
            );
        };
        let Some(info) = base.info(weight) else {
            return Err(self.bad(a, format!("the model has no tensor `{weight}`")));
        };
        let shape = |name: &str| self.checkpoint.info(name).map(|t| t.shape.as_slice());
        let fits = match (shape(a), shape(b)) {
            (Some(&[rank, columns]), Some(&[rows, other])) => {
                let whole = match self.flips(module) {
                    true => [columns, rows],
                    false => [rows, columns],
                };
                rank == other && rank > 0 && info.shape == whole
            }
            _ => false,
        };
        if !fits {
            let problem = format!(
                "A of {:?} and B of {:?} do not fit `{weight}` of {:?}",
                shape(a).unwrap_or_default(),
                shape(b).unwrap_or_default(),
                info.shape
            );
            return Err(self.bad(a, problem));
        }
        match &module.magnitude {
            Some(name) if self.flips(module) => {
                Err(self.bad(name, "DoRA of embeddings is not supported"))
            }
            Some(name) if shape(name) != info.shape.get(..1) => Err(self.bad(
                name,
                format!("expected [{}], a length for each row", info.shape[0]),
            )),
            _ => Ok(()),
        }
    }

    /// Whether the weight is stored as the transpose of B A.
    fn flips(&self, module: &Module) -> bool {
        self.settings.transposed || module.embedding
    }

    /// The adapter's tensor that takes the place of the model's tensor `name`, if there is one.
    pub fn whole(&self, name: &str) -> Option<&str> {
        self.whole.get(name).map(String::as_str)
    }

    /// The update of the tensor `name`, which is `weight` without it, if the adapter has one.
    /// Memory: 4 bytes for each element of A and B.
    ///
    /// # Errors
    ///
    /// None that [`Adapter::open`] did not have.
    pub fn update(&self, name: &str, weight: &dyn Elements) -> Result<Option<Update>> {
        let Some(module) = self.modules.get(name) else {
            return Ok(None);
        };
        let (Some(a), Some(b)) = (&module.a, &module.b) else {
            return Ok(None);
        };
        let (a, b) = (self.checkpoint.tensor(a)?, self.checkpoint.tensor(b)?);
        let rank = a.shape[0];
        let scale = self.settings.scale(name.trim_end_matches(".weight"), rank);
        let product = LowRank::new(scale, rank, a.to_f32(), b.to_f32(), self.flips(module));
        let update = Update::new(product);
        Ok(Some(match &module.magnitude {
            None => update,
            Some(lengths) => {
                let lengths = self.checkpoint.tensor(lengths)?.to_f32();
                update.with_lengths(weight, &lengths)
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_of_a_module() {
        let settings = Settings {
            alpha: 5.0,
            alphas: [("layers.1.v_proj", 2.0), ("proj", 1.0), ("v_proj", 7.0)]
                .map(|(pattern, alpha)| (pattern.to_owned(), alpha))
                .to_vec(),
            rslora: false,
            transposed: false,
        };
        for (module, scale) in [
            ("layers.0.v_proj", 3.5),
            ("layers.1.v_proj", 1.0),
            ("layers.11.v_proj", 3.5),
            ("layers.1.q_proj", 2.5),
            ("proj", 0.5),
        ] {
            assert_eq!(settings.scale(module, 2), scale, "{module}");
        }
    }
}
