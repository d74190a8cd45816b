//! Mistral: Llama with an optional sliding window. Mixtral: Mistral with several feed-forward
//! blocks, of which a router chooses for each token.

use super::family::{Family, LLAMA_LIKE, LlamaLike, Reading, Windows};
use super::fields::Fields;
use super::llama;
use crate::error::Result;
use crate::model::config::{Config, Experts, FeedForwardNames, Names};

pub(super) const MISTRAL: Family = Family {
    classes: &["MistralForCausalLM"],
    model_type: "mistral",
    names: &llama::NAMES,
    aliases: &[],
    defaults: &[],
    reading: Reading::LlamaLike(LlamaLike {
        key_value_heads: Some(8),
        windows: Windows::Named(4096),
        ..LLAMA_LIKE
    }),
    #[cfg(test)]
    sample: r#"{"architectures": ["MistralForCausalLM"], "sliding_window": 3}"#,
};

pub(super) const MIXTRAL: Family = Family {
    classes: &["MixtralForCausalLM"],
    model_type: "mixtral",
    names: &Names {
        feed_forward: FeedForwardNames::Experts {
            router: "block_sparse_moe.gate",
            experts: "block_sparse_moe.experts.",
            gated: ["w1", "w3", "w2"],
            dense: llama::GATED,
        },
        ..llama::NAMES
    },
    aliases: &[("num_experts", "num_local_experts")],
    defaults: &[],
    reading: Reading::LlamaLike(LlamaLike {
        norm_eps: 1e-5,
        rope_theta: 1e6,
        key_value_heads: Some(8),
        windows: Windows::Everywhere(None),
        more: experts,
        ..LLAMA_LIKE
    }),
    #[cfg(test)]
    sample: r#"{"architectures": ["MixtralForCausalLM"], "num_local_experts": 4,
        "num_experts_per_tok": 2}"#,
};

fn experts(fields: &Fields<'_>, config: &mut Config) -> Result<()> {
    let (count, per_token) = fields.experts("num_local_experts", [8, 2])?;
    let experts = Experts {
        count,
        per_token,
        width: config.intermediate_size,
        normalised: true,
    };
    config.experts.fill(Some(experts));
    Ok(())
}
