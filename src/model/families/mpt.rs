//! MPT: ALiBi instead of rotated heads, layer norms, a plain feed-forward block.

use serde_json::{Map, json};

use super::base::SizeFields;
use super::family::{Family, Reading};
use super::fields::Fields;
use super::llama;
use crate::error::Result;
use crate::model::config::{Architecture, Config, FeedForwardNames, Names, QkvNames};
use crate::progress::warn_once;

pub(super) const MPT: Family = Family {
    classes: &["MptForCausalLM", "MPTForCausalLM"],
    model_type: "mpt",
    names: &Names {
        embedding: "transformer.wte.weight",
        final_norm: "transformer.norm_f.weight",
        layers: "transformer.blocks.",
        qkv: QkvNames::Joined("attn.Wqkv"),
        output: "attn.out_proj",
        feed_forward: FeedForwardNames::Plain(["ffn.up_proj", "ffn.down_proj"]),
        input_norm: "norm_1",
        middle_norm: "norm_2",
        ..llama::NAMES
    },
    aliases: &[
        ("hidden_size", "d_model"),
        ("num_attention_heads", "n_heads"),
        ("num_hidden_layers", "n_layers"),
    ],
    defaults: &[],
    reading: Reading::Own(read),
    #[cfg(test)]
    sample: r#"{"architectures": ["MptForCausalLM"], "d_model": 12, "n_heads": 4, "n_layers": 2,
        "expansion_ratio": 2, "max_seq_len": 32, "hidden_size": null, "num_attention_heads": null,
        "num_hidden_layers": null}"#,
};

const SIZES: SizeFields = SizeFields {
    hidden: "d_model",
    layers: "n_layers",
    heads: "n_heads",
    context: "max_seq_len",
};

fn read(fields: &Fields<'_>, architecture: Architecture) -> Result<Config> {
    let base = SIZES.read(fields, architecture)?;
    let attention = Map::new();
    let attention = match fields.object("attn_config")? {
        Some(attention) => attention,
        None => Fields::new(fields.path(), &attention),
    };
    check_implemented(fields, &attention)?;
    let expansion = fields.optional_size("expansion_ratio")?.unwrap_or(4);
    Ok(Config {
        intermediate_size: base.hidden_size.saturating_mul(expansion),
        norm_eps: fields.number("layer_norm_epsilon", 1e-5)?,
        alibi_bias_max: Some(bias_max(&attention)?),
        tie_word_embeddings: fields.flag("tie_word_embeddings", true)?,
        qkv_clip: attention.optional_number("clip_qkv")?,
        attention_scale: attention.number("softmax_scale", base.attention_scale)?,
        ..base
    })
}

/// The exponent of the flattest slope of ALiBi. transformers has 8 for all models, as all published
/// ones do, whatever the file says.
fn bias_max(attention: &Fields<'_>) -> Result<f64> {
    let (name, all) = ("alibi_bias_max", 8.0);
    let stated = attention.number(name, all)?;
    if stated != all {
        warn_once(format!(
            "{}: `attn_config.{name}` is {stated}; it is taken for {all}, as in transformers",
            attention.path().display()
        ));
    }
    Ok(all)
}

/// Refuses settings of what is not implemented.
fn check_implemented(fields: &Fields<'_>, attention: &Fields<'_>) -> Result<()> {
    let kinds = "other kinds of attention are not implemented";
    attention.only("attn_type", &json!("multihead_attention"), kinds)?;
    attention.only(
        "alibi",
        &json!(true),
        "learned positions are not implemented",
    )?;
    attention.only(
        "qk_ln",
        &json!(false),
        "norms of queries and keys are not implemented",
    )?;
    attention.only(
        "prefix_lm",
        &json!(false),
        "tokens must not see those after them",
    )?;
    fields.only("no_bias", &json!(true), "biases are not implemented")?;
    let norms = json!("low_precision_layernorm");
    if fields.get("norm_type") != Some(&json!("layernorm")) {
        fields.only(
            "norm_type",
            &norms,
            "or layernorm; other norms are not implemented",
        )?;
    }
    if fields.has("logit_scale") {
        return Err(fields.wrong("logit_scale", "null (scaled logits are not implemented)"));
    }
    Ok(())
}
