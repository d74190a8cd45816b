//! GPT-2: a table of positions, layer norms with biases, projections stored as in × out.

use serde_json::json;

use super::base::SizeFields;
use super::family::{Family, Reading};
use super::fields::Fields;
use super::llama;
use crate::error::Result;
use crate::model::config::{Activation, Architecture, Config, FeedForwardNames, Names, QkvNames};

pub(super) const GPT2: Family = Family {
    classes: &["GPT2LMHeadModel"],
    model_type: "gpt2",
    names: &Names {
        embedding: "transformer.wte.weight",
        positions: Some("transformer.wpe.weight"),
        final_norm: "transformer.ln_f.weight",
        layers: "transformer.h.",
        qkv: QkvNames::Joined("attn.c_attn"),
        output: "attn.c_proj",
        feed_forward: FeedForwardNames::Plain(["mlp.c_fc", "mlp.c_proj"]),
        input_norm: "ln_1",
        middle_norm: "ln_2",
        transposed: true,
        ..llama::NAMES
    },
    aliases: &[
        ("hidden_size", "n_embd"),
        ("max_position_embeddings", "n_positions"),
        ("num_attention_heads", "n_head"),
        ("num_hidden_layers", "n_layer"),
    ],
    defaults: &[
        ("vocab_size", 50_257),
        ("n_embd", 768),
        ("n_positions", 1024),
        ("n_head", 12),
        ("n_layer", 12),
    ],
    reading: Reading::Own(read),
    #[cfg(test)]
    sample: r#"{"architectures": ["GPT2LMHeadModel"]}"#,
};

const SIZES: SizeFields = SizeFields {
    hidden: "n_embd",
    layers: "n_layer",
    heads: "n_head",
    context: "n_positions",
};

fn read(fields: &Fields<'_>, architecture: Architecture) -> Result<Config> {
    let base = SIZES.read(fields, architecture)?;
    let encoders = "attention to an encoder is not implemented";
    fields.only("add_cross_attention", &json!(false), encoders)?;
    let inner = fields.optional_size("n_inner")?;
    Ok(Config {
        intermediate_size: inner.unwrap_or(base.intermediate_size),
        norm_eps: fields.number("layer_norm_epsilon", 1e-5)?,
        norm_bias: true,
        tie_word_embeddings: fields.flag("tie_word_embeddings", true)?,
        qkv_bias: true,
        output_bias: true,
        mlp_bias: true,
        attention_scale: match fields.flag("scale_attn_weights", true)? {
            true => base.attention_scale,
            false => 1.0,
        },
        attention_scale_by_depth: fields.flag("scale_attn_by_inverse_layer_idx", false)?,
        activation: fields.activation("activation_function", Activation::GeluTanh)?,
        ..base
    })
}
