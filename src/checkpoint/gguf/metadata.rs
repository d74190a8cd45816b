//! The settings in a GGUF file, as the `config.json` that the model had before its conversion.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::header::{Header, Value};
use crate::error::{Error, Result};

/// Architectures by their GGUF names, with the Hugging Face class.
const FAMILIES: [(&str, &str); 8] = [
    ("llama", "LlamaForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
    ("qwen3moe", "Qwen3MoeForCausalLM"),
    ("gemma", "GemmaForCausalLM"),
    ("gemma2", "Gemma2ForCausalLM"),
    ("gemma3", "Gemma3ForCausalLM"),
    ("phi3", "Phi3ForCausalLM"),
];

/// `model_type` where it is not the GGUF name: `gemma3` reads images as well, which the file has not.
const TYPES: [(&str, &str); 2] = [("gemma3", "gemma3_text"), ("qwen3moe", "qwen3_moe")];

/// A number that was written as `f32`, as it was meant: 1e-5, not 9.999999747378752e-6.
pub(super) fn shortest(number: f64) -> f64 {
    let narrow = number as f32;
    match f64::from(narrow) == number {
        true => narrow.to_string().parse().unwrap_or(number),
        false => number,
    }
}

/// Reads single values of the metadata.
pub(super) struct Metadata<'a> {
    pub path: &'a Path,
    pub header: &'a Header,
}

impl<'a> Metadata<'a> {
    pub fn wrong(&self, key: &str, expected: &str) -> Error {
        let found = self.header.metadata.get(key);
        let found = found.map_or_else(|| "nothing".to_owned(), Value::to_string);
        Error::file(
            self.path,
            format!("metadata `{key}`: expected {expected}, found {found}"),
        )
    }

    /// A number that is not negative.
    pub fn size(&self, key: &str) -> Result<Option<u64>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(size)) => Ok(Some(*size)),
            Some(Value::Signed(size)) if *size >= 0 => Ok(Some(size.unsigned_abs())),
            Some(_) => Err(self.wrong(key, "a number")),
        }
    }

    pub fn required(&self, key: &str) -> Result<u64> {
        self.size(key)?
            .ok_or_else(|| self.wrong(key, "a positive number"))
    }

    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(number)) if number.is_finite() => Ok(Some(shortest(*number))),
            Some(_) => Err(self.wrong(key, "a finite fraction")),
        }
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "a text")),
        }
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Flag(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// `general.architecture`.
    pub fn family(&self) -> Result<&'static str> {
        let key = "general.architecture";
        let found = self.text(key)?;
        let known = FAMILIES.iter().find(|(name, _)| Some(*name) == found);
        known.map(|(name, _)| *name).ok_or_else(|| {
            let names = FAMILIES.map(|(name, _)| name).join(", ");
            self.wrong(key, &format!("one of {names}"))
                .remedy("`fuselm inspect` shows what the file holds")
        })
    }

    /// The fields of `config.json`.
    pub fn config(&self) -> Result<Map<String, Json>> {
        let family = self.family()?;
        let key = |name: &str| format!("{family}.{name}");
        let has = |name: &str| self.header.tensors.contains_key(name);
        let mut config = Map::new();
        let mut set = |field: &str, value: Json| {
            config.insert(field.to_owned(), value);
        };

        let experts = self.size(&key("expert_count"))?.unwrap_or(0);
        let window = self.size(&key("attention.sliding_window"))?.unwrap_or(0);
        let (kind, class) = match family {
            "llama" if experts > 0 => ("mixtral", "MixtralForCausalLM"),
            "llama" if window > 0 => ("mistral", "MistralForCausalLM"),
            _ => FAMILIES
                .into_iter()
                .find(|(name, _)| *name == family)
                .unwrap_or_default(),
        };
        let of_type = TYPES.iter().find(|(name, _)| *name == kind);
        set("architectures", json!([class]));
        set(
            "model_type",
            json!(of_type.map_or(kind, |(_, of_type)| of_type)),
        );
        for (field, name) in [
            ("hidden_size", "embedding_length"),
            ("intermediate_size", "feed_forward_length"),
            ("num_hidden_layers", "block_count"),
            ("num_attention_heads", "attention.head_count"),
            ("max_position_embeddings", "context_length"),
        ] {
            set(field, json!(self.required(&key(name))?));
        }
        for (field, name) in [
            ("num_key_value_heads", "attention.head_count_kv"),
            ("head_dim", "attention.key_length"),
        ] {
            if let Some(size) = self.size(&key(name))? {
                set(field, json!(size));
            }
        }
        if experts > 0 {
            let field = match family {
                "qwen3moe" => "num_experts",
                _ => "num_local_experts",
            };
            set(field, json!(experts));
            let used = self.required(&key("expert_used_count"))?;
            set("num_experts_per_tok", json!(used));
        }
        if window > 0 {
            set("sliding_window", json!(window));
        }
        let eps = key("attention.layer_norm_rms_epsilon");
        let eps = self
            .float(&eps)?
            .ok_or_else(|| self.wrong(&eps, "a fraction"))?;
        set("rms_norm_eps", json!(eps));

        let embedding = self.header.tensors.get("token_embd.weight");
        let rows = embedding.and_then(|tensor| tensor.shape.first());
        let rows = rows.ok_or_else(|| Error::file(self.path, "has no `token_embd.weight`"))?;
        set("vocab_size", json!(rows));
        set("tie_word_embeddings", json!(!has("output.weight")));
        if matches!(family, "llama" | "qwen3" | "qwen3moe") {
            set("attention_bias", json!(has("blk.0.attn_q.bias")));
            set("mlp_bias", json!(has("blk.0.ffn_gate.bias")));
        }
        for (field, name) in [
            ("bos_token_id", "tokenizer.ggml.bos_token_id"),
            ("eos_token_id", "tokenizer.ggml.eos_token_id"),
            ("pad_token_id", "tokenizer.ggml.padding_token_id"),
        ] {
            if let Some(id) = self.size(name)? {
                set(field, json!(id));
            }
        }
        match family {
            "gemma2" => self.gemma2(&mut config)?,
            "gemma3" => self.gemma3(&mut config)?,
            "qwen3moe" => {
                let width = self.required("qwen3moe.expert_feed_forward_length")?;
                config.insert("moe_intermediate_size".to_owned(), json!(width));
                // llama.cpp has no other way.
                config.insert("norm_topk_prob".to_owned(), json!(true));
            }
            _ => {}
        }
        self.rope(family, &mut config)?;
        Ok(config)
    }

    fn gemma2(&self, config: &mut Map<String, Json>) -> Result<()> {
        // Gemma 2 27B has 46 layers.
        self.gemma_scale("gemma2", 46, config)?;
        for (name, default) in [
            ("attn_logit_softcapping", 50.0),
            ("final_logit_softcapping", 30.0),
        ] {
            let cap = self.float(&format!("gemma2.{name}"))?.unwrap_or(default);
            config.insert(name.to_owned(), json!(cap));
        }
        Ok(())
    }

    fn gemma3(&self, config: &mut Map<String, Json>) -> Result<()> {
        // Gemma 3 27B has 62 layers.
        let layers = self.gemma_scale("gemma3", 62, config)?;
        let mut set = |field: &str, value| config.insert(field.to_owned(), value);
        if let Some(cap) = self.float("gemma3.final_logit_softcapping")? {
            set("final_logit_softcapping", json!(cap));
        }
        let local = self.float("gemma3.rope.freq_base_swa")?;
        set("rope_local_base_freq", json!(local.unwrap_or(10_000.0)));
        let (window, pattern) = ("attention.sliding_window", "sliding_window_pattern");
        let window = self.size(&format!("gemma3.{window}"))?.unwrap_or(0);
        let period = self.size(&format!("gemma3.attention.{pattern}"))?;
        match window {
            // All layers look back to the first token, with the angles of such.
            0 => set(
                "layer_types",
                json!(vec!["full_attention"; layers as usize]),
            ),
            _ => set(pattern, json!(period.unwrap_or(6))),
        };
        Ok(())
    }

    /// How Gemma scales scores, which the file does not say: by the head in all sizes but the largest,
    /// which has so many layers. The number of layers.
    fn gemma_scale(
        &self,
        family: &str,
        largest: u64,
        config: &mut Map<String, Json>,
    ) -> Result<u64> {
        let required = |name: &str| self.required(&format!("{family}.{name}"));
        let layers = required("block_count")?;
        let scale = match layers == largest {
            true => required("embedding_length")? / required("attention.head_count")?.max(1),
            false => required("attention.key_length")?,
        };
        config.insert("query_pre_attn_scalar".to_owned(), json!(scale));
        Ok(layers)
    }

    fn rope(&self, family: &str, config: &mut Map<String, Json>) -> Result<()> {
        let key = |name: &str| format!("{family}.rope.{name}");
        let theta = self.float(&key("freq_base"))?.unwrap_or(10_000.0);
        config.insert("rope_theta".to_owned(), json!(theta));
        if let Some(rotated) = self.size(&key("dimension_count"))? {
            let size = |field: &str| config.get(field).and_then(Json::as_u64).unwrap_or(1);
            let heads = size("num_attention_heads").max(1);
            let whole = config
                .get("head_dim")
                .and_then(Json::as_u64)
                .unwrap_or(size("hidden_size") / heads);
            if rotated != whole {
                let part = rotated as f64 / whole.max(1) as f64;
                config.insert("partial_rotary_factor".to_owned(), json!(part));
            }
        }
        let factor = match self.float(&key("scaling.factor"))? {
            Some(factor) => Some(factor),
            None => self.float(&key("scale_linear"))?,
        };
        let kind = match (self.text(&key("scaling.type"))?, factor) {
            (None | Some("linear"), Some(factor)) if factor != 1.0 => "linear",
            (None | Some("none" | "linear"), _) => return Ok(()),
            (Some(other), _) => other,
        };
        let mut scaling = json!({ "rope_type": kind, "factor": factor });
        if kind == "yarn" {
            let original = "original_context_length";
            let tokens = self.required(&key(&format!("scaling.{original}")))?;
            scaling["original_max_position_embeddings"] = json!(tokens);
            for beta in ["beta_fast", "beta_slow"] {
                if let Some(turns) = self.float(&key(&format!("scaling.yarn_{beta}")))? {
                    scaling[beta] = json!(turns);
                }
            }
            // What else changes with it is a factor of 1 in the models that are read.
            for name in [
                "attn_factor",
                "yarn_attn_factor",
                "yarn_ext_factor",
                "yarn_log_multiplier",
            ] {
                let name = key(&format!("scaling.{name}"));
                if self.float(&name)?.is_some_and(|factor| factor != 1.0) {
                    return Err(self.wrong(&name, "1, or nothing"));
                }
            }
        }
        config.insert("rope_scaling".to_owned(), scaling);
        Ok(())
    }
}
