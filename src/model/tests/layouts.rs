//! Layouts and settings of single families, by hand and against each other.

use std::collections::BTreeMap;

use candle_core::Var;

use super::families::families;
use super::*;

/// InternLM2's joined matrices from Llama's: the same logits.
#[test]
fn internlm2_is_llama_rearranged() {
    let ids = some_ids();
    for bias in [false, true] {
        let read = |changes| Config::from_json(tiny(changes), Path::new("config.json")).unwrap();
        let llama = read(json!({"attention_bias": bias, "rms_norm_eps": 1e-6}));
        let intern = read(
            json!({"architectures": ["InternLM2ForCausalLM"], "bias": bias,
            "rms_norm_eps": 1e-6}),
        );
        let llama = random(&llama, Mode::Inference);
        let get = |name: &str| llama.params()[name].as_detached_tensor();
        let groups = intern.num_key_value_heads;
        let rows_of = |q: Tensor, k: Tensor, v: Tensor| {
            // "b q (h gs d) -> b q h gs d": for each key/value head its queries, its key, its value.
            let mut parts = Vec::new();
            for group in 0..groups {
                for tensor in [&q, &k, &v] {
                    parts.push(tensor.chunk(groups, 0).unwrap()[group].clone());
                }
            }
            Tensor::cat(&parts, 0).unwrap()
        };
        let copies = [
            ("model.tok_embeddings.weight", "model.embed_tokens.weight"),
            ("output.weight", "lm_head.weight"),
            ("model.norm.weight", "model.norm.weight"),
        ];
        let of_layer = [
            ("attention.wo.weight", "self_attn.o_proj.weight"),
            ("attention.wo.bias", "self_attn.o_proj.bias"),
            ("feed_forward.w1.weight", "mlp.gate_proj.weight"),
            ("feed_forward.w2.weight", "mlp.down_proj.weight"),
            ("feed_forward.w3.weight", "mlp.up_proj.weight"),
            ("attention_norm.weight", "input_layernorm.weight"),
            ("ffn_norm.weight", "post_attention_layernorm.weight"),
        ];
        let mut params: BTreeMap<String, Tensor> =
            copies.map(|(to, from)| (to.to_owned(), get(from))).into();
        for layer in 0..intern.num_hidden_layers {
            let name = |name: &str| format!("model.layers.{layer}.{name}");
            for (to, from) in of_layer {
                if bias || !to.ends_with("bias") {
                    params.insert(name(to), get(&name(from)));
                }
            }
            for kind in ["weight", "bias"].into_iter().take(1 + usize::from(bias)) {
                let part = |p: &str| get(&name(&format!("self_attn.{p}_proj.{kind}")));
                let joined = rows_of(part("q"), part("k"), part("v"));
                params.insert(name(&format!("attention.wqkv.{kind}")), joined);
            }
        }
        let decoder = Decoder::random(intern, &options(Mode::Inference), 1).unwrap();
        assert_eq!(decoder.params().len(), params.len());
        for (name, var) in decoder.params() {
            var.set(&params[name]).unwrap();
        }
        let difference = largest_difference(&all_logits(&decoder, &ids), &all_logits(&llama, &ids));
        assert!(difference < 1e-5, "{difference}");
    }
}

#[test]
fn slopes_of_alibi_by_hand() {
    let slopes = |heads: usize| {
        let changes = families::mpt(json!({"n_heads": heads, "d_model": heads * 2}));
        let config = Config::from_json(tiny(changes), Path::new("config.json")).unwrap();
        config.alibi_slopes().unwrap()
    };
    assert_eq!(slopes(4), [0.25, 0.0625, 0.015625, 0.00390625]);
    assert_eq!(slopes(8)[0], 0.5);
    // Every second of four, then the first of those between.
    assert_eq!(slopes(3), [0.0625, 0.00390625, 0.25]);
    assert_eq!(slopes(1), [0.00390625]);
}

/// Gemma multiplies by a number of the activations' dtype: in bf16 the root of 12 is 3.46875.
#[test]
fn embeddings_are_scaled_in_their_own_dtype() {
    let changes = json!({"architectures": ["GemmaForCausalLM"]});
    let config = Config::from_json(tiny(changes), Path::new("config.json")).unwrap();
    for (dtype, scale) in [(DType::F32, 12f32.sqrt()), (DType::BF16, 3.46875)] {
        let options = LoadOptions {
            dtype,
            ..options(Mode::Inference)
        };
        let decoder = Decoder::random(config.clone(), &options, 1).unwrap();
        let embedding: &Var = &decoder.params()["model.embed_tokens.weight"];
        embedding.set(&embedding.ones_like().unwrap()).unwrap();
        let x = decoder
            .embed(&some_ids(), &decoder.rotary(9).unwrap())
            .unwrap();
        let x = x.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        assert_eq!(x.to_vec1::<f32>().unwrap()[0], scale);
    }
}

#[test]
fn gemma2_may_lack_its_caps() {
    let read = |changes: Value| {
        let mut map = tiny(json!({"architectures": ["Gemma2ForCausalLM"]}));
        map.remove("head_dim");
        map.extend(changes.as_object().unwrap().clone());
        Config::from_json(map, Path::new("config.json")).unwrap()
    };
    let config = read(json!({}));
    assert_eq!(config.head_dim, 256);
    assert_eq!(config.attention_scale, 1.0 / 16.0);
    assert_eq!(config.attention_softcap, Some(50.0));
    assert_eq!(config.final_softcap, Some(30.0));
    assert_eq!(config.windows, [Some(4096), None]);
    assert!(config.tie_word_embeddings);
    let types = json!({"attn_logit_softcapping": null, "final_logit_softcapping": null,
        "sliding_window": 5, "layer_types": ["full_attention", "sliding_attention"]});
    let config = read(types);
    assert_eq!(
        (config.attention_softcap, config.final_softcap),
        (None, None)
    );
    assert_eq!(config.windows, [None, Some(5)]);
}

/// Within the original context LongRoPE is a fixed change of the frequencies; beyond it a
/// sequence is refused.
#[test]
fn longrope_ends_at_the_original_context() {
    let (_, config) = variants()
        .into_iter()
        .find(|(name, _)| *name == "phi3 longrope")
        .unwrap();
    assert_eq!(config.max_position_embeddings, 16);
    let rope = config.rope.clone().unwrap();
    assert_eq!(rope.dims, 4);
    let frequencies = rope.frequencies();
    assert_eq!(frequencies, [1.0, (0.01f64 / 1.5) as f32]);
    // √(1 + ln 2 / ln 16) = √1.25
    assert!((rope.attention_factor() - 1.25f32.sqrt()).abs() < 1e-6);
    let decoder = random(&config, Mode::Inference);
    assert!(decoder.rotary(16).is_ok());
    let error = decoder.rotary(17).unwrap_err().to_string();
    assert!(error.contains("context of 16 tokens"), "{error}");
}

#[test]
fn norms_around_one_start_at_one() {
    let changes = json!({"architectures": ["GemmaForCausalLM"]});
    let config = Config::from_json(tiny(changes), Path::new("config.json")).unwrap();
    let norm = |spec: &&TensorSpec| spec.name == "model.norm.weight";
    assert_eq!(
        config.tensors().iter().find(norm).unwrap().init,
        Init::Zeros
    );
}

/// The parameters of the first layer, spelt out as published checkpoints have them.
#[test]
fn families_name_their_parameters() {
    let attention = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj";
    let mlp = "mlp.gate_proj mlp.up_proj mlp.down_proj";
    let norms = "input_layernorm post_attention_layernorm";
    let outer = "model.embed_tokens model.norm lm_head";
    let tied = "model.embed_tokens model.norm";
    let expert = |number: usize| {
        ["w1", "w3", "w2"].map(|part| format!("block_sparse_moe.experts.{number}.{part}"))
    };
    let experts = [0, 1, 2, 3].map(expert).concat().join(" ");
    let expert = |number: usize| {
        ["gate_proj", "up_proj", "down_proj"].map(|part| format!("mlp.experts.{number}.{part}"))
    };
    let qwen_experts = [0, 1, 2, 3].map(expert).concat().join(" ");
    let biased = "self_attn.q_proj self_attn.q_proj.bias self_attn.k_proj self_attn.k_proj.bias \
                  self_attn.v_proj self_attn.v_proj.bias self_attn.o_proj";
    let llama = format!("{attention} {mlp} {norms}");
    let with_biases = |names: &[&str]| {
        let both = names.iter().map(|name| format!("{name} {name}.bias"));
        both.collect::<Vec<_>>().join(" ")
    };
    let expected = [
        ("llama", outer, llama.clone()),
        ("mistral", outer, llama.clone()),
        (
            "mixtral",
            outer,
            format!("{attention} block_sparse_moe.gate {experts} {norms}"),
        ),
        ("qwen2", outer, format!("{biased} {mlp} {norms}")),
        (
            "qwen3",
            outer,
            format!("{llama} self_attn.q_norm self_attn.k_norm"),
        ),
        (
            "qwen3_moe",
            outer,
            format!(
                "{attention} mlp.gate {qwen_experts} {norms} self_attn.q_norm self_attn.k_norm"
            ),
        ),
        ("gemma", tied, llama),
        (
            "gemma2",
            tied,
            format!(
                "{attention} {mlp} input_layernorm pre_feedforward_layernorm \
                 post_attention_layernorm post_feedforward_layernorm"
            ),
        ),
        (
            "gemma3_text",
            tied,
            format!(
                "{attention} {mlp} input_layernorm pre_feedforward_layernorm \
                 post_attention_layernorm post_feedforward_layernorm \
                 self_attn.q_norm self_attn.k_norm"
            ),
        ),
        (
            "phi3",
            outer,
            format!("self_attn.qkv_proj self_attn.o_proj mlp.gate_up_proj mlp.down_proj {norms}"),
        ),
        (
            "internlm2",
            "model.tok_embeddings model.norm output",
            "attention.wqkv attention.wo feed_forward.w1 feed_forward.w3 feed_forward.w2 \
             attention_norm ffn_norm"
                .to_owned(),
        ),
        (
            "gpt_neox",
            "gpt_neox.embed_in gpt_neox.final_layer_norm gpt_neox.final_layer_norm.bias embed_out",
            with_biases(&[
                "attention.query_key_value",
                "attention.dense",
                "mlp.dense_h_to_4h",
                "mlp.dense_4h_to_h",
                "input_layernorm",
                "post_attention_layernorm",
            ]),
        ),
        (
            "gpt2",
            "transformer.wte transformer.ln_f transformer.ln_f.bias transformer.wpe",
            with_biases(&[
                "attn.c_attn",
                "attn.c_proj",
                "mlp.c_fc",
                "mlp.c_proj",
                "ln_1",
                "ln_2",
            ]),
        ),
        (
            "mpt",
            "transformer.wte transformer.norm_f",
            "attn.Wqkv attn.out_proj ffn.up_proj ffn.down_proj norm_1 norm_2".to_owned(),
        ),
    ];
    for (family, changes) in families() {
        let found = expected.iter().find(|(name, ..)| *name == family);
        let (_, outer, layer) = found.unwrap_or_else(|| panic!("spell out the names of {family}"));
        let config = Config::from_json(tiny(changes), Path::new("config.json")).unwrap();
        let prefix = match family {
            "mpt" => "transformer.blocks.0.",
            "gpt_neox" => "gpt_neox.layers.0.",
            "gpt2" => "transformer.h.0.",
            _ => "model.layers.0.",
        };
        let names = |specs: Vec<TensorSpec>, prefix: &str| {
            let short = |spec: &TensorSpec| {
                let name = spec.name.strip_prefix(prefix).unwrap();
                name.strip_suffix(".weight").unwrap_or(name).to_owned()
            };
            specs.iter().map(short).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(config.outer_tensors(), ""), *outer, "{family}");
        assert_eq!(names(config.layer_tensors(0), prefix), *layer, "{family}");
        let scaled = if family.starts_with("gemma") {
            12f64.sqrt()
        } else {
            1.0
        };
        assert_eq!(config.embedding_scale, scaled, "{family}");
    }
}
