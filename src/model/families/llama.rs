//! Llama 1, 2 and 3, and everything published in that shape.

use super::family::{AttentionBias, Family, LLAMA_LIKE, LlamaLike, Reading};
use crate::model::config::{FeedForwardNames, Names, QkvNames};

/// Gate, up and down.
pub(super) const GATED: [&str; 3] = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"];

/// The names of most checkpoints.
pub(super) const NAMES: Names = Names {
    embedding: "model.embed_tokens.weight",
    final_norm: "model.norm.weight",
    head: "lm_head.weight",
    layers: "model.layers.",
    qkv: QkvNames::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    head_norms: ["self_attn.q_norm", "self_attn.k_norm"],
    output: "self_attn.o_proj",
    feed_forward: FeedForwardNames::Gated(GATED),
    input_norm: "input_layernorm",
    attention_norm: None,
    middle_norm: "post_attention_layernorm",
    feed_forward_norm: None,
    positions: None,
    transposed: false,
    towers: None,
};

pub(super) const LLAMA: Family = Family {
    classes: &["LlamaForCausalLM"],
    model_type: "llama",
    names: &NAMES,
    aliases: &[],
    defaults: &[],
    reading: Reading::LlamaLike(LlamaLike {
        attention_bias: AttentionBias::Field("attention_bias", false),
        mlp_bias: Some("mlp_bias"),
        ..LLAMA_LIKE
    }),
    #[cfg(test)]
    sample: "{}",
};
