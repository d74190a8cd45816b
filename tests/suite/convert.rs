//! Models as GGUF files: what llama.cpp's converter does to names, rows and settings.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use candle_core::quantized::gguf_file::{Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use fuselm::model::{Config, Decoder, LoadOptions, Mode, Rope, RopeScaling};
use fuselm::vocab::Vocabulary;

/// Everything in a GGUF file.
pub struct Gguf {
    pub metadata: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, QTensor>,
}

impl Gguf {
    pub fn set(&mut self, key: &str, value: Value) {
        self.metadata.insert(key.to_owned(), value);
    }

    pub fn write(&self, path: &Path) {
        let metadata: Vec<(&str, &Value)> = self
            .metadata
            .iter()
            .map(|(key, value)| (key.as_str(), value))
            .collect();
        let tensors: Vec<(&str, &QTensor)> = self
            .tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
            .collect();
        let mut file = BufWriter::new(File::create(path).unwrap());
        write(&mut file, &metadata, &tensors).unwrap();
    }
}

pub fn options(mode: Mode) -> LoadOptions {
    LoadOptions {
        device: Device::Cpu,
        dtype: DType::F32,
        mode,
    }
}

/// Names of `llama.cpp` for the parts of a layer.
const PARTS: [(&str, &str); 15] = [
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
    ("mlp.gate", "ffn_gate_inp"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
];

/// The same for the norms of Gemma 2 and 3.
const GEMMA2: [(&str, &str); 4] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];

fn rename(family: &str, name: &str) -> String {
    let mut name = name.replace("model.layers.", "blk.");
    if ["gemma2", "gemma3"].contains(&family) {
        for (long, short) in GEMMA2 {
            name = name.replace(&format!(".{long}."), &format!(".{short}."));
        }
    }
    for (long, short) in PARTS {
        name = name.replace(&format!(".{long}."), &format!(".{short}."));
    }
    name.replace("model.embed_tokens", "token_embd")
        .replace("model.norm", "output_norm")
        .replace("lm_head", "output")
}

/// The halves of each head become neighbours.
fn pair(tensor: &Tensor, heads: usize) -> Tensor {
    let dims = tensor.dims().to_vec();
    let (rows, width) = (dims[0], tensor.elem_count() / dims[0]);
    tensor
        .reshape((heads, 2, rows / heads / 2, width))
        .and_then(|halves| halves.transpose(1, 2)?.contiguous()?.reshape(dims))
        .unwrap()
}

/// `tensor` in `dtype`, or in F32 where it is no matrix.
pub fn quantised(tensor: &Tensor, dtype: GgmlDType) -> QTensor {
    let dtype = match tensor.rank() {
        1 => GgmlDType::F32,
        _ => dtype,
    };
    QTensor::quantize(tensor, dtype).unwrap()
}

/// `general.architecture` of a model.
pub fn family(config: &Config) -> &'static str {
    match config.architecture.name() {
        "Qwen2ForCausalLM" => "qwen2",
        "Qwen3ForCausalLM" => "qwen3",
        "Qwen3MoeForCausalLM" => "qwen3moe",
        "GemmaForCausalLM" => "gemma",
        "Gemma2ForCausalLM" => "gemma2",
        "Gemma3ForCausalLM" => "gemma3",
        "Phi3ForCausalLM" => "phi3",
        _ => "llama",
    }
}

/// `decoder` as a GGUF file with matrices in `dtype` and the tokens of `vocabulary`.
pub fn convert(decoder: &Decoder, dtype: GgmlDType, vocabulary: Option<&Vocabulary>) -> Gguf {
    let config = decoder.config();
    let family = family(config);
    let mut tensors = BTreeMap::new();
    for (name, var) in decoder.params() {
        let mut tensor = var.as_detached_tensor();
        if family == "llama" && name.contains("q_proj") {
            tensor = pair(&tensor, config.num_attention_heads);
        }
        if family == "llama" && name.contains("k_proj") {
            tensor = pair(&tensor, config.num_key_value_heads);
        }
        if family.starts_with("gemma") && name.ends_with("norm.weight") {
            tensor = (tensor + 1.0).unwrap();
        }
        if !name.contains(".experts.") {
            tensors.insert(rename(family, name), quantised(&tensor, dtype));
        }
    }
    let (block, parts) = match family {
        "qwen3moe" => ("mlp", ["gate_proj", "down_proj", "up_proj"]),
        _ => ("block_sparse_moe", ["w1", "w2", "w3"]),
    };
    for (layer, experts) in config.experts.iter().enumerate() {
        let Some(experts) = experts else { continue };
        let stacks = ["ffn_gate_exps", "ffn_down_exps", "ffn_up_exps"];
        for (long, short) in parts.into_iter().zip(stacks) {
            let of = |expert: usize| {
                let place = format!("model.layers.{layer}.{block}.experts.{expert}");
                decoder.params()[&format!("{place}.{long}.weight")].as_detached_tensor()
            };
            let all: Vec<Tensor> = (0..experts.count).map(of).collect();
            let stacked = quantised(&Tensor::stack(&all, 0).unwrap(), dtype);
            tensors.insert(format!("blk.{layer}.{short}.weight"), stacked);
        }
    }
    let mut gguf = Gguf {
        metadata: settings(family, config),
        tensors,
    };
    if let RopeScaling::Long { .. } = config.rope.as_ref().unwrap().scaling {
        add_long_rope(config, &mut gguf);
    }
    if let Some(vocabulary) = vocabulary {
        let tokens = vocabulary.tokens.iter();
        let tokens = tokens.map(|token| Value::String(token.display.clone()));
        gguf.set("tokenizer.ggml.tokens", Value::Array(tokens.collect()));
    }
    gguf
}

fn settings(family: &str, config: &Config) -> BTreeMap<String, Value> {
    let size = |n: usize| Value::U32(n as u32);
    let rope = config.rope.as_ref().unwrap();
    let mut settings = vec![
        ("embedding_length", size(config.hidden_size)),
        ("feed_forward_length", size(config.intermediate_size)),
        ("block_count", size(config.num_hidden_layers)),
        ("attention.head_count", size(config.num_attention_heads)),
        ("attention.head_count_kv", size(config.num_key_value_heads)),
        ("attention.key_length", size(config.head_dim)),
        ("context_length", size(config.max_position_embeddings)),
        ("rope.freq_base", Value::F32(rope.theta as f32)),
        ("rope.dimension_count", size(rope.dims)),
        (
            "attention.layer_norm_rms_epsilon",
            Value::F32(config.norm_eps as f32),
        ),
    ];
    if let Some(experts) = config.experts[0] {
        settings.push(("expert_count", size(experts.count)));
        settings.push(("expert_used_count", size(experts.per_token)));
        settings.push(("expert_feed_forward_length", size(experts.width)));
    }
    if let Some(window) = config.windows.iter().flatten().next() {
        settings.push(("attention.sliding_window", size(*window)));
    }
    for (name, cap) in [
        ("attn_logit_softcapping", config.attention_softcap),
        ("final_logit_softcapping", config.final_softcap),
    ] {
        settings.extend(cap.map(|cap| (name, Value::F32(cap as f32))));
    }
    let settings = settings.into_iter();
    let mut settings: BTreeMap<String, Value> = settings
        .map(|(name, value)| (format!("{family}.{name}"), value))
        .collect();
    let architecture = Value::String(family.to_owned());
    settings.insert("general.architecture".to_owned(), architecture);
    settings
}

/// What llama.cpp's converter stores of LongRoPE.
fn add_long_rope(config: &Config, gguf: &mut Gguf) {
    // The whole context, of which the decoder has the part that is exact.
    let [original, context] = [
        "original_max_position_embeddings",
        "max_position_embeddings",
    ]
    .map(|field| config.raw[field].as_u64().unwrap());
    let extension = context as f32 / original as f32;
    let attention = (1.0 + extension.ln() / (original as f32).ln()).sqrt();
    gguf.set("phi3.context_length", Value::U32(context as u32));
    let key = |name: &str| format!("phi3.rope.scaling.{name}");
    gguf.set(&key("original_context_length"), Value::U32(original as u32));
    gguf.set(&key("attn_factor"), Value::F32(attention));
    for kind in ["short", "long"] {
        let factors = config.raw["rope_scaling"][format!("{kind}_factor")].as_array();
        let factors: Vec<f32> = factors
            .unwrap()
            .iter()
            .map(|n| n.as_f64().unwrap() as f32)
            .collect();
        let tensor = Tensor::from_slice(&factors, factors.len(), &Device::Cpu).unwrap();
        let name = format!("rope_factors_{kind}.weight");
        gguf.tensors
            .insert(name, quantised(&tensor, GgmlDType::F32));
    }
}

/// What llama.cpp's converter stores of Llama 3's scaling: the divisor of each frequency.
pub fn rope_factors(config: &Config) -> QTensor {
    let rope = config.rope.clone().unwrap();
    let plain = Rope {
        scaling: RopeScaling::Default,
        ..rope.clone()
    };
    let (plain, scaled) = (plain.frequencies(), rope.frequencies());
    let factors = plain
        .iter()
        .zip(&scaled)
        .map(|(plain, scaled)| plain / scaled);
    let factors: Vec<f32> = factors.collect();
    let tensor = Tensor::from_slice(&factors, factors.len(), &Device::Cpu).unwrap();
    quantised(&tensor, GgmlDType::F32)
}
