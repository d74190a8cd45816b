//! GPT-NeoX (Pythia): layer norms with biases, a part of each head rotated, and attention and
//! feed-forward block side by side.

use serde_json::json;

use super::base::SizeFields;
use super::family::{Family, LLAMA_LIKE, LlamaLike, Reading};
use super::fields::Fields;
use super::llama;
use crate::error::Result;
use crate::model::config::{
    Activation, Architecture, Config, FeedForwardNames, Names, QkvNames, RopeScaling,
};

pub(super) const GPT_NEOX: Family = Family {
    classes: &["GPTNeoXForCausalLM"],
    model_type: "gpt_neox",
    names: &Names {
        embedding: "gpt_neox.embed_in.weight",
        final_norm: "gpt_neox.final_layer_norm.weight",
        head: "embed_out.weight",
        layers: "gpt_neox.layers.",
        qkv: QkvNames::Grouped("attention.query_key_value"),
        output: "attention.dense",
        feed_forward: FeedForwardNames::Plain(["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"]),
        ..llama::NAMES
    },
    aliases: &[],
    defaults: &[],
    reading: Reading::Own(read),
    #[cfg(test)]
    sample: r#"{"architectures": ["GPTNeoXForCausalLM"], "hidden_size": 16, "hidden_act": "gelu",
        "rotary_pct": 0.5}"#,
};

const SIZES: SizeFields = SizeFields {
    hidden: "hidden_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    context: "max_position_embeddings",
};

/// How its rotary embedding is read, once its settings have their usual names.
const ROPE: LlamaLike = LlamaLike {
    partial_rotary: true,
    ..LLAMA_LIKE
};

fn read(fields: &Fields<'_>, architecture: Architecture) -> Result<Config> {
    let base = SIZES.read(fields, architecture)?;
    let bias = fields.flag("attention_bias", true)?;
    // The usual names of these have no effect at the top of the file.
    let mut usual = fields.map().clone();
    let theta = fields.number("rotary_emb_base", 1e4)?;
    usual.insert("rope_theta".to_owned(), json!(theta));
    let part = fields.number("rotary_pct", 0.25)?;
    usual.insert("partial_rotary_factor".to_owned(), json!(part));
    let usual = Fields::new(fields.path(), &usual);
    let (rope, _) = ROPE.ropes(&usual, base.head_dim)?;
    let context = match rope.scaling {
        RopeScaling::Long {
            original_max_position_embeddings: original,
            ..
        } => base.max_position_embeddings.min(original),
        _ => base.max_position_embeddings,
    };
    Ok(Config {
        intermediate_size: fields.size("intermediate_size")?,
        max_position_embeddings: context,
        norm_eps: fields.number("layer_norm_eps", 1e-5)?,
        norm_bias: true,
        rope: Some(rope),
        tie_word_embeddings: fields.flag("tie_word_embeddings", false)?,
        qkv_bias: bias,
        output_bias: bias,
        mlp_bias: true,
        activation: fields.activation("hidden_act", Activation::Gelu)?,
        parallel: fields.flag("use_parallel_residual", true)?,
        ..base
    })
}
