//! GGUF files as sources.

use std::fs;
use std::path::Path;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value;
use candle_core::{DType, Device, Tensor};
use fuselm::artifact::tokens::SampleTokens;
use fuselm::model::{
    Config, Decoder, Mode, PredictOptions, Predictions, Predictor, RopeScaling, predict,
    write_plain,
};
use fuselm::units::Bytes;
use fuselm::vocab::Tokenizer;
use serde_json::{Value as Json, json};

use super::convert::{convert, family, options, quantised, rope_factors};
use super::program::{Workshop, data_samples};
use super::rows::all_rows;

/// A model with whole blocks of every type, weights and norms drawn at random.
fn random(changes: Json) -> Decoder {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 40, "hidden_size": 256,
        "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "initializer_range": 0.1,
    });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    let Json::Object(raw) = config else {
        panic!("no object")
    };
    let config = Config::from_json(raw, Path::new("config.json")).unwrap();
    let decoder = Decoder::random(config, &options(Mode::Inference), 5).unwrap();
    for (seed, var) in decoder.params().values().enumerate() {
        let noise: Vec<f32> = (0..var.elem_count())
            .map(|i| (((i * 2_654_435_761 + seed) % 1009) as f32 / 1009.0 - 0.5) * 0.2)
            .collect();
        let noise = Tensor::from_vec(noise, var.shape(), &Device::Cpu).unwrap();
        var.set(&(var.as_detached_tensor() + noise).unwrap())
            .unwrap();
    }
    decoder
}

fn variants() -> Vec<(&'static str, Decoder)> {
    let llama3 = json!({"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 500.0});
    let factors = |step: f64| {
        (0..32)
            .map(|i| 1.0 + step * f64::from(i))
            .collect::<Vec<_>>()
    };
    let long =
        json!({"type": "longrope", "short_factor": factors(0.125), "long_factor": factors(0.5)});
    [
        ("llama", json!({})),
        ("tied", json!({"tie_word_embeddings": true})),
        (
            "biases",
            json!({"attention_bias": true, "mlp_bias": true, "num_key_value_heads": 4}),
        ),
        ("llama 3", json!({"rope_parameters": llama3})),
        (
            "linear",
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}}),
        ),
        (
            "yarn",
            json!({"rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}}),
        ),
        ("qwen2", json!({"architectures": ["Qwen2ForCausalLM"]})),
        ("qwen3", json!({"architectures": ["Qwen3ForCausalLM"]})),
        (
            "mistral",
            json!({"architectures": ["MistralForCausalLM"], "sliding_window": 6}),
        ),
        (
            "mixtral",
            json!({"architectures": ["MixtralForCausalLM"], "num_local_experts": 4,
                "rope_theta": 1e4}),
        ),
        (
            "qwen3moe",
            json!({"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 4,
                "num_experts_per_tok": 2, "moe_intermediate_size": 256, "norm_topk_prob": true}),
        ),
        ("gemma", json!({"architectures": ["GemmaForCausalLM"]})),
        (
            "gemma2",
            json!({"architectures": ["Gemma2ForCausalLM"], "sliding_window": 6,
                "query_pre_attn_scalar": 64, "attn_logit_softcapping": 20.0}),
        ),
        // The sixth layer is the one without a window.
        (
            "gemma3",
            json!({"architectures": ["Gemma3ForCausalLM"], "sliding_window": 6,
                "query_pre_attn_scalar": 64, "num_hidden_layers": 6,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        ),
        (
            "phi3",
            json!({"architectures": ["Phi3ForCausalLM"], "partial_rotary_factor": 0.5}),
        ),
        (
            "phi3 with longrope",
            json!({"architectures": ["Phi3ForCausalLM"], "rope_scaling": long,
                "original_max_position_embeddings": 48}),
        ),
    ]
    .into_iter()
    .map(|(name, changes)| (name, random(changes)))
    .collect()
}

/// Models that are folders only.
fn folders() -> Vec<(&'static str, Decoder)> {
    [
        (
            "mpt",
            json!({"architectures": ["MptForCausalLM"], "d_model": 256, "n_heads": 4,
            "n_layers": 2, "max_seq_len": 64, "hidden_size": null, "num_attention_heads": null,
            "num_hidden_layers": null}),
        ),
        ("gpt_neox", json!({"architectures": ["GPTNeoXForCausalLM"]})),
        ("gpt2", json!({"architectures": ["GPT2LMHeadModel"]})),
        (
            "gpt2, untied",
            json!({"architectures": ["GPT2LMHeadModel"], "tie_word_embeddings": false}),
        ),
        (
            "qwen3 with some experts",
            json!({"architectures": ["Qwen3MoeForCausalLM"], "num_experts": 4,
                "num_experts_per_tok": 2, "moe_intermediate_size": 256, "mlp_only_layers": [0]}),
        ),
    ]
    .into_iter()
    .map(|(name, changes)| (name, random(changes)))
    .collect()
}

/// Writes a decoder as a GGUF file.
fn save(decoder: &Decoder, dtype: GgmlDType, path: &Path) {
    let mut gguf = convert(decoder, dtype, None);
    match decoder.config().rope.as_ref().unwrap().scaling {
        RopeScaling::Llama3 { .. } => {
            let factors = rope_factors(decoder.config());
            gguf.tensors.insert("rope_freqs.weight".to_owned(), factors);
        }
        RopeScaling::Linear { factor } => {
            let place = format!("{}.rope.scaling", family(decoder.config()));
            gguf.set(&format!("{place}.type"), Value::String("linear".to_owned()));
            gguf.set(&format!("{place}.factor"), Value::F32(factor as f32));
        }
        RopeScaling::Yarn { factor, .. } => {
            let key = |name: &str| format!("llama.rope.scaling.{name}");
            gguf.set(&key("type"), Value::String("yarn".to_owned()));
            gguf.set(&key("factor"), Value::F32(factor as f32));
            gguf.set(&key("original_context_length"), Value::U32(32));
        }
        _ => {}
    }
    gguf.write(path);
}

fn logits(decoder: &Decoder) -> Vec<f32> {
    let ids: Vec<u32> = (0..34).map(|i| (i * i * 7 + 3) % 40).collect();
    let ids = Tensor::from_vec(ids, (2, 17), &Device::Cpu).unwrap();
    let hidden = decoder.hidden(&ids).unwrap().flatten_to(1).unwrap();
    let logits = decoder.logits(&hidden).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

#[test]
fn files_of_plain_floats_give_the_logits_of_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    for (name, decoder) in variants() {
        let expected = logits(&decoder);
        let scale = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
        for (dtype, tolerance) in [
            (GgmlDType::F32, 1e-5),
            (GgmlDType::F16, 5e-3),
            (GgmlDType::BF16, 5e-2),
        ] {
            save(&decoder, dtype, &path);
            let read = Decoder::load(&path, &options(Mode::Inference)).unwrap();
            let difference = largest_difference(&logits(&read), &expected) / scale;
            assert!(difference < tolerance, "{name} {dtype:?}: {difference}");
        }
    }
}

/// Files from before April 2024 have a tensor for each expert.
#[test]
fn experts_may_have_tensors_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mixtral = json!({"architectures": ["MixtralForCausalLM"], "num_local_experts": 3});
    let decoder = random(mixtral);
    let mut gguf = convert(&decoder, GgmlDType::Q8_0, None);
    gguf.write(&path);
    let stacked = Decoder::load(&path, &options(Mode::Inference)).unwrap();
    gguf.tensors.retain(|name, _| !name.contains("_exps."));
    for layer in 0..2 {
        for (long, short) in [("w1", "ffn_gate"), ("w2", "ffn_down"), ("w3", "ffn_up")] {
            for expert in 0..3 {
                let place = format!("model.layers.{layer}.block_sparse_moe.experts.{expert}");
                let weight = &decoder.params()[&format!("{place}.{long}.weight")];
                let name = format!("blk.{layer}.{short}.{expert}.weight");
                let matrix = quantised(weight.as_tensor(), GgmlDType::Q8_0);
                gguf.tensors.insert(name, matrix);
            }
        }
    }
    gguf.write(&path);
    let alone = Decoder::load(&path, &options(Mode::Inference)).unwrap();
    assert_eq!(logits(&alone), logits(&stacked));
    gguf.tensors.remove("blk.1.ffn_up.2.weight");
    gguf.write(&path);
    let error = Decoder::load(&path, &options(Mode::Inference))
        .map(drop)
        .unwrap_err();
    assert!(error.to_string().contains("blk.1.ffn_up"), "{error}");
}

#[test]
fn quantised_files_are_models_of_the_decoded_weights() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    for dtype in [
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
        GgmlDType::Q2K,
        GgmlDType::Q3K,
        GgmlDType::Q4K,
        GgmlDType::Q5K,
        GgmlDType::Q6K,
    ] {
        for changes in [
            json!({}),
            json!({"architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": true}),
        ] {
            let decoder = random(changes);
            let exact = logits(&decoder);
            save(&decoder, dtype, &path);
            for var in decoder.params().values() {
                let decoded = quantised(var.as_tensor(), dtype).dequantize(&Device::Cpu);
                var.set(&decoded.unwrap()).unwrap();
            }
            let read = Decoder::load(&path, &options(Mode::Inference)).unwrap();
            let (read, expected) = (logits(&read), logits(&decoder));
            assert!(
                largest_difference(&read, &expected) < 1e-5,
                "{dtype:?}: {}",
                largest_difference(&read, &expected)
            );
            assert_ne!(exact, expected, "{dtype:?} changes nothing");
        }
    }
}

/// In f32 a folder has the very weights of the file, for every family and type of numbers.
#[test]
fn a_folder_that_a_file_is_converted_to_is_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    for (name, decoder) in variants() {
        for dtype in [GgmlDType::F32, GgmlDType::Q8_0, GgmlDType::Q4_0] {
            let file = dir.path().join("x.gguf");
            save(&decoder, dtype, &file);
            let of_file = Decoder::load(&file, &options(Mode::Inference)).unwrap();
            for kind in [DType::F32, DType::F16, DType::BF16] {
                let out = dir.path().join("out");
                let _ = fs::remove_dir_all(&out);
                fs::create_dir(&out).unwrap();
                let (_, rounding) = write_plain(&file.clone().into(), &out, kind, 1 << 30).unwrap();
                let folder = Decoder::load(&out, &options(Mode::Inference)).unwrap();
                if kind == DType::F32 {
                    assert_eq!(logits(&folder), logits(&of_file), "{name} {dtype:?}");
                }
                let of_weights = |decoder: &Decoder, name: &str| {
                    let tensor = decoder.params()[name].as_detached_tensor();
                    tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
                };
                let mut largest = 0f32;
                for name in of_file.params().keys() {
                    let pair = [&of_file, &folder].map(|decoder| of_weights(decoder, name));
                    largest = largest.max(largest_difference(&pair[0], &pair[1]));
                }
                let said = rounding.largest.map_or(0.0, |(largest, _)| largest);
                assert_eq!(said, f64::from(largest), "{name} {dtype:?} {kind:?}");
            }
        }
    }
}

#[test]
fn the_program_converts_files_and_models_with_adapters() {
    let workshop = Workshop::new();
    let folder = workshop.path("models/market");
    let decoder = Decoder::load(&folder, &options(Mode::Inference)).unwrap();
    let tokenizer = Tokenizer::load(&folder).unwrap();
    let mut gguf = convert(&decoder, GgmlDType::F32, Some(tokenizer.vocabulary()));
    gguf.write(&workshop.path("market.gguf"));
    // It has tokens, but not how they are made.
    workshop.fuselm("convert market.gguf out").exits(1).says(&[
        "market.gguf",
        "tokenizer.ggml.model",
        "`tokenizer`",
    ]);
    workshop
        .fuselm("convert market.gguf out --tokenizer models/atlas")
        .exits(1)
        .says(&["as token"]);
    workshop
        .fuselm("convert market.gguf out --tokenizer models/market --dtype f32")
        .exits(0)
        .says(&["no weight changed"]);
    let converted = Decoder::load(workshop.path("out"), &options(Mode::Inference)).unwrap();
    assert_eq!(logits(&converted), logits(&decoder));
    workshop.fuselm("convert market.gguf out").exits(1);
    workshop
        .fuselm("convert market.gguf out --tokenizer models/market --force")
        .exits(0)
        .says(&["weights changed by"]);
    workshop.fuselm("inspect out").exits(0);
    workshop
        .fuselm("eval --model out --data valid.jsonl")
        .exits(0);
    // What does not fit is an error with its place, and leaves nothing behind.
    let large = quantised(
        &(decoder.params()["model.norm.weight"].as_detached_tensor() * 1e6).unwrap(),
        GgmlDType::F32,
    );
    gguf.tensors.insert("output_norm.weight".to_owned(), large);
    gguf.write(&workshop.path("market.gguf"));
    workshop
        .fuselm("convert market.gguf large --tokenizer models/market --dtype f16")
        .exits(1)
        .says(&["model.norm.weight", "too large for f16", "f32"]);
    assert!(!workshop.path("large").exists());
    workshop.has_no_leftovers();
}

/// Samples of many lengths, one without anything to predict.
fn samples() -> Vec<SampleTokens> {
    let sample = |n: u32| {
        let len = 2 + n * 29 % 41;
        SampleTokens {
            sample_id: u64::from(n),
            ids: (0..len).map(|i| (i * 11 + n * 5 + i * i) % 40).collect(),
            byte_end: (1..=len).collect(),
            supervised: (0..len).map(|i| n != 3 && i > len / 4).collect(),
        }
    };
    (0..60).map(sample).collect()
}

fn all(predictor: &Predictor) -> Vec<Predictions> {
    let options = PredictOptions {
        vocab_len: 39,
        k: 5,
        draws: None,
        batch_tokens: 96,
    };
    let (mut found, samples) = (Vec::new(), samples());
    let finished = std::sync::atomic::AtomicUsize::new(0);
    let advance = |count| {
        finished.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
    };
    predict(predictor, &samples, &options, &advance, |first, more| {
        assert_eq!(first, found.len());
        found.extend(more);
        Ok(())
    })
    .unwrap();
    assert_eq!(found.len(), samples.len());
    assert_eq!(finished.into_inner(), samples.len());
    found
}

/// Reading layer by layer changes nothing, whatever the number of passes.
#[test]
fn models_on_disk_predict_as_models_in_memory_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.gguf");
    let with_files = variants().into_iter().map(|model| (model, Some(&file)));
    let without = folders().into_iter().map(|model| (model, None));
    for ((name, decoder), file) in with_files.chain(without) {
        let folder = dir.path().join("model");
        decoder
            .save(&folder, dir.path(), candle_core::DType::F32)
            .unwrap();
        if let Some(file) = file {
            save(&decoder, GgmlDType::Q4K, file);
        }
        for dtype in [candle_core::DType::F32, candle_core::DType::BF16] {
            let mut options = options(Mode::Inference);
            options.dtype = dtype;
            let open = |path: &Path, offload| Predictor::open(path, &options, offload).unwrap();
            let expected = all(&open(&folder, None));
            assert!(expected[3].pos.is_empty());
            // Everything at once, about three batches, and less than one.
            for budget in [1 << 30, 3 * 96 * 1100, 1] {
                let streamed = open(&folder, Some(budget));
                assert!(streamed.memory(&predict_options()).is_some());
                assert!(
                    expected == all(&streamed),
                    "{name} {dtype:?} {budget}: other predictions"
                );
            }
            let Some(file) = file else { continue };
            let loaded = Decoder::load(file.as_path(), &options).unwrap();
            let expected = all(&Predictor::Memory(Box::new(loaded)));
            assert!(expected == all(&open(file, None)), "{name} {dtype:?} GGUF");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}

fn predict_options() -> PredictOptions {
    PredictOptions {
        vocab_len: 40,
        k: 5,
        draws: None,
        batch_tokens: 96,
    }
}

/// A recipe in which one source is a GGUF file gives the distributions of the model that it
/// was made from.
#[test]
fn a_gguf_source_in_a_recipe() {
    let workshop = Workshop::new();
    workshop.fuselm("run recipe.yml").exits(0);
    let folder = workshop.path("models/market");
    let decoder = Decoder::load(&folder, &options(Mode::Inference)).unwrap();
    let tokenizer = Tokenizer::load(&folder).unwrap();
    let gguf = convert(&decoder, GgmlDType::F32, Some(tokenizer.vocabulary()));
    gguf.write(&workshop.path("models/market.gguf"));

    workshop.edit(
        "recipe.yml",
        "model: models/market }",
        "model: models/market.gguf }",
    );
    let run = "run recipe.yml --run-dir again";
    workshop
        .fuselm(run)
        .exits(1)
        .says(&["market.gguf", "tokenizer.json", "`tokenizer`"]);
    workshop.edit(
        "recipe.yml",
        "market.gguf }",
        "market.gguf, tokenizer: models/market }",
    );
    workshop.fuselm(run).exits(0);
    for part in [
        "topk/teacher=market/part-00000.parquet",
        "sequence_metrics/teacher=market/part-00002.parquet",
        "targets/fusion=market/part-00001.parquet",
        "eval_items/model=market/part-00000.parquet",
    ] {
        let [a, b] = ["run", "again"].map(|run| all_rows(&workshop.path(run).join(part)));
        assert!(a == b, "{part} differs");
    }
    workshop.fuselm(run).exits(0).says(&["up to date"]);

    let shown = workshop.fuselm("inspect models/market.gguf").exits(0);
    assert!(
        shown.stdout.contains("Qwen2ForCausalLM"),
        "{}",
        shown.stdout
    );

    // Beside the file, the tokenizer needs no name.
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(folder.join(name), workshop.path("models").join(name)).unwrap();
    }
    workshop
        .fuselm("eval --model models/market.gguf --data valid.jsonl")
        .exits(0);
    workshop
        .fuselm("score --run again --name market --model models/market.gguf --top-k 8")
        .exits(0)
        .says(&["up to date"]);
    workshop
        .fuselm("generate --model models/market.gguf --prompt Hello --max-new-tokens 3")
        .exits(0);
}

/// A pivot that is a GGUF file is converted, and trained as the folder that it was made from.
#[test]
fn a_gguf_pivot_in_a_recipe() {
    let workshop = Workshop::new();
    workshop.fuselm("run recipe.yml").exits(0);
    let folder = workshop.path("models/pivot");
    let decoder = Decoder::load(&folder, &options(Mode::Inference)).unwrap();
    let tokenizer = Tokenizer::load(&folder).unwrap();
    let gguf = convert(&decoder, GgmlDType::F32, Some(tokenizer.vocabulary()));
    fs::create_dir(workshop.path("models/files")).unwrap();
    gguf.write(&workshop.path("models/files/pivot.gguf"));
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let to = workshop.path("models/files").join(name);
        fs::copy(folder.join(name), to).unwrap();
    }
    workshop.edit(
        "recipe.yml",
        "model: models/pivot }",
        "model: models/files/pivot.gguf }",
    );
    let run = "run recipe.yml --run-dir again";
    let size = format!("about {}", Bytes(4 * decoder.config().parameters()));
    let plan = workshop.fuselm(&format!("{run} --dry-run")).exits(0).stdout;
    assert!(
        plan.contains("convert pivot") && plan.contains(&size),
        "{plan}"
    );
    workshop.fuselm(run).exits(0).says(&["convert pivot"]);
    for part in [
        "topk/teacher=pivot/part-00000.parquet",
        "targets/fusion=market/part-00001.parquet",
        "eval_items/model=merged/part-00000.parquet",
    ] {
        let [a, b] = ["run", "again"].map(|run| all_rows(&workshop.path(run).join(part)));
        assert!(a == b, "{part} differs");
    }
    workshop.fuselm(run).exits(0).says(&["up to date"]);
    workshop.fuselm("check again").exits(0);
    fs::remove_dir_all(workshop.path("again/checkpoints/pivot")).unwrap();
    workshop
        .fuselm(run)
        .exits(0)
        .says(&["convert pivot", "1 steps done"]);
}

#[test]
fn what_a_gguf_file_cannot_be() {
    let workshop = Workshop::new();
    let folder = workshop.path("models/market");
    let decoder = Decoder::load(&folder, &options(Mode::Inference)).unwrap();
    let tokenizer = Tokenizer::load(&folder).unwrap();
    let mut gguf = convert(&decoder, GgmlDType::F32, Some(tokenizer.vocabulary()));
    gguf.write(&workshop.path("market.gguf"));
    let recipe = fs::read_to_string(workshop.path("recipe.yml")).unwrap();
    let says = |old: &str, new: &str, code: i32, words: &[&str]| {
        workshop.write("recipe.yml", &recipe);
        workshop.edit("recipe.yml", old, new);
        workshop.fuselm("run recipe.yml").exits(code).says(words);
    };
    says(
        "model: models/pivot }",
        "model: models/pivot, tokenizer: models/pivot }",
        2,
        &["only sources"],
    );
    let market = "model: models/market }";
    // The atlas tokenizer differs from the market one.
    says(
        market,
        "model: market.gguf, tokenizer: models/atlas }",
        1,
        &["market.gguf", "as token ", "the file has `"],
    );
    let other = data_samples().join("models/market");
    let given = format!("model: market.gguf, tokenizer: {} }}", other.display());
    let good = |words: &[&str]| says(market, &given, 1, words);

    gguf.set("general.architecture", Value::String("mamba".to_owned()));
    gguf.write(&workshop.path("market.gguf"));
    good(&["`general.architecture`", "llama, qwen2, qwen3", "mamba"]);
    gguf.set("general.architecture", Value::String("qwen2".to_owned()));

    let rope = "qwen2.rope.scaling.type";
    gguf.set(rope, Value::String("other".to_owned()));
    gguf.write(&workshop.path("market.gguf"));
    good(&["market.gguf", "other", "linear", "yarn"]);
    gguf.set(rope, Value::String("none".to_owned()));

    let eps = "qwen2.attention.layer_norm_rms_epsilon";
    let kept = gguf.metadata.remove(eps).unwrap();
    gguf.write(&workshop.path("market.gguf"));
    good(&["market.gguf", eps, "nothing"]);
    gguf.set(eps, Value::F32(f32::NAN));
    gguf.write(&workshop.path("market.gguf"));
    good(&["market.gguf", eps, "finite", "NaN"]);
    gguf.set(eps, kept);

    let up = gguf.tensors.remove("blk.1.ffn_up.weight").unwrap();
    gguf.write(&workshop.path("market.gguf"));
    good(&["market.gguf", "lacks `blk.1.ffn_up.weight`"]);
    let down = gguf.tensors.insert("blk.1.ffn_up.weight".to_owned(), up);
    assert!(down.is_none());
    let extra = quantised(
        &Tensor::zeros(4, candle_core::DType::F32, &Device::Cpu).unwrap(),
        GgmlDType::F32,
    );
    gguf.tensors.insert("blk.1.extra.weight".to_owned(), extra);
    gguf.write(&workshop.path("market.gguf"));
    good(&["market.gguf", "blk.1.extra.weight"]);
}

/// Parts say which they are; a name that says otherwise, or a part that is not there, is named.
#[test]
fn parts_of_split_files_are_all_there() {
    let workshop = Workshop::new();
    let decoder = Decoder::load(workshop.path("models/market"), &options(Mode::Inference)).unwrap();
    let mut gguf = convert(&decoder, GgmlDType::F32, None);
    let mut second = convert(&decoder, GgmlDType::F32, None);
    second.metadata.clear();
    second.tensors.retain(|name, _| name.starts_with("blk.1."));
    gguf.tensors.retain(|name, _| !name.starts_with("blk.1."));
    for (number, part) in [&mut gguf, &mut second].into_iter().enumerate() {
        part.set("split.count", Value::U16(2));
        part.set("split.no", Value::U16(number as u16));
    }
    let name = |number: usize| format!("m-0000{number}-of-00002.gguf");
    let convert = |file: &str, code: i32, words: &[&str]| {
        let _ = fs::remove_dir_all(workshop.path("out"));
        let run = workshop.fuselm(&format!("convert {file} out --tokenizer models/market"));
        run.exits(code).says(words);
    };
    gguf.write(&workshop.path(&name(1)));
    convert(
        &name(1),
        1,
        &[&name(2), "is missing", "2 parts", "all parts"],
    );
    second.write(&workshop.path(&name(2)));
    convert(&name(1), 0, &[]);
    fs::rename(workshop.path(&name(1)), workshop.path("m.gguf")).unwrap();
    convert("m.gguf", 1, &["m.gguf", "part 1 of 2", "1 of 1"]);
    fs::rename(workshop.path(&name(2)), workshop.path(&name(1))).unwrap();
    gguf.write(&workshop.path(&name(2)));
    convert(&name(1), 1, &[&name(1), "part 2 of 2", "1 of 2"]);
}

/// Any damage is an error that names the file; nothing panics or allocates what is not there.
#[test]
fn damaged_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broken.gguf");
    let small = json!({"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "head_dim": 8, "vocab_size": 10});
    save(&random(small), GgmlDType::Q8_0, &path);
    let good = fs::read(&path).unwrap();
    let header = good.len() - 32 * 1024;
    let load = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let loaded = Decoder::load(&path, &options(Mode::Inference));
        loaded.map(drop).map_err(|error| error.to_string())
    };
    load(&good).unwrap();
    let lengths = (0..good.len()).step_by(131).chain([1, 4, 8, 23, 24, 25]);
    for length in lengths {
        let error = load(&good[..length]).unwrap_err();
        assert!(error.contains("broken.gguf"), "{length}: {error}");
    }
    // Counts and lengths that claim more than there is.
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = good.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        load(&changed)
    };
    for (at, bytes, word) in [
        (0, &b"GGML"[..], "not a GGUF file"),
        (4, &[1, 0, 0, 0], "version 2 or 3, found 1"),
        (4, &[0, 0, 0, 3], "big-endian"),
        (8, &[0xff; 8], "damaged"),
        (16, &[0xff; 8], "damaged"),
        (24, &[0xff; 8], "damaged"),
        (24, &[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0], "damaged"),
    ] {
        let error = with(at, bytes).unwrap_err();
        assert!(error.contains(word), "{at}: {error}");
    }
    // The first tensor: its dimensions, type and offset.
    let name = b"blk.0.attn_k.weight";
    let at = good.windows(name.len()).position(|w| w == name).unwrap() + name.len();
    for (at, bytes, word) in [
        (at, &[0u8; 4][..], "1 to 4 dimensions, found 0"),
        (at, &[9, 0, 0, 0], "1 to 4 dimensions, found 9"),
        (at + 4, &[0; 8], "dimension of 0"),
        (at + 4, &[0xff; 8], "not whole blocks"),
        (at + 4, &[0, 0, 0, 0, 0, 0, 0, 0x10], "does not lie within"),
        (at + 4, &[1, 0, 0, 0, 0, 0, 0, 0], "not whole blocks"),
        (at + 12, &[0xff; 8], "does not lie within"),
        (at + 20, &[16, 0, 0, 0], "`IQ2_XXS`"),
        (at + 20, &[39, 0, 0, 0], "`MXFP4`"),
        (at + 20, &[0xff; 4], "unknown type"),
        (at + 24, &[0xff; 8], "does not lie within"),
        (at + 24, &[1], "aligned"),
    ] {
        let error = with(at, bytes).unwrap_err();
        assert!(error.contains("blk.0.attn_k.weight"), "{at}: {error}");
        assert!(error.contains(word), "{at} {word}: {error}");
    }
    for at in (24..header.min(2000)).step_by(3) {
        for byte in [0, 0xff] {
            // Names and numbers may change to others that are valid.
            let _ = with(at, &[byte]);
        }
    }
}
