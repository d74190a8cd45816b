//! Qwen 1.5, 2 and 2.5: Llama with biases on queries, keys and values. Qwen 3: Llama with
//! normalised queries and keys, also with experts.

use super::family::{AttentionBias, Family, LLAMA_LIKE, LlamaLike, Reading, Windows};
use super::fields::Fields;
use super::llama;
use crate::error::Result;
use crate::model::config::{Config, Experts, FeedForwardNames, Names};

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

pub(super) const QWEN3_MOE: Family = Family {
    classes: &["Qwen3MoeForCausalLM"],
    model_type: "qwen3_moe",
    names: &Names {
        feed_forward: FeedForwardNames::Experts {
            router: "mlp.gate",
            experts: "mlp.experts.",
            gated: ["gate_proj", "up_proj", "down_proj"],
            dense: llama::GATED,
        },
        ..llama::NAMES
    },
    aliases: &[("num_local_experts", "num_experts")],
    defaults: &[],
    reading: Reading::LlamaLike(LlamaLike {
        qk_norm: true,
        attention_bias: AttentionBias::Field("attention_bias", false),
        key_value_heads: Some(4),
        windows: Windows::EverywhereAsked(4096),
        more: experts,
        ..LLAMA_LIKE
    }),
    #[cfg(test)]
    sample: r#"{"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 14, "norm_topk_prob": true, "num_hidden_layers": 3,
        "mlp_only_layers": [1]}"#,
};

/// Experts in every so-manieth layer, but for those that are named.
fn experts(fields: &Fields<'_>, config: &mut Config) -> Result<()> {
    let (count, per_token) = fields.experts("num_experts", [128, 8])?;
    let experts = Experts {
        count,
        per_token,
        width: fields
            .optional_size("moe_intermediate_size")?
            .unwrap_or(768),
        normalised: fields.flag("norm_topk_prob", false)?,
    };
    let step = fields.optional_size("decoder_sparse_step")?.unwrap_or(1);
    let dense = fields.layer_numbers("mlp_only_layers")?;
    for (layer, place) in config.experts.iter_mut().enumerate() {
        let is_sparse = (layer + 1).is_multiple_of(step) && !dense.contains(&(layer as i64));
        *place = is_sparse.then_some(experts);
    }
    Ok(())
}
