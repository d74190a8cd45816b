//! Qwen 1.5, 2 and 2.5: Llama with biases on queries, keys and values. Qwen 3: Llama with
//! normalised queries and keys.

use super::family::{AttentionBias, Family, LLAMA_LIKE, LlamaLike, Reading, Windows};
use super::llama;

pub(super) const QWEN2: Family = Family {
    classes: &["Qwen2ForCausalLM"],
    model_type: "qwen2",
    names: &llama::NAMES,
    aliases: &[],
    defaults: &[],
    reading: Reading::LlamaLike(LlamaLike {
        attention_bias: AttentionBias::Qkv,
        key_value_heads: Some(32),
        windows: Windows::WhereAsked(4096),
        ..LLAMA_LIKE
    }),
    #[cfg(test)]
    sample: r#"{"architectures": ["Qwen2ForCausalLM"]}"#,
};

pub(super) const QWEN3: Family = Family {
    classes: &["Qwen3ForCausalLM"],
    model_type: "qwen3",
    names: &llama::NAMES,
    aliases: &[],
    defaults: &[],
    reading: Reading::LlamaLike(LlamaLike {
        head_dim: Some(128),
        qk_norm: true,
        attention_bias: AttentionBias::Field("attention_bias", false),
        key_value_heads: Some(32),
        windows: Windows::WhereAsked(4096),
        ..LLAMA_LIKE
    }),
    #[cfg(test)]
    sample: r#"{"architectures": ["Qwen3ForCausalLM"]}"#,
};
