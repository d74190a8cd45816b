//! The shapes of the five models: two small pivots and three larger specialists of other families.

use serde_json::{Value, json};

use crate::vocabularies::TokenizerFolder;

/// Tokens of context of every model.
pub const CONTEXT: usize = 512;

/// The shape of a model.
pub struct Shape {
    /// `model_type` and class of the configuration.
    family: (&'static str, &'static str),
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    ffn: usize,
    tied: bool,
    rope_theta: f64,
}

/// The pivot: more room than its short training fills, so that fusion can still teach it.
pub const PIVOT: Shape = Shape {
    family: ("llama", "LlamaForCausalLM"),
    hidden: 128,
    layers: 4,
    heads: 4,
    kv_heads: 2,
    ffn: 320,
    tied: true,
    rope_theta: 10_000.0,
};
/// The pivot of the other direction, with more than the vocabulary of any specialist.
pub const WIDE: Shape = PIVOT;
/// Six narrow layers: sums need depth.
pub const MARKET: Shape = Shape {
    family: ("qwen2", "Qwen2ForCausalLM"),
    hidden: 128,
    layers: 6,
    heads: 4,
    kv_heads: 4,
    ffn: 384,
    tied: true,
    rope_theta: 10_000.0,
};
/// Wide: facts need parameters.
pub const ATLAS: Shape = Shape {
    family: ("llama", "LlamaForCausalLM"),
    hidden: 160,
    layers: 4,
    heads: 5,
    kv_heads: 1,
    ffn: 432,
    tied: true,
    rope_theta: 50_000.0,
};
/// An output matrix of its own.
pub const SQL: Shape = Shape {
    family: ("mistral", "MistralForCausalLM"),
    hidden: 128,
    layers: 4,
    heads: 8,
    kv_heads: 2,
    ffn: 384,
    tied: false,
    rope_theta: 10_000.0,
};

impl Shape {
    /// `config.json`.
    pub fn config(&self, tokenizer: &TokenizerFolder) -> Value {
        let (model_type, class) = self.family;
        let mut config = json!({
            "architectures": [class],
            "model_type": model_type,
            "vocab_size": tokenizer.size,
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.hidden / self.heads,
            "hidden_act": "silu",
            "max_position_embeddings": CONTEXT,
            "rms_norm_eps": 1e-5,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tied,
            "initializer_range": 0.02,
            "attention_dropout": 0.0,
            "use_cache": true,
            "bos_token_id": tokenizer.bos,
            "eos_token_id": tokenizer.eos,
            "pad_token_id": tokenizer.pad,
            "torch_dtype": "float16",
        });
        match model_type {
            "llama" => {
                config["attention_bias"] = json!(false);
                config["mlp_bias"] = json!(false);
            }
            "qwen2" => config["use_sliding_window"] = json!(false),
            _ => config["sliding_window"] = Value::Null,
        }
        config
    }

    /// Number of parameters with a vocabulary of this size.
    pub fn parameters(&self, vocab: usize) -> usize {
        let head = self.hidden / self.heads;
        let (q, kv) = (self.heads * head, self.kv_heads * head);
        let biases = if self.family.0 == "qwen2" {
            q + 2 * kv
        } else {
            0
        };
        let attention = self.hidden * (2 * q + 2 * kv) + biases;
        let layer = attention + 3 * self.hidden * self.ffn + 2 * self.hidden;
        let embeddings = vocab * self.hidden * if self.tied { 1 } else { 2 };
        embeddings + self.layers * layer + self.hidden
    }

    /// `Llama, 4 layers of 128, ...`.
    pub fn words(&self) -> String {
        format!(
            "{}, {} layers of {}, {} heads ({} kv), ffn {}{}",
            self.family.0,
            self.layers,
            self.hidden,
            self.heads,
            self.kv_heads,
            self.ffn,
            if self.tied { ", tied" } else { "" }
        )
    }
}
