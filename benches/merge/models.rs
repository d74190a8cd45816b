//! Llama-shaped models with random weights, made from a counter: a pivot, and targets that differ
//! from it as fine-tuned models do.

use std::fs;
use std::path::Path;

use fuselm::checkpoint::{CheckpointWriter, Layout};
use fuselm::tensors::{Dtype, TensorSpec};
use rayon::prelude::*;

/// Standard deviation of the pivot's weights.
const WEIGHT: f32 = 0.02;
/// Standard deviation of what fine-tuning changes.
const DELTA: f32 = 4e-4;

/// The shape of a model.
#[derive(Clone, Copy)]
pub struct Shape {
    pub layers: usize,
    pub hidden: usize,
    pub intermediate: usize,
    pub vocabulary: usize,
    /// Biases of q, k and v, as Qwen has them.
    pub biases: bool,
}

/// 348 million parameters.
pub const SMALL: Shape = Shape {
    layers: 22,
    hidden: 1024,
    intermediate: 2816,
    vocabulary: 32_000,
    biases: false,
};

/// Qwen1.5-72B: 72.7 billion parameters.
pub const LARGE: Shape = Shape {
    layers: 80,
    hidden: 8192,
    intermediate: 24_576,
    vocabulary: 152_064,
    biases: true,
};

impl Shape {
    /// Names and shapes, in the order in which Hugging Face stores them.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut all = Vec::new();
        let mut push = |name: String, shape: &[usize]| {
            all.push(TensorSpec {
                name,
                dtype: Dtype::BF16,
                shape: shape.to_vec(),
            });
        };
        let (h, i, v) = (self.hidden, self.intermediate, self.vocabulary);
        push("model.embed_tokens.weight".into(), &[v, h]);
        for layer in 0..self.layers {
            let at = format!("model.layers.{layer}");
            for part in ["q", "k", "v", "o"] {
                push(format!("{at}.self_attn.{part}_proj.weight"), &[h, h]);
                if self.biases && part != "o" {
                    push(format!("{at}.self_attn.{part}_proj.bias"), &[h]);
                }
            }
            push(format!("{at}.mlp.gate_proj.weight"), &[i, h]);
            push(format!("{at}.mlp.up_proj.weight"), &[i, h]);
            push(format!("{at}.mlp.down_proj.weight"), &[h, i]);
            push(format!("{at}.input_layernorm.weight"), &[h]);
            push(format!("{at}.post_attention_layernorm.weight"), &[h]);
        }
        push("model.norm.weight".into(), &[h]);
        push("lm_head.weight".into(), &[v, h]);
        all
    }

    /// The model's `config.json`.
    pub fn config(&self) -> String {
        format!(
            r#"{{"architectures": ["LlamaForCausalLM"], "model_type": "llama",
"hidden_size": {}, "intermediate_size": {}, "num_hidden_layers": {}, "num_attention_heads": {},
"num_key_value_heads": {}, "vocab_size": {}, "rms_norm_eps": 1e-5, "hidden_act": "silu",
"max_position_embeddings": 2048, "tie_word_embeddings": false, "torch_dtype": "bfloat16"}}"#,
            self.hidden,
            self.intermediate,
            self.layers,
            self.hidden / 64,
            self.hidden / 64,
            self.vocabulary
        )
    }
}

/// Well-mixed bits for a counter.
fn mix(seed: u64, index: u64) -> u64 {
    let mut x = seed.wrapping_add(index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// About normal with standard deviation 1: the sum of four uniform numbers.
pub fn normal(seed: u64, index: u64) -> f32 {
    let bits = mix(seed, index);
    let sum: f32 = (0..4)
        .map(|i| (bits >> (16 * i)) as u16)
        .map(|u| f32::from(u) / 65_536.0 - 0.5)
        .sum();
    sum * 3f32.sqrt()
}

/// Element `index` of tensor number `tensor` of model `model` (0 is the pivot), as bf16 bits.
pub fn element(model: u64, tensor: u64, index: u64) -> u16 {
    let base = WEIGHT * normal(tensor << 40, index);
    let delta = match model {
        0 => 0.0,
        _ => DELTA * normal(model << 56 | tensor << 40, index),
    };
    half::bf16::from_f32(base + delta).to_bits()
}

/// Writes the models `pivot`, `target1` … into `dir`, those that are not there yet.
pub fn write(dir: &Path, shape: Shape, targets: usize) {
    for model in 0..=targets {
        let path = dir.join(name(model));
        if path.join("config.json").exists() {
            continue;
        }
        eprintln!("writing {}", path.display());
        fs::create_dir_all(&path).unwrap();
        let layout = Layout::new(shape.tensors(), 300_000_000).unwrap();
        let writer = CheckpointWriter::open(&path, layout).unwrap();
        for (at, tensor) in shape.tensors().iter().enumerate() {
            let values: Vec<u16> = (0..tensor.elements() as u64)
                .into_par_iter()
                .map(|index| element(model as u64, at as u64, index))
                .collect();
            writer.write(at, 0, bytemuck::cast_slice(&values)).unwrap();
        }
        writer.finish(&path).unwrap();
        // Last, so that a folder that has it is complete.
        fs::write(path.join("config.json"), shape.config()).unwrap();
    }
}

/// The folder of model number `model`.
pub fn name(model: usize) -> String {
    match model {
        0 => "pivot".into(),
        n => format!("target{n}"),
    }
}
