//! What each architecture's `config.json` says, and what it leaves unsaid.

use serde_json::{Map, json};

use super::config::{Activation, Architecture, Config, Experts, NormKind};
use super::fields::Fields;
use super::rope::{Rope, RopeScaling};
use crate::error::Result;

/// The configuration in `fields`, without its raw form.
pub(crate) fn read(fields: &Fields<'_>) -> Result<Config> {
    let architecture = fields.architecture()?;
    match architecture {
        Architecture::Mpt => mpt(fields),
        _ => llama_like(fields, architecture),
    }
}

/// Everything but MPT uses the names that Llama's file introduced.
fn llama_like(fields: &Fields<'_>, architecture: Architecture) -> Result<Config> {
    use Architecture::{
        Gemma, Gemma2, InternLm2, Llama, Mistral, Mixtral, Mpt, Phi3, Qwen2, Qwen3,
    };
    let gemma = matches!(architecture, Gemma | Gemma2);
    let hidden_size = fields.size("hidden_size")?;
    let num_hidden_layers = layers(fields, "num_hidden_layers")?;
    let num_attention_heads = fields.size("num_attention_heads")?;
    let num_key_value_heads = fields
        .optional_size("num_key_value_heads")?
        .unwrap_or(num_attention_heads);
    if !num_attention_heads.is_multiple_of(num_key_value_heads) {
        return Err(fields.wrong(
            "num_key_value_heads",
            format!("a divisor of the {num_attention_heads} query heads"),
        ));
    }
    let head_dim = match (fields.optional_size("head_dim")?, architecture) {
        (Some(head_dim), _) => head_dim,
        (None, Qwen3) => 128,
        (None, Gemma | Gemma2) => 256,
        (None, _) => share(fields, "num_attention_heads", hidden_size)?,
    };
    if !head_dim.is_multiple_of(2) {
        return Err(fields.wrong("head_dim", "an even number"));
    }
    let theta = if architecture == Mixtral { 1e6 } else { 1e4 };
    let eps = match architecture {
        Mixtral | Phi3 => 1e-5,
        _ => 1e-6,
    };
    let mut config = Config {
        architecture,
        vocab_size: fields.size("vocab_size")?,
        hidden_size,
        intermediate_size: fields.size("intermediate_size")?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        max_position_embeddings: fields.size("max_position_embeddings")?,
        norm: NormKind::Rms,
        norm_eps: fields.number("rms_norm_eps", eps)?,
        rope: None,
        alibi_bias_max: None,
        tie_word_embeddings: fields.flag("tie_word_embeddings", gemma)?,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: architecture == Qwen3,
        qkv_clip: None,
        attention_scale: 1.0 / (head_dim as f64).sqrt(),
        attention_softcap: None,
        final_softcap: None,
        embedding_scale: 1.0,
        activation: Activation::Silu,
        experts: None,
        windows: vec![None; num_hidden_layers],
        initializer_range: fields.number("initializer_range", 0.02)?,
        bos_token_id: fields.ids("bos_token_id")?.first().copied(),
        eos_token_ids: fields.ids("eos_token_id")?,
        raw: Map::new(),
    };
    let rope = Rope::read(fields, head_dim, theta, architecture == Phi3)?;
    if let RopeScaling::Long {
        original_max_position_embeddings: original,
        ..
    } = rope.scaling
    {
        config.max_position_embeddings = config.max_position_embeddings.min(original);
    }
    config.rope = Some(rope);
    if !gemma {
        config.activation = fields.activation("hidden_act", Activation::Silu)?;
    }
    let window = fields.optional_size("sliding_window")?;
    let everywhere = vec![window; num_hidden_layers];
    match architecture {
        Llama => {
            set_attention_bias(&mut config, fields.flag("attention_bias", false)?);
            config.mlp_bias = fields.flag("mlp_bias", false)?;
        }
        Mistral | Phi3 => config.windows = everywhere,
        Mixtral => {
            config.windows = everywhere;
            let count = fields.optional_size("num_local_experts")?.unwrap_or(8);
            if count > 4096 {
                return Err(fields.wrong("num_local_experts", "at most 4096"));
            }
            let per_token = fields.optional_size("num_experts_per_tok")?.unwrap_or(2);
            if per_token > count {
                let expected = format!("at most the {count} experts");
                return Err(fields.wrong("num_experts_per_tok", expected));
            }
            config.experts = Some(Experts { count, per_token });
        }
        Qwen2 => {
            config.qkv_bias = true;
            config.windows = qwen_windows(fields, num_hidden_layers, window)?;
        }
        Qwen3 => {
            set_attention_bias(&mut config, fields.flag("attention_bias", false)?);
            config.windows = qwen_windows(fields, num_hidden_layers, window)?;
        }
        InternLm2 => set_attention_bias(&mut config, fields.flag("bias", true)?),
        Gemma | Gemma2 => {
            set_attention_bias(&mut config, fields.flag("attention_bias", false)?);
            let reason = "tokens must not see those after them";
            fields.only("use_bidirectional_attention", &json!(false), reason)?;
            config.norm = NormKind::RmsPlusOne;
            config.embedding_scale = (hidden_size as f64).sqrt();
            let field = ["hidden_activation", "hidden_act"];
            let field = field.into_iter().find(|field| fields.has(field));
            let given = fields.activation(field.unwrap_or("hidden_act"), Activation::GeluTanh)?;
            config.activation = match (architecture, given) {
                // The first files of Gemma say "gelu" and mean its approximation.
                (Gemma, Activation::Gelu) => Activation::GeluTanh,
                (_, given) => given,
            };
            if architecture == Gemma2 {
                gemma2(&mut config, fields)?;
            }
        }
        Mpt => {}
    }
    Ok(config)
}

fn gemma2(config: &mut Config, fields: &Fields<'_>) -> Result<()> {
    config.attention_scale = 1.0 / fields.number("query_pre_attn_scalar", 256.0)?.sqrt();
    config.attention_softcap = fields.number_or_null("attn_logit_softcapping", 50.0)?;
    config.final_softcap = fields.number_or_null("final_logit_softcapping", 30.0)?;
    let window = fields.optional_size("sliding_window")?.unwrap_or(4096);
    let layers = config.num_hidden_layers;
    let alternating = || {
        let window = |layer: usize| layer.is_multiple_of(2).then_some(window);
        (0..layers).map(window).collect()
    };
    config.windows = fields
        .layer_types(layers, window)?
        .unwrap_or_else(alternating);
    Ok(())
}

/// MPT: ALiBi instead of rotated heads, layer norms, a plain feed-forward block.
fn mpt(fields: &Fields<'_>) -> Result<Config> {
    let hidden_size = fields.size("d_model")?;
    let heads = fields.size("n_heads")?;
    let layers = layers(fields, "n_layers")?;
    let head_dim = share(fields, "n_heads", hidden_size)?;
    let attention = Map::new();
    let attention = match fields.object("attn_config")? {
        Some(attention) => attention,
        None => Fields::new(fields.path(), &attention),
    };
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
    Ok(Config {
        architecture: Architecture::Mpt,
        vocab_size: fields.size("vocab_size")?,
        hidden_size,
        intermediate_size: hidden_size
            .saturating_mul(fields.optional_size("expansion_ratio")?.unwrap_or(4)),
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: heads,
        head_dim,
        max_position_embeddings: fields.size("max_seq_len")?,
        norm: NormKind::Layer,
        norm_eps: fields.number("layer_norm_epsilon", 1e-5)?,
        rope: None,
        alibi_bias_max: Some(attention.number("alibi_bias_max", 8.0)?),
        tie_word_embeddings: fields.flag("tie_word_embeddings", true)?,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        qkv_clip: attention.optional_number("clip_qkv")?,
        attention_scale: attention.number("softmax_scale", 1.0 / (head_dim as f64).sqrt())?,
        attention_softcap: None,
        final_softcap: None,
        embedding_scale: 1.0,
        activation: Activation::Gelu,
        experts: None,
        windows: vec![None; layers],
        initializer_range: fields.number("initializer_range", 0.02)?,
        bos_token_id: fields.ids("bos_token_id")?.first().copied(),
        eos_token_ids: fields.ids("eos_token_id")?,
        raw: Map::new(),
    })
}

fn set_attention_bias(config: &mut Config, bias: bool) {
    (config.qkv_bias, config.output_bias) = (bias, bias);
}

fn layers(fields: &Fields<'_>, field: &str) -> Result<usize> {
    match fields.size(field)? {
        layers @ ..=4096 => Ok(layers),
        _ => Err(fields.wrong(field, "at most 4096")),
    }
}

/// The width of each of the `heads` that share `hidden_size`.
fn share(fields: &Fields<'_>, heads: &str, hidden_size: usize) -> Result<usize> {
    let count = fields.size(heads)?;
    if hidden_size.is_multiple_of(count) {
        return Ok(hidden_size / count);
    }
    let expected = format!("a divisor of the hidden size {hidden_size}, or a `head_dim`");
    Err(fields.wrong(heads, expected))
}

/// Qwen's windows: where asked for, in the layers named, or from `max_window_layers` on.
fn qwen_windows(
    fields: &Fields<'_>,
    layers: usize,
    window: Option<usize>,
) -> Result<Vec<Option<usize>>> {
    let window = match window {
        Some(window) if fields.flag("use_sliding_window", false)? => window,
        _ => return Ok(vec![None; layers]),
    };
    if let Some(windows) = fields.layer_types(layers, window)? {
        return Ok(windows);
    }
    let first = match fields.get("max_window_layers") {
        None => 28,
        Some(value) => value
            .as_u64()
            .ok_or_else(|| fields.wrong("max_window_layers", "a number of layers"))?,
    };
    Ok((0..layers)
        .map(|layer| (layer as u64 >= first).then_some(window))
        .collect())
}
