//! Tiny configurations of every family and of every setting, for tests that must hold for all.

use serde_json::{Map, Value, json};

use crate::model::Config;
use crate::model::families::{FAMILIES, Family};
use std::path::Path;

/// A `config.json` of a tiny model with `changes` applied.
pub(crate) fn tiny(changes: Value) -> Map<String, Value> {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 19, "hidden_size": 12,
        "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 32,
        "rms_norm_eps": 1e-5, "initializer_range": 0.3, "hidden_act": "silu",
    });
    let map = config.as_object_mut().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        map.insert(key.clone(), value.clone());
    }
    map.clone()
}

/// For each family, the changes to a Llama's `config.json` that make one of it.
pub(crate) fn families() -> Vec<(&'static str, Value)> {
    let sample = |family: &&Family| {
        let sample = serde_json::from_str(family.sample).unwrap();
        (family.model_type, sample)
    };
    FAMILIES.iter().map(sample).collect()
}

/// All families, and settings that they may have.
pub(crate) fn variants() -> Vec<(&'static str, Config)> {
    let llama3 = json!({"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8, "rope_theta": 500.0});
    let long = json!({"type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0]});
    let settings = [
        ("tied", json!({"tie_word_embeddings": true})),
        ("biases", json!({"attention_bias": true, "mlp_bias": true})),
        ("llama3 rope", json!({"rope_parameters": llama3})),
        (
            "linear rope",
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}}),
        ),
        (
            "qwen2 windows",
            json!({"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": true,
                "sliding_window": 2, "max_window_layers": 1}),
        ),
        (
            "qwen3_moe probabilities",
            json!({"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 5,
                "num_experts_per_tok": 2, "moe_intermediate_size": 14, "decoder_sparse_step": 2,
                "use_sliding_window": true, "sliding_window": 3}),
        ),
        (
            "gpt_neox one after the other",
            json!({"architectures": ["GPTNeoXForCausalLM"], "use_parallel_residual": false,
                "attention_bias": false, "tie_word_embeddings": true, "hidden_act": "gelu_fast",
                "rotary_pct": 1.0, "rotary_emb_base": 50, "hidden_size": 16}),
        ),
        (
            "gpt2 by depth",
            json!({"architectures": ["GPT2LMHeadModel"], "scale_attn_by_inverse_layer_idx": true,
                "scale_attn_weights": false, "tie_word_embeddings": false, "n_inner": 14,
                "activation_function": "gelu"}),
        ),
        ("gelu", json!({"hidden_act": "gelu_pytorch_tanh"})),
        (
            "phi3 longrope",
            json!({"architectures": ["Phi3ForCausalLM"], "rope_scaling": long,
                "partial_rotary_factor": 0.67, "original_max_position_embeddings": 16}),
        ),
        (
            "internlm2 biases",
            json!({"architectures": ["InternLM2ForCausalLM"], "bias": true}),
        ),
        (
            "mpt three heads",
            mpt(json!({"n_heads": 3, "tie_word_embeddings": false,
                "attn_config": {"clip_qkv": 0.8, "softmax_scale": 0.3, "alibi_bias_max": 4}})),
        ),
    ];
    let all = families().into_iter().chain(settings);
    all.map(read).collect()
}

/// Changes to [`tiny`] that make an MPT of it, with `changes` of their own.
pub(super) fn mpt(changes: Value) -> Value {
    let all = families().into_iter();
    let mut all = all.filter(|(name, _)| *name == "mpt");
    let (_, mut config) = all.next().unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn read((name, changes): (&'static str, Value)) -> (&'static str, Config) {
    let config = Config::from_json(tiny(changes), Path::new("config.json")).unwrap();
    (name, config)
}
