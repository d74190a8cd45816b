//! Small models of every family.

use fuselm::error::Result;
use fuselm::model::Config;
use serde_json::{Value, json};

fn small(changes: Value) -> Value {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 131, "hidden_size": 48,
        "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5, "initializer_range": 0.15, "hidden_act": "silu",
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// Name and configuration of each.
pub fn all() -> Result<Vec<(&'static str, Config)>> {
    let mpt = json!({"architectures": ["MptForCausalLM"], "d_model": 48, "n_heads": 4,
        "n_layers": 2, "expansion_ratio": 2, "max_seq_len": 1024});
    let gemma2 = json!({"architectures": ["Gemma2ForCausalLM"],
        "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 9,
        "query_pre_attn_scalar": 10, "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 4.0});
    let families = [
        ("llama", json!({})),
        ("llama, tied", json!({"tie_word_embeddings": true})),
        (
            "llama, biases",
            json!({"attention_bias": true, "mlp_bias": true}),
        ),
        (
            "mistral, window",
            json!({"architectures": ["MistralForCausalLM"], "sliding_window": 9}),
        ),
        (
            "mixtral",
            json!({"architectures": ["MixtralForCausalLM"], "num_local_experts": 4,
                "num_experts_per_tok": 2}),
        ),
        ("qwen2", json!({"architectures": ["Qwen2ForCausalLM"]})),
        ("qwen3", json!({"architectures": ["Qwen3ForCausalLM"]})),
        (
            "qwen3 with experts",
            json!({"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 4,
                "num_experts_per_tok": 2, "moe_intermediate_size": 32, "mlp_only_layers": [1]}),
        ),
        (
            "gemma",
            json!({"architectures": ["GemmaForCausalLM"], "hidden_act": "gelu"}),
        ),
        ("gemma2", gemma2),
        (
            "gemma3",
            json!({"architectures": ["Gemma3ForCausalLM"], "sliding_window": 9,
                "sliding_window_pattern": 2, "query_pre_attn_scalar": 10}),
        ),
        (
            "phi3, part rotated",
            json!({"architectures": ["Phi3ForCausalLM"], "partial_rotary_factor": 0.67}),
        ),
        (
            "internlm2",
            json!({"architectures": ["InternLM2ForCausalLM"], "bias": false}),
        ),
        ("mpt", mpt),
        ("gpt2", json!({"architectures": ["GPT2LMHeadModel"]})),
        (
            "gpt_neox",
            json!({"architectures": ["GPTNeoXForCausalLM"], "rotary_pct": 0.5,
                "hidden_act": "gelu"}),
        ),
    ];
    families
        .into_iter()
        .map(|(name, changes)| Ok((name, crate::config(small(changes))?)))
        .collect()
}
