//! Gemma: Llama with scaled embeddings and norms around 1. Gemma 2: Gemma with norms on both sides
//! of each block, capped scores and alternating windows. Gemma 3: Gemma 2 with normalised queries and
//! keys in the place of the caps, and a rotary embedding of its own in layers with a window.

use serde_json::json;

use super::family::{AttentionBias, Family, LLAMA_LIKE, LlamaLike, Reading, Windows};
use super::fields::Fields;
use super::llama;
use crate::error::Result;
use crate::model::config::{Activation, Config, Names, NormKind, Towers};

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
    defaults: &[],
    reading: Reading::LlamaLike(LlamaLike {
        key_value_heads: Some(16),
        activation: ("hidden_act", Activation::GeluTanh),
        more: gemma,
        ..BASE
    }),
    #[cfg(test)]
    sample: r#"{"architectures": ["GemmaForCausalLM"], "hidden_act": "gelu"}"#,
};

const NAMES2: Names = Names {
    attention_norm: Some("post_attention_layernorm"),
    middle_norm: "pre_feedforward_layernorm",
    feed_forward_norm: Some("post_feedforward_layernorm"),
    ..llama::NAMES
};

pub(super) const GEMMA2: Family = Family {
    classes: &["Gemma2ForCausalLM"],
    model_type: "gemma2",
    names: &NAMES2,
    aliases: &[],
    defaults: &[],
    reading: Reading::LlamaLike(LlamaLike {
        key_value_heads: Some(4),
        activation: ("hidden_activation", Activation::GeluTanh),
        windows: Windows::Periodic {
            width: 4096,
            period: 2,
            field: None,
        },
        more: gemma2,
        ..BASE
    }),
    #[cfg(test)]
    sample: r#"{"architectures": ["Gemma2ForCausalLM"], "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": 3, "query_pre_attn_scalar": 9, "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 4.0}"#,
};

pub(super) const GEMMA3: Family = Family {
    classes: &["Gemma3ForCausalLM"],
    model_type: "gemma3_text",
    names: &Names {
        towers: Some(Towers {
            prefixes: &[
                ("language_model.model.", "model."),
                ("language_model.lm_head.", "lm_head."),
                ("model.language_model.", "model."),
                ("language_model.", "model."),
            ],
            others: &[
                "vision_tower.",
                "multi_modal_projector.",
                "model.vision_tower.",
                "model.multi_modal_projector.",
            ],
        }),
        ..NAMES2
    },
    aliases: &[],
    // The text towers of the published files say no more than what differs from these.
    defaults: &[
        ("vocab_size", 262_208),
        ("hidden_size", 2304),
        ("intermediate_size", 9216),
        ("num_hidden_layers", 26),
        ("num_attention_heads", 8),
        ("max_position_embeddings", 131_072),
    ],
    reading: Reading::LlamaLike(LlamaLike {
        key_value_heads: Some(4),
        rope_theta: 1e6,
        window_rope_theta: Some(1e4),
        qk_norm: true,
        activation: ("hidden_activation", Activation::GeluTanh),
        windows: Windows::Periodic {
            width: 4096,
            period: 6,
            field: Some("sliding_window_pattern"),
        },
        more: gemma3,
        ..BASE
    }),
    #[cfg(test)]
    sample: r#"{"architectures": ["Gemma3ForCausalLM"], "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": 3, "sliding_window_pattern": 2, "query_pre_attn_scalar": 9,
        "rope_local_base_freq": 20.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}"#,
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
    scale(fields, config)?;
    config.attention_softcap = fields.number_or_null("attn_logit_softcapping", 50.0)?;
    config.final_softcap = fields.number_or_null("final_logit_softcapping", 30.0)?;
    Ok(())
}

fn gemma3(fields: &Fields<'_>, config: &mut Config) -> Result<()> {
    scale(fields, config)?;
    // transformers reads `attn_logit_softcapping` too, and does not use it.
    config.final_softcap = fields.optional_number("final_logit_softcapping")?;
    Ok(())
}

fn scale(fields: &Fields<'_>, config: &mut Config) -> Result<()> {
    check_causal(fields)?;
    config.attention_scale = 1.0 / fields.number("query_pre_attn_scalar", 256.0)?.sqrt();
    Ok(())
}

fn check_causal(fields: &Fields<'_>) -> Result<()> {
    let reason = "tokens must not see those after them";
    fields.only("use_bidirectional_attention", &json!(false), reason)
}
