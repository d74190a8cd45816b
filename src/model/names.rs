//! How checkpoints name and lay out their parameters: one table for each convention.
//!
//! Parameters are kept exactly as a checkpoint has them (joined projections stay joined), so that
//! what is saved has the layout that was loaded. [`Config::tensors`](super::Config::tensors) and
//! [`Layer::assemble`](super::layer::Layer::assemble) both follow these tables.

use super::config::Architecture;

/// Names of one convention; those of a layer follow `layers`, its number and a dot, and lack the
/// final `.weight` or `.bias`.
#[derive(Debug)]
pub(crate) struct Names {
    /// The token embedding.
    pub embedding: &'static str,
    /// The norm before the head.
    pub final_norm: &'static str,
    /// The head, where it is not the embedding.
    pub head: &'static str,
    /// What is before the number of a layer.
    pub layers: &'static str,
    /// Queries, keys and values.
    pub qkv: QkvNames,
    /// The attention's output projection.
    pub output: &'static str,
    /// The feed-forward block.
    pub feed_forward: FeedForwardNames,
    /// The norm before the attention.
    pub input_norm: &'static str,
    /// The norm of what the attention adds.
    pub attention_norm: Option<&'static str>,
    /// The norm before the feed-forward block.
    pub middle_norm: &'static str,
    /// The norm of what the feed-forward block adds.
    pub feed_forward_norm: Option<&'static str>,
}

/// The projections to queries, keys and values.
#[derive(Debug)]
pub(crate) enum QkvNames {
    /// Three matrices: queries, keys, values.
    Separate([&'static str; 3]),
    /// One matrix whose rows are all queries, then all keys, then all values.
    Joined(&'static str),
    /// One matrix whose rows are, for each key/value head, its queries, its key, its value.
    Grouped(&'static str),
}

/// The feed-forward block.
#[derive(Debug)]
pub(crate) enum FeedForwardNames {
    /// act(gate) · up, then down.
    Gated([&'static str; 3]),
    /// The same with gate and up in one matrix, gate first; then down.
    Joined([&'static str; 2]),
    /// act(up), then down.
    Plain([&'static str; 2]),
    /// A router, and numbered gated blocks of their own.
    Experts {
        /// The router.
        router: &'static str,
        /// What is before the number of an expert.
        experts: &'static str,
        /// Gate, up and down of an expert.
        gated: [&'static str; 3],
    },
}

/// The norms of queries and keys, where there are any.
pub(crate) const HEAD_NORMS: [&str; 2] = ["self_attn.q_norm", "self_attn.k_norm"];

const LLAMA: Names = Names {
    embedding: "model.embed_tokens.weight",
    final_norm: "model.norm.weight",
    head: "lm_head.weight",
    layers: "model.layers.",
    qkv: QkvNames::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    output: "self_attn.o_proj",
    feed_forward: FeedForwardNames::Gated(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]),
    input_norm: "input_layernorm",
    attention_norm: None,
    middle_norm: "post_attention_layernorm",
    feed_forward_norm: None,
};

const MIXTRAL: Names = Names {
    feed_forward: FeedForwardNames::Experts {
        router: "block_sparse_moe.gate",
        experts: "block_sparse_moe.experts.",
        gated: ["w1", "w3", "w2"],
    },
    ..LLAMA
};

const GEMMA2: Names = Names {
    attention_norm: Some("post_attention_layernorm"),
    middle_norm: "pre_feedforward_layernorm",
    feed_forward_norm: Some("post_feedforward_layernorm"),
    ..LLAMA
};

const PHI3: Names = Names {
    qkv: QkvNames::Joined("self_attn.qkv_proj"),
    feed_forward: FeedForwardNames::Joined(["mlp.gate_up_proj", "mlp.down_proj"]),
    ..LLAMA
};

const INTERNLM2: Names = Names {
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
    ..LLAMA
};

const MPT: Names = Names {
    embedding: "transformer.wte.weight",
    final_norm: "transformer.norm_f.weight",
    layers: "transformer.blocks.",
    qkv: QkvNames::Joined("attn.Wqkv"),
    output: "attn.out_proj",
    feed_forward: FeedForwardNames::Plain(["ffn.up_proj", "ffn.down_proj"]),
    input_norm: "norm_1",
    middle_norm: "norm_2",
    ..LLAMA
};

impl Architecture {
    /// The names in its checkpoints.
    pub(crate) fn names(self) -> &'static Names {
        match self {
            Self::Llama | Self::Mistral | Self::Qwen2 | Self::Qwen3 | Self::Gemma => &LLAMA,
            Self::Mixtral => &MIXTRAL,
            Self::Gemma2 => &GEMMA2,
            Self::Phi3 => &PHI3,
            Self::InternLm2 => &INTERNLM2,
            Self::Mpt => &MPT,
        }
    }
}
