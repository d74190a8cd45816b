//! Saving, loading, and what is refused.

use std::collections::BTreeMap;

use super::families::mpt;
use super::*;

fn saved(config: &Config, dir: &Path) -> Decoder {
    let decoder = random(config, Mode::Inference);
    decoder.save(dir, dir, DType::F32).unwrap();
    decoder
}

#[test]
fn a_saved_model_loads_again() {
    let base = tempfile::tempdir().unwrap();
    std::fs::write(base.path().join("tokenizer.json"), "{}").unwrap();
    for (name, config) in variants() {
        let out = tempfile::tempdir().unwrap();
        let dir = out.path().join("model");
        let decoder = random(&config, Mode::Inference);
        for dtype in [DType::F32, DType::BF16] {
            decoder.save(&dir, base.path(), dtype).unwrap();
            let again = Decoder::load(&dir, &options(Mode::Inference)).unwrap();
            for (param, var) in decoder.params() {
                let want = var.as_detached_tensor().to_dtype(dtype).unwrap();
                let got = again.params()[param].as_detached_tensor();
                assert_eq!(largest_difference(&got, &want), 0.0, "{name} {param}");
            }
            assert_eq!(again.params().len(), decoder.params().len());
        }
        assert!(dir.join("tokenizer.json").exists());
        let text = std::fs::read_to_string(dir.join("config.json")).unwrap();
        assert!(text.contains("\"torch_dtype\": \"bfloat16\""), "{text}");
        let left: Vec<_> = std::fs::read_dir(out.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "temporary folders are left");
    }
}

fn load_error(dir: &Path) -> String {
    match Decoder::load(dir, &options(Mode::Inference)) {
        Ok(_) => panic!("loaded"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn damaged_checkpoints_are_refused_by_name() {
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("model");
    let (_, config) = variants().remove(0);
    saved(&config, &dir);
    let weights = dir.join("model.safetensors");
    let good = std::fs::read(&weights).unwrap();

    for len in [0, 5, 100, good.len() - 1] {
        std::fs::write(&weights, &good[..len]).unwrap();
        let error = load_error(&dir);
        assert!(error.contains("model.safetensors"), "{error}");
    }
    std::fs::write(&weights, b"\xff\xff\xff\xff\xff\xff\xff\xff{}").unwrap();
    assert!(load_error(&dir).contains("the file is damaged or incomplete"));
    std::fs::remove_file(&weights).unwrap();
    assert!(load_error(&dir).contains("found neither"));

    let rewrite = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        std::fs::write(&weights, &good).unwrap();
        let all = candle_core::safetensors::load(&weights, &Device::Cpu).unwrap();
        let mut all: BTreeMap<String, Tensor> = all.into_iter().collect();
        change(&mut all);
        let all: std::collections::HashMap<String, Tensor> = all.into_iter().collect();
        candle_core::safetensors::save(&all, &weights).unwrap();
    };
    let k = "model.layers.1.self_attn.k_proj.weight";
    let gate = "model.layers.0.mlp.gate_proj.weight";
    rewrite(&|all| drop(all.remove(k)));
    assert!(load_error(&dir).contains(&format!("lacks tensor `{k}`")));
    rewrite(&|all| {
        let extra = all[k].clone();
        all.insert("model.layers.0.extra".to_owned(), extra);
    });
    assert!(load_error(&dir).contains("has tensor `model.layers.0.extra`"));
    rewrite(&|all| {
        let t = all[gate].t().unwrap().contiguous().unwrap();
        all.insert(gate.to_owned(), t);
    });
    let error = load_error(&dir);
    let words = format!("tensor `{gate}`: expected shape [20, 12], found [12, 20]");
    assert!(error.contains(&words), "{error}");
    rewrite(&|all| {
        let t = all[k].to_dtype(DType::U8).unwrap();
        all.insert(k.to_owned(), t);
    });
    let error = load_error(&dir);
    assert!(
        error.contains("the weights are quantised") && error.contains(k),
        "{error}"
    );
    rewrite(&|all| {
        let norm = "model.norm.weight";
        let t = all[norm].to_dtype(DType::U8).unwrap();
        all.insert(norm.to_owned(), t);
    });
    assert!(load_error(&dir).contains("expected dtype"));
    rewrite(&|all| {
        // What old exporters leave behind is no error.
        let t = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
        all.insert("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), t);
    });
    assert!(Decoder::load(&dir, &options(Mode::Inference)).is_ok());
}

#[test]
fn shards_load_and_bad_indexes_are_refused() {
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("model");
    let (_, config) = variants().remove(0);
    let decoder = saved(&config, &dir);
    let all = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
    std::fs::remove_file(dir.join("model.safetensors")).unwrap();
    let (mut parts, mut map) = (
        [std::collections::HashMap::new(), Default::default()],
        Map::new(),
    );
    for (index, (name, tensor)) in all.into_iter().enumerate() {
        map.insert(
            name.clone(),
            json!(format!("part-{}.safetensors", index % 2)),
        );
        parts[index % 2].insert(name, tensor);
    }
    for (index, part) in parts.iter().enumerate() {
        let path = dir.join(format!("part-{index}.safetensors"));
        candle_core::safetensors::save(part, path).unwrap();
    }
    let index = dir.join("model.safetensors.index.json");
    let write = |map: &Map<String, Value>| {
        std::fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    };
    write(&map);
    let again = Decoder::load(&dir, &options(Mode::Inference)).unwrap();
    let ids = some_ids();
    assert_eq!(
        largest_difference(&all_logits(&decoder, &ids), &all_logits(&again, &ids)),
        0.0
    );

    // A shard in a folder of the model's folder.
    std::fs::create_dir(dir.join("inner")).unwrap();
    std::fs::rename(
        dir.join("part-1.safetensors"),
        dir.join("inner/part-1.safetensors"),
    )
    .unwrap();
    for file in map
        .values_mut()
        .filter(|file| **file == "part-1.safetensors")
    {
        *file = json!("inner/part-1.safetensors");
    }
    write(&map);
    assert!(Decoder::load(&dir, &options(Mode::Inference)).is_ok());

    let place = |value: Value| {
        let mut changed = map.clone();
        changed.insert("model.norm.weight".to_owned(), value);
        write(&changed);
        load_error(&dir)
    };
    for value in ["../part-0.safetensors", "/etc/passwd", "a/b", ".."] {
        let error = place(json!(value));
        assert!(error.contains("weight_map.model.norm.weight"), "{error}");
    }
    assert!(place(json!(3)).contains("weight_map.model.norm.weight"));
    assert!(place(json!("part-2.safetensors")).contains("part-2.safetensors"));
    let other = if map["model.norm.weight"] == json!("part-0.safetensors") {
        "inner/part-1.safetensors"
    } else {
        "part-0.safetensors"
    };
    let error = place(json!(other));
    assert!(
        error.contains("tensor `model.norm.weight` is not in shard"),
        "{error}"
    );
    std::fs::write(&index, "[1]").unwrap();
    assert!(load_error(&dir).contains("`weight_map`"));
}

#[test]
fn bad_configurations_name_file_and_field() {
    let error = |changes: Value| {
        Config::from_json(tiny(changes), Path::new("m/config.json"))
            .unwrap_err()
            .to_string()
    };
    for (changes, words) in [
        (
            json!({"architectures": ["BertModel"]}),
            "LlamaForCausalLM, MistralForCausalLM, MixtralForCausalLM",
        ),
        (
            json!({"architectures": ["LlamaForCausalLm"]}),
            "did you mean `LlamaForCausalLM`?",
        ),
        (
            json!({"hidden_size": 0}),
            "field `hidden_size`: expected a positive integer, found `0`",
        ),
        (json!({"hidden_size": -3}), "found `-3`"),
        (json!({"hidden_size": "x"}), "found `\"x\"`"),
        (json!({"vocab_size": null}), "field `vocab_size`"),
        (
            json!({"num_key_value_heads": 3}),
            "a divisor of the 4 query heads",
        ),
        (json!({"head_dim": 5}), "an even number"),
        (
            json!({"num_hidden_layers": 1e9 as u64}),
            "num_hidden_layers",
        ),
        (
            json!({"vocab_size": u32::MAX, "hidden_size": u32::MAX, "intermediate_size": u32::MAX}),
            "more parameters",
        ),
        (json!({"rms_norm_eps": 0}), "rms_norm_eps"),
        (json!({"hidden_act": "relu"}), "hidden_act"),
        (
            json!({"rope_scaling": {"type": "ntk"}}),
            "`rope_scaling.type`: expected default",
        ),
        (
            json!({"rope_parameters": {"rope_type": "llama3"}}),
            "`rope_parameters.low_freq_factor`",
        ),
        (
            json!({"rope_scaling": 3}),
            "`rope_scaling`: expected an object",
        ),
        (json!({"tie_word_embeddings": "yes"}), "true or false"),
        (json!({"eos_token_id": "</s>"}), "eos_token_id"),
        (
            json!({"partial_rotary_factor": 0.5}),
            "whole heads are rotated",
        ),
        (
            json!({"architectures": ["Phi3ForCausalLM"], "partial_rotary_factor": 0.5}),
            "an even part of the 6 dimensions",
        ),
        (
            json!({"rope_scaling": {"type": "longrope", "short_factor": [1, 2]}}),
            "`rope_scaling.short_factor`: expected 3 positive numbers",
        ),
        (
            json!({"architectures": ["MixtralForCausalLM"], "num_local_experts": 2,
                "num_experts_per_tok": 3}),
            "at most the 2 experts",
        ),
        (
            json!({"architectures": ["MixtralForCausalLM"], "num_local_experts": 1e9 as u64}),
            "num_local_experts",
        ),
        (
            json!({"architectures": ["Gemma2ForCausalLM"], "use_bidirectional_attention": true}),
            "expected false",
        ),
        (
            mpt(json!({"attn_config": {"qk_ln": true}})),
            "`attn_config.qk_ln`: expected false",
        ),
        (
            mpt(json!({"attn_config": {"alibi": false}})),
            "`attn_config.alibi`: expected true",
        ),
        (
            mpt(json!({"attn_config": {"attn_type": "multiquery_attention"}})),
            "`attn_config.attn_type`: expected \"multihead_attention\"",
        ),
        (
            mpt(json!({"attn_config": 1})),
            "`attn_config`: expected an object",
        ),
        (mpt(json!({"no_bias": false})), "`no_bias`: expected true"),
        (mpt(json!({"norm_type": "rmsnorm"})), "`norm_type`"),
        (
            mpt(json!({"logit_scale": "inv_sqrt_d_model"})),
            "`logit_scale`: expected null",
        ),
        (
            mpt(json!({"n_heads": 5})),
            "a divisor of the hidden size 12",
        ),
    ] {
        let error = error(changes);
        assert!(
            error.contains("m/config.json") && error.contains(words),
            "{error}"
        );
    }
    let missing = tempfile::tempdir().unwrap();
    assert!(load_error(missing.path()).contains("config.json"));
    std::fs::write(missing.path().join("config.json"), "{").unwrap();
    assert!(load_error(missing.path()).contains("no valid JSON"));
}

#[test]
fn devices_are_named_or_refused_plainly() {
    assert!(device("cpu").unwrap().is_cpu());
    assert_eq!(dtype("bf16").unwrap(), DType::BF16);
    assert!(dtype("int4").unwrap_err().to_string().contains("`int4`"));
    assert!(device("gpu").unwrap_err().to_string().contains("`cuda:N`"));
    if !candle_core::utils::cuda_is_available() {
        let error = device("cuda:1").unwrap_err().to_string();
        assert!(error.contains("built without CUDA"), "{error}");
    }
}

#[test]
fn generation_ends_where_its_configuration_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("generation_config.json");
    assert_eq!(generation_stops(dir.path()).unwrap(), [0; 0]);
    for (text, expected) in [
        (r#"{"eos_token_id": 7}"#, vec![7]),
        (r#"{"eos_token_id": [7, 128009, 0]}"#, vec![7, 128_009, 0]),
        (r#"{"eos_token_id": []}"#, vec![]),
        (r#"{"eos_token_id": null}"#, vec![]),
        (r#"{"eos_token_id": -1}"#, vec![]),
        (r#"{"temperature": 1}"#, vec![]),
    ] {
        std::fs::write(&path, text).unwrap();
        assert_eq!(generation_stops(dir.path()).unwrap(), expected, "{text}");
    }
    for text in [
        r#"{"eos_token_id": "</s>"}"#,
        r#"{"eos_token_id": [7, -2]}"#,
        r#"{"eos_token_id": 7.5}"#,
        r#"{"eos_token_id": 4294967296}"#,
        r#"{"eos_token_id": {"id": 7}}"#,
    ] {
        std::fs::write(&path, text).unwrap();
        let error = generation_stops(dir.path()).unwrap_err().to_string();
        let named = error.contains("generation_config.json") && error.contains("`eos_token_id`");
        assert!(named, "{text}: {error}");
    }
    for text in ["[7]", "{", ""] {
        std::fs::write(&path, text).unwrap();
        let error = generation_stops(dir.path()).unwrap_err().to_string();
        assert!(error.contains("generation_config.json"), "{text}: {error}");
    }
}
