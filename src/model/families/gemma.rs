//! Gemma: Llama with scaled embeddings and norms around 1. Gemma 2: Gemma with norms on both sides
//! of each block, capped scores and alternating windows.

use serde_json::json;

use super::family::{AttentionBias, Family, LLAMA_LIKE, LlamaLike, Reading, Windows};
use super::fields::Fields;
use super::llama;
use crate::error::Result;
use crate::model::config::{Activation, Config, Names, NormKind};

const BASE: LlamaLike = LlamaLike {
    norm: NormKind::RmsPlusOne,
    head_dim: Some(256),
    tied: true,
    scaled_embeddings: true,
    attention_bias: AttentionBias::Field("attention_bias", false),
    ..LLAMA_LIKE
};

pub(super) const GEMMA: Family = Family {
    classes: &["GemmaForCausalLM"],
    model_type: "gemma",
    names: &llama::NAMES,
    aliases: &[],
    reading: Reading::LlamaLike(LlamaLike {
        key_value_heads: Some(16),
        activation: ("hidden_act", Activation::GeluTanh),
        more: gemma,
        ..BASE
    }),
    #[cfg(test)]
    sample: r#"{"architectures": ["GemmaForCausalLM"], "hidden_act": "gelu"}"#,
};

pub(super) const GEMMA2: Family = Family {
    classes: &["Gemma2ForCausalLM"],
    model_type: "gemma2",
    names: &Names {
        attention_norm: Some("post_attention_layernorm"),
        middle_norm: "pre_feedforward_layernorm",
        feed_forward_norm: Some("post_feedforward_layernorm"),
        ..llama::NAMES
    },
    aliases: &[],
    reading: Reading::LlamaLike(LlamaLike {
        key_value_heads: Some(4),
        activation: ("hidden_activation", Activation::GeluTanh),
        windows: Windows::Alternating(4096),
        more: gemma2,
        ..BASE
    }),
    #[cfg(test)]
    sample: r#"{"architectures": ["Gemma2ForCausalLM"], "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": 3, "query_pre_attn_scalar": 9, "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 4.0}"#,
};

fn gemma(fields: &Fields<'_>, config: &mut Config) -> Result<()> {
    check_causal(fields)?;
    // The first files of Gemma say "gelu" and mean its approximation.
    if config.activation == Activation::Gelu {
        config.activation = Activation::GeluTanh;
    }
    Ok(())
}

fn gemma2(fields: &Fields<'_>, config: &mut Config) -> Result<()> {
    check_causal(fields)?;
    config.attention_scale = 1.0 / fields.number("query_pre_attn_scalar", 256.0)?.sqrt();
    config.attention_softcap = fields.number_or_null("attn_logit_softcapping", 50.0)?;
    config.final_softcap = fields.number_or_null("final_logit_softcapping", 30.0)?;
    Ok(())
}

fn check_causal(fields: &Fields<'_>) -> Result<()> {
    let reason = "tokens must not see those after them";
    fields.only("use_bidirectional_attention", &json!(false), reason)
}
