//! `adapter_config.json`: the settings of an adapter, under the names of PEFT's `LoraConfig`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::names::names_module;
use crate::checkpoint::ADAPTER_CONFIG as CONFIG;
use crate::error::{Context, Error, Result};

/// Settings that change what an adapter computes, and are not supported.
const UNSUPPORTED: [&str; 6] = [
    "lora_bias",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "use_qalora",
    "use_bdlora",
];

/// The settings of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// `r`: rows of A, columns of B; at least 1.
    pub rank: usize,
    /// `lora_alpha`: the strength of B A.
    pub alpha: f64,
    /// `use_rslora`: B A is multiplied by alpha / √rank instead of alpha / rank (rsLoRA;
    /// Kalajdzievski, arXiv 2312.03732).
    pub rslora: bool,
    /// `target_modules`: names of the adapted modules, see [`names_module`].
    pub targets: Vec<String>,
    /// `rank_pattern`: modules of another rank.
    pub ranks: Pattern<usize>,
    /// `alpha_pattern`: modules of another strength.
    pub alphas: Pattern<f64>,
    /// `fan_in_fan_out`: weights are stored as in × out.
    pub transposed: bool,
}

/// Values for the modules that a name stands for; the first name that fits counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern<T>(pub Vec<(String, T)>);

impl<T: Copy + Into<Value>> Pattern<T> {
    fn of(&self, module: &str) -> Option<T> {
        let found = self.0.iter().find(|(name, _)| names_module(name, module));
        found.map(|(_, value)| *value)
    }

    /// Reads an object; `None` if it is something else, or has a value that `value` refuses.
    fn read(found: &Value, value: impl Fn(&Value) -> Option<T>) -> Option<Self> {
        let empty = Map::new();
        let map = match found {
            Value::Null => &empty,
            found => found.as_object()?,
        };
        let pairs = map
            .iter()
            .map(|(name, of)| Some((name.clone(), value(of)?)));
        pairs.collect::<Option<_>>().map(Self)
    }

    fn to_json(&self) -> Value {
        let pairs = self
            .0
            .iter()
            .map(|(name, value)| (name.clone(), (*value).into()));
        Value::Object(pairs.collect())
    }

    /// PEFT takes names as regular expressions; these are names and nothing else.
    fn is_plain(&self) -> bool {
        let plain = |c: char| c.is_alphanumeric() || "._-".contains(c);
        self.0.iter().all(|(name, _)| name.chars().all(plain))
    }
}

impl LoraConfig {
    /// Adapters of one rank and strength.
    pub fn new(rank: usize, alpha: f64, targets: Vec<String>) -> Self {
        Self {
            rank,
            alpha,
            rslora: false,
            targets,
            ranks: Pattern(Vec::new()),
            alphas: Pattern(Vec::new()),
            transposed: false,
        }
    }

    /// The factor s of B A in `module`, whose A has `rank` rows.
    pub fn scale(&self, module: &str, rank: usize) -> f64 {
        let alpha = self.alphas.of(module).unwrap_or(self.alpha);
        let rank = rank as f64;
        alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// The rank in `module`, unless an expression says which modules have another one: then their
    /// tensors do.
    pub(super) fn rank_of(&self, module: &str) -> Option<usize> {
        let rank = || self.ranks.of(module).unwrap_or(self.rank);
        self.ranks.is_plain().then(rank)
    }

    /// Reads the settings in the text of the file `path`.
    pub(super) fn read(path: &Path, text: &str) -> Result<Self> {
        let map: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| Error::file(path, format!("not a JSON object: {error}")))?;
        let fields = Fields { path, map };
        if fields.get("peft_type") != "LORA" {
            let error = fields.wrong("peft_type", "\"LORA\"");
            return Err(error.remedy("only LoRA adapters are supported"));
        }
        if !matches!(fields.get("bias"), Value::Null) && fields.get("bias") != "none" {
            let error = fields.wrong("bias", "\"none\"");
            return Err(error.remedy("adapters with biases are not supported"));
        }
        for field in UNSUPPORTED {
            if !is_nothing(fields.get(field)) {
                let error = fields.wrong(field, "none");
                return Err(error.remedy("this setting is not supported"));
            }
        }
        let number = |value: &Value| value.as_f64().filter(|number| number.is_finite());
        let rank = |value: &Value| {
            let rank = value.as_u64().filter(|rank| *rank > 0)?;
            usize::try_from(rank).ok()
        };
        let strings = |list: &Vec<Value>| {
            let names = list.iter().filter_map(Value::as_str);
            names.map(str::to_owned).collect()
        };
        Ok(Self {
            rank: fields.read("r", "a number of at least 1", rank)?,
            alpha: fields.read("lora_alpha", "a number", number)?,
            rslora: fields.flag("use_rslora")?,
            targets: fields
                .get("target_modules")
                .as_array()
                .map(strings)
                .unwrap_or_default(),
            ranks: fields.read("rank_pattern", "a rank for each name of modules", |value| {
                Pattern::read(value, rank)
            })?,
            alphas: fields.read(
                "alpha_pattern",
                "a number for each name of modules",
                |value| Pattern::read(value, number).filter(Pattern::is_plain),
            )?,
            transposed: fields.flag("fan_in_fan_out")?,
        })
    }

    /// Writes the settings into the folder `dir`; `base` is where PEFT finds the model.
    pub(super) fn write(&self, dir: &Path, base: &Path) -> Result<()> {
        let alpha = match self.alpha {
            whole if whole.fract() == 0.0 && whole.abs() < 1e15 => json!(whole as i64),
            alpha => json!(alpha),
        };
        let mut config = json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base.to_string_lossy(),
            "r": self.rank,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "use_rslora": self.rslora,
            "target_modules": self.targets,
            "bias": "none",
            "fan_in_fan_out": self.transposed,
            "inference_mode": true,
            "init_lora_weights": true,
            "modules_to_save": null,
        });
        let patterns = [
            ("rank_pattern", self.ranks.to_json()),
            ("alpha_pattern", self.alphas.to_json()),
        ];
        for (field, pattern) in patterns {
            if !is_nothing(&pattern) {
                config[field] = pattern;
            }
        }
        let path = dir.join(CONFIG);
        std::fs::write(&path, format!("{config:#}\n")).at(&path)
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// The fields of the file.
struct Fields<'a> {
    path: &'a Path,
    map: Map<String, Value>,
}

impl Fields<'_> {
    fn get(&self, field: &str) -> &Value {
        self.map.get(field).unwrap_or(&Value::Null)
    }

    fn wrong(&self, field: &str, expected: &str) -> Error {
        let found = self.get(field);
        let problem = format!("field `{field}`: expected {expected}, found {found}");
        Error::file(self.path, problem)
    }

    fn read<T>(
        &self,
        field: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<T> {
        read(self.get(field)).ok_or_else(|| self.wrong(field, expected))
    }

    fn flag(&self, field: &str) -> Result<bool> {
        self.read(field, "true or false", |value| match value {
            Value::Null => Some(false),
            value => value.as_bool(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_and_the_rank_of_a_module() {
        let alphas = [("layers.1.v_proj", 2.0), ("proj", 1.0), ("v_proj", 7.0)];
        let ranks = [("layers.1.v_proj", 4), ("q_proj", 3)];
        let mut config = LoraConfig {
            alphas: Pattern(
                alphas
                    .map(|(name, alpha)| (name.to_owned(), alpha))
                    .to_vec(),
            ),
            ranks: Pattern(ranks.map(|(name, rank)| (name.to_owned(), rank)).to_vec()),
            ..LoraConfig::new(2, 5.0, Vec::new())
        };
        for (module, scale, rank) in [
            ("layers.0.v_proj", 3.5, 2),
            ("layers.1.v_proj", 1.0, 4),
            ("layers.11.v_proj", 3.5, 2),
            ("layers.1.q_proj", 2.5, 3),
            ("proj", 0.5, 2),
        ] {
            assert_eq!(config.scale(module, 2), scale, "{module}");
            assert_eq!(config.rank_of(module), Some(rank), "{module}");
        }
        config.rslora = true;
        assert_eq!(config.scale("layers.0.q_proj", 4), 2.5);
        // Which modules an expression names, only their tensors say.
        config.ranks.0.push((".*_proj".to_owned(), 8));
        assert_eq!(config.rank_of("layers.1.q_proj"), None);
    }

    #[test]
    fn settings_survive_their_file() {
        let config = LoraConfig {
            rslora: true,
            ranks: Pattern(vec![("v_proj".to_owned(), 4)]),
            alphas: Pattern(vec![("v_proj".to_owned(), 0.5), ("q_proj".to_owned(), 2.0)]),
            transposed: true,
            ..LoraConfig::new(2, 3.5, vec!["q_proj".to_owned(), "v_proj".to_owned()])
        };
        let dir = tempfile::tempdir().unwrap();
        config.write(dir.path(), Path::new("base")).unwrap();
        let path = dir.path().join(CONFIG);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(LoraConfig::read(&path, &text).unwrap(), config);
    }
}
