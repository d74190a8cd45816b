//! `adapter_config.json`, read: what the settings make of the tensors.

use std::path::Path;

use serde_json::{Map, Value};

use super::config::scale;
use super::expression::{Expression, Pattern};
use super::settings::{Fields, is_nothing};
use super::targets::Targets;
use crate::error::Result;

/// What an adapter's training began with, which PEFT repeats when it loads the adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// The model's weights.
    Plain,
    /// The weights without their part of the adapter's rank (PiSSA; Meng, Wang & Zhang,
    /// arXiv:2404.02948).
    Pissa,
    /// The weights without their part along the first columns (OLoRA; Büyükakyüz,
    /// arXiv:2406.01775).
    Olora,
}

/// `trainable_token_indices`.
#[derive(Clone, Debug)]
pub(super) enum TokenIds {
    /// Of the embedding.
    Embedding(Vec<u32>),
    /// By the last part of the module's name.
    Named(Vec<(String, Vec<u32>)>),
}

/// The settings of an adapter.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    rank: usize,
    alpha: f64,
    rslora: bool,
    ranks: Pattern<usize>,
    alphas: Pattern<f64>,
    /// Which modules are adapted.
    pub targets: Targets,
    /// `modules_to_save`: ends of the names of modules that are stored whole.
    pub saved: Vec<String>,
    pub start: Start,
    /// Rows are given lengths (DoRA).
    pub dora: bool,
    /// B has a bias.
    pub bias: bool,
    /// What is done to an embedding is done to the head that it is.
    pub keep_tied: bool,
    pub tokens: Option<TokenIds>,
    /// `target_parameters`: adapted tensors that are no module's weight.
    pub parameters: Vec<String>,
}

impl Settings {
    /// Reads the settings in the text of the file `path`.
    ///
    /// # Errors
    /// Settings that are not known, not supported, of another type, or that PEFT refuses together.
    pub fn read(path: &Path, text: &str) -> Result<Self> {
        let fields = Fields::parse(path, text)?;
        let number = |value: &Value| value.as_f64().filter(|number| number.is_finite());
        let rank = |value: &Value| {
            let rank = value.as_u64().filter(|rank| *rank > 0)?;
            usize::try_from(rank).ok()
        };
        // PEFT's defaults.
        let or_8 = |field: &str| !fields.has(field);
        let saved = fields.names("modules_to_save")?.unwrap_or_default();
        let settings = Self {
            rank: match or_8("r") {
                true => 8,
                false => fields.read("r", "a number of at least 1", rank)?,
            },
            alpha: match or_8("lora_alpha") {
                true => 8.0,
                false => fields.read("lora_alpha", "a number", number)?,
            },
            rslora: fields.flag("use_rslora")?,
            ranks: fields.read("rank_pattern", "a rank for each expression", |value| {
                pattern(value, rank)
            })?,
            alphas: fields.read("alpha_pattern", "a number for each expression", |value| {
                pattern(value, number)
            })?,
            targets: Targets::read(&fields, &saved)?,
            saved,
            start: start(&fields)?,
            dora: fields.flag("use_dora")?,
            bias: fields.flag("lora_bias")?,
            keep_tied: fields.flag("ensure_weight_tying")?,
            tokens: fields.read("trainable_token_indices", "ids of tokens", token_ids)?,
            parameters: fields.names("target_parameters")?.unwrap_or_default(),
        };
        settings.check(&fields)?;
        Ok(settings)
    }

    /// Fails where PEFT refuses settings together.
    fn check(&self, fields: &Fields<'_>) -> Result<()> {
        let biases = ["none", "all", "lora_only"];
        let bias = fields.get("bias");
        if !bias.is_null() && !biases.iter().any(|known| bias == known) {
            return Err(fields.wrong("bias", "\"none\", \"all\" or \"lora_only\""));
        }
        let transposed = fields.flag("fan_in_fan_out")?;
        if self.bias && (self.dora || self.start != Start::Plain) {
            return Err(fields.wrong("lora_bias", "false with DoRA, PiSSA or OLoRA"));
        }
        let dropout = fields.get("lora_dropout").as_f64().unwrap_or(0.0);
        if !self.parameters.is_empty()
            && (self.dora
                || self.bias
                || transposed
                || dropout != 0.0
                || self.start != Start::Plain)
        {
            let expected = "null with `use_dora`, `lora_bias`, `lora_dropout`, `fan_in_fan_out`, \
                            PiSSA or OLoRA";
            return Err(fields.wrong("target_parameters", expected));
        }
        Ok(())
    }

    /// The rank in the module that PEFT calls `module`.
    pub fn rank(&self, module: &str) -> usize {
        self.ranks.of(module).unwrap_or(self.rank)
    }

    /// The factor s of B A in the module that PEFT calls `module`.
    pub fn scale(&self, module: &str) -> f64 {
        let alpha = self.alphas.of(module).unwrap_or(self.alpha);
        scale(alpha, self.rank(module), self.rslora)
    }

    /// Whether a tensor belongs to a module of `modules_to_save`.
    pub fn is_saved(&self, tensor: &str) -> bool {
        let mut module = tensor;
        while let Some((parent, _)) = module.rsplit_once('.') {
            if self
                .saved
                .iter()
                .any(|name| parent.ends_with(name.as_str()))
            {
                return true;
            }
            module = parent;
        }
        false
    }
}

fn pattern<T>(found: &Value, value: impl Fn(&Value) -> Option<T>) -> Option<Pattern<T>> {
    let empty = Map::new();
    let map = match found {
        Value::Null => &empty,
        found => found.as_object()?,
    };
    let pairs = map.iter();
    let pairs = pairs.map(|(name, of)| Some((Expression::last_parts(name)?, value(of)?)));
    pairs.collect::<Option<_>>().map(Pattern)
}

fn token_ids(value: &Value) -> Option<Option<TokenIds>> {
    let id = |value: &Value| u32::try_from(value.as_u64()?).ok();
    let ids = |value: &Value| -> Option<Vec<u32>> { value.as_array()?.iter().map(id).collect() };
    match value {
        Value::Null => Some(None),
        Value::Object(map) => {
            let pairs = map.iter();
            let named = pairs.map(|(name, list)| Some((name.clone(), ids(list)?)));
            Some(Some(TokenIds::Named(named.collect::<Option<_>>()?)))
        }
        list => Some(Some(TokenIds::Embedding(ids(list)?))),
    }
}

/// What `init_lora_weights` says, by what PEFT does with it when it loads an adapter.
fn start(fields: &Fields<'_>) -> Result<Start> {
    let field = "init_lora_weights";
    let value = fields.get(field);
    let text = match value {
        value if is_nothing(value) || value == true => return Ok(Start::Plain),
        value => value.as_str().unwrap_or_default(),
    };
    // These change the model's weights with numbers that are not in the files.
    let unknown = ["pissa", "corda", "loftq", "lora_ga"];
    match (text, text.to_lowercase().as_str()) {
        ("pissa", _) => Ok(Start::Pissa),
        (_, "olora") => Ok(Start::Olora),
        ("eva" | "orthogonal", _) | (_, "gaussian" | "mica") => Ok(Start::Plain),
        _ if unknown.iter().any(|start| text.starts_with(start)) => {
            let error = fields.wrong(field, "a start that leaves the model as it is");
            Err(error.remedy(
                "save the adapter as plain LoRA with PEFT: \
                 `save_pretrained(…, path_initial_model_for_weight_conversion=…)`",
            ))
        }
        _ => {
            let expected = "true, false, \"gaussian\", \"eva\", \"orthogonal\", \"mica\", \
                            \"pissa\" or \"olora\"";
            Err(fields.wrong(field, expected))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::lora::LoraConfig;

    fn read(settings: &Value) -> Result<Settings> {
        let mut all = json!({"peft_type": "LORA"});
        let more = settings.as_object().unwrap().clone();
        all.as_object_mut().unwrap().extend(more);
        Settings::read(Path::new("adapter_config.json"), &all.to_string())
    }

    #[test]
    fn the_scale_and_the_rank_of_a_module() {
        let settings = json!({"r": 2, "lora_alpha": 5,
            "alpha_pattern": {"layers.1.v_proj": 2.0, "^proj$": 1.0, "layers\\.\\d+\\.v_proj": 7},
            "rank_pattern": {"layers.1.v_proj": 4, ".*\\.q_proj": 3}});
        let found = read(&settings).unwrap();
        for (module, scale, rank) in [
            ("layers.0.v_proj", 3.5, 2),
            ("layers.1.v_proj", 0.5, 4),
            ("layers.11.v_proj", 3.5, 2),
            ("layers.1.q_proj", 5.0 / 3.0, 3),
            ("q_proj", 2.5, 2),
            ("proj", 0.5, 2),
            ("layers.0.proj", 2.5, 2),
        ] {
            assert_eq!(found.scale(module), scale, "{module}");
            assert_eq!(found.rank(module), rank, "{module}");
        }
        let mut settings = json!({"r": 4, "lora_alpha": 5, "use_rslora": true});
        assert_eq!(read(&settings).unwrap().scale("q_proj"), 2.5);
        // What PEFT takes where they are absent.
        settings = json!({});
        assert_eq!(read(&settings).unwrap().rank("q_proj"), 8);
        assert_eq!(read(&settings).unwrap().scale("q_proj"), 1.0);
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let config = LoraConfig {
            rslora: true,
            ..LoraConfig::new(2, 3.5, vec!["q_proj".to_owned()])
        };
        config.write(dir.path(), Path::new("base")).unwrap();
        let path = dir.path().join("adapter_config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let found = Settings::read(&path, &text).unwrap();
        assert_eq!(found.scale("x.q_proj"), config.scale());
        assert_eq!(found.rank("x.q_proj"), 2);
    }

    /// What says nothing or changes nothing passes; all else is read or named.
    #[test]
    fn settings_are_known_or_refused_by_name() {
        for harmless in [
            json!({"init_lora_weights": true}),
            json!({"init_lora_weights": false}),
            json!({"init_lora_weights": null}),
            json!({"init_lora_weights": "gaussian"}),
            json!({"init_lora_weights": "Gaussian"}),
            json!({"init_lora_weights": "eva", "eva_config": {"rho": 2.0}}),
            json!({"init_lora_weights": "orthogonal"}),
            json!({"init_lora_weights": "mica"}),
            json!({"bias": "lora_only"}),
            json!({"lora_dropout": 0.1, "task_type": "SEQ_CLS", "revision": "main"}),
            json!({"alora_invocation_tokens": null, "layer_replication": []}),
            json!({"a_setting_of_tomorrow": null, "another": {}, "third": false}),
            json!({"velora_config": {"num_groups": 4}, "qalora_group_size": 8}),
            json!({"trainable_token_indices": {"embed_tokens": [1, 2]}}),
        ] {
            let found = read(&harmless);
            assert!(found.is_ok(), "{harmless}: {}", found.err().unwrap());
        }
        for (field, value) in [
            ("init_lora_weights", json!("pissa_niter_4")),
            ("init_lora_weights", json!("corda")),
            ("init_lora_weights", json!("loftq")),
            ("init_lora_weights", json!("lora_ga")),
            ("init_lora_weights", json!("tomorrow")),
            ("init_lora_weights", json!(3)),
            ("alora_invocation_tokens", json!([1, 2])),
            ("layer_replication", json!([[0, 2], [1, 2]])),
            ("megatron_config", json!({"a": 1})),
            ("use_qalora", json!(true)),
            ("use_bdlora", json!({"nblocks": 2})),
            ("monteclora_config", json!({"num_samples": 2})),
            ("arrow_config", json!({"top_k": 2})),
            ("kasa_config", json!({"beta": 1})),
            ("enable_lora", json!([true, false, true])),
            ("a_setting_of_tomorrow", json!("x")),
            ("a_setting_of_tomorrow", json!(0)),
            ("bias", json!("some")),
            ("r", json!(0)),
            ("r", json!(null)),
            ("lora_alpha", json!("8")),
            ("use_rslora", json!(1)),
            ("use_dora", json!("true")),
            ("fan_in_fan_out", json!("x")),
            ("ensure_weight_tying", json!(2)),
            ("rank_pattern", json!({"(": 2})),
            ("rank_pattern", json!({"q": 0})),
            ("alpha_pattern", json!([1])),
            ("trainable_token_indices", json!([-1])),
            ("target_parameters", json!("experts")),
            ("modules_to_save", json!("lm_head")),
        ] {
            let error = read(&json!({field: value.clone()})).err();
            let error = error.unwrap_or_else(|| panic!("accepted: {field} {value}"));
            assert!(
                error.to_string().contains(&format!("field `{field}`")),
                "{error}"
            );
            assert_eq!(error.exit_code(), 1, "{error}");
        }
        let both = json!({"use_dora": true, "lora_bias": true});
        assert!(read(&both).is_err());
    }
}
