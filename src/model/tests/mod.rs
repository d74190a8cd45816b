//! The decoder against Hugging Face transformers, a plain float64 version, and bad files.

mod adapters;
mod files;
mod gradients;
mod invariances;
mod references;

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};

use super::*;

fn shared() -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared");
    let dir = std::env::var("FUSELM_TEST_SHARED").unwrap_or_else(|_| default.to_owned());
    let dir = PathBuf::from(dir);
    if !dir.is_dir() {
        eprintln!("skipped: no shared test material at {}", dir.display());
        return None;
    }
    Some(dir)
}

fn options(mode: Mode) -> LoadOptions {
    LoadOptions {
        device: Device::Cpu,
        dtype: DType::F32,
        mode,
    }
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("config.json").exists())
        .collect();
    all.sort();
    all
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f64 {
    let f64s = |t: &Tensor| {
        t.detach()
            .to_dtype(DType::F64)
            .unwrap()
            .flatten_all()
            .unwrap()
    };
    let difference = (f64s(a) - f64s(b)).unwrap().abs().unwrap();
    difference.max(0).unwrap().to_scalar::<f64>().unwrap()
}

fn all_logits(decoder: &Decoder, ids: &Tensor) -> Tensor {
    let hidden = decoder.hidden(ids).unwrap();
    decoder.logits(&hidden.flatten_to(1).unwrap()).unwrap()
}

/// A `config.json` of a tiny model with `changes` applied.
fn tiny(changes: Value) -> Map<String, Value> {
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

fn variants() -> Vec<(&'static str, Config)> {
    let llama3 = json!({"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8, "rope_theta": 500.0});
    [
        ("llama", json!({})),
        ("tied", json!({"tie_word_embeddings": true})),
        ("biases", json!({"attention_bias": true, "mlp_bias": true})),
        ("llama3 rope", json!({"rope_parameters": llama3})),
        (
            "linear rope",
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}}),
        ),
        (
            "mistral window",
            json!({"architectures": ["MistralForCausalLM"], "sliding_window": 3}),
        ),
        ("qwen2", json!({"architectures": ["Qwen2ForCausalLM"]})),
        (
            "qwen2 windows",
            json!({"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": true,
                "sliding_window": 2, "max_window_layers": 1}),
        ),
        ("qwen3", json!({"architectures": ["Qwen3ForCausalLM"]})),
        ("gelu", json!({"hidden_act": "gelu_pytorch_tanh"})),
    ]
    .into_iter()
    .map(|(name, changes)| {
        let config = Config::from_json(tiny(changes), Path::new("config.json")).unwrap();
        (name, config)
    })
    .collect()
}

/// A random model whose norms and biases have left their defaults too.
fn random(config: &Config, mode: Mode) -> Decoder {
    let decoder = Decoder::random(config.clone(), &options(mode), 7).unwrap();
    for (index, var) in decoder.params().values().enumerate() {
        let noise = direction(var.as_tensor(), 1000 + index as u64);
        let noise = noise.to_dtype(DType::F32).unwrap();
        var.set(&(var.as_detached_tensor() + (noise * 0.1).unwrap()).unwrap())
            .unwrap();
    }
    decoder
}

/// A fixed pseudo-random f64 tensor in the shape of `like`, values in [-1, 1).
fn direction(like: &Tensor, seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values: Vec<f64> = (0..like.elem_count())
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect();
    Tensor::from_vec(values, like.shape(), &Device::Cpu).unwrap()
}

fn some_ids() -> Tensor {
    let ids: Vec<u32> = (0..18).map(|i| (i * i * 7 + 3) % 19).collect();
    Tensor::from_vec(ids, (2, 9), &Device::Cpu).unwrap()
}
