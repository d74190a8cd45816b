//! InternLM2: Llama with queries, keys and values joined by head.

use super::family::{AttentionBias, Family, LLAMA_LIKE, LlamaLike, Reading};
use super::llama;
use crate::model::config::{FeedForwardNames, Names, QkvNames};

pub(super) const INTERNLM2: Family = Family {
    classes: &["InternLM2ForCausalLM"],
    model_type: "internlm2",
    names: &Names {
        embedding: "model.tok_embeddings.weight",
        head: "output.weight",
        qkv: QkvNames::Grouped("attention.wqkv"),
        output: "attention.wo",
        feed_forward: FeedForwardNames::Gated([
            "feed_forward.w1",
            "feed_forward.w3",
            "feed_forward.w2",
        ]),
        input_norm: "attention_norm",
        middle_norm: "ffn_norm",
        ..llama::NAMES
    },
    aliases: &[],
    defaults: &[],
    reading: Reading::LlamaLike(LlamaLike {
        attention_bias: AttentionBias::Field("bias", true),
        ..LLAMA_LIKE
    }),
    #[cfg(test)]
    sample: r#"{"architectures": ["InternLM2ForCausalLM"], "bias": false,
        "auto_map": {"AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM"},
        "rope_scaling": {"type": "dynamic", "factor": 2.0}}"#,
};
