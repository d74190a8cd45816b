//! Phi-3 and Phi-4-mini: Llama with joined projections.

use super::family::{Family, LLAMA_LIKE, LlamaLike, Reading, Windows};
use super::llama;
use crate::model::config::{FeedForwardNames, Names, QkvNames};

pub(super) const PHI3: Family = Family {
    classes: &["Phi3ForCausalLM"],
    model_type: "phi3",
    names: &Names {
        qkv: QkvNames::Joined("self_attn.qkv_proj"),
        feed_forward: FeedForwardNames::Joined(["mlp.gate_up_proj", "mlp.down_proj"]),
        ..llama::NAMES
    },
    aliases: &[],
    defaults: &[],
    reading: Reading::LlamaLike(LlamaLike {
        norm_eps: 1e-5,
        partial_rotary: true,
        original_context: Some(4096),
        windows: Windows::Everywhere(None),
        ..LLAMA_LIKE
    }),
    #[cfg(test)]
    sample: r#"{"architectures": ["Phi3ForCausalLM"], "sliding_window": 4}"#,
};
