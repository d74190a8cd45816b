//! Configurations with absent and contradictory fields: what transformers 5.24 makes of them.

use std::collections::HashMap;

use super::families::mpt;
use super::*;
use crate::model::config::Activation;

pub(super) fn read(changes: Value) -> Config {
    Config::from_json(families::tiny(changes), Path::new("m/config.json")).unwrap()
}

pub(super) fn refused(changes: Value) -> String {
    let read = Config::from_json(families::tiny(changes), Path::new("m/config.json"));
    read.unwrap_err().to_string()
}

/// [`families::tiny`] without a field.
fn without(field: &str, changes: Value) -> Config {
    let mut map = families::tiny(changes);
    map.shift_remove(field);
    Config::from_json(map, Path::new("m/config.json")).unwrap()
}

#[test]
fn absent_fields_are_what_the_family_has() {
    let of =
        |class: &str| json!({ "architectures": [class], "num_attention_heads": 96, "head_dim": 2 });
    for (class, windows, heads) in [
        ("LlamaForCausalLM", None, 96),
        ("MistralForCausalLM", Some(4096), 8),
        ("MixtralForCausalLM", None, 8),
        ("Qwen2ForCausalLM", None, 32),
        ("Qwen3ForCausalLM", None, 32),
        ("Qwen3MoeForCausalLM", None, 4),
        ("GemmaForCausalLM", None, 16),
        ("Gemma2ForCausalLM", Some(4096), 4),
        ("Gemma3ForCausalLM", Some(4096), 4),
        ("Phi3ForCausalLM", None, 96),
    ] {
        let config = without("num_key_value_heads", of(class));
        assert_eq!(config.windows[0], windows, "{class}");
        assert_eq!(config.num_key_value_heads, heads, "{class}");
        // Null is none.
        let mut null = of(class);
        null["num_key_value_heads"] = Value::Null;
        null["sliding_window"] = Value::Null;
        if ["Gemma2ForCausalLM", "Gemma3ForCausalLM"].contains(&class) {
            assert!(refused(null).contains("`sliding_window`"));
            continue;
        }
        let config = read(null);
        assert_eq!(config.windows[0], None, "{class}");
        assert_eq!(config.num_key_value_heads, 96, "{class}");
    }
    let asked = json!({"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": true, "max_window_layers": 1});
    assert_eq!(read(asked).windows, [None, Some(4096)]);
    // What cannot be shared says what is missing.
    let mut map = families::tiny(json!({"architectures": ["MistralForCausalLM"]}));
    map.shift_remove("num_key_value_heads");
    let error = Config::from_json(map, Path::new("m/config.json")).unwrap_err();
    assert!(
        error.to_string().contains("without the field there are 8"),
        "{error}"
    );
}

#[test]
fn windows_are_where_layer_types_say() {
    let types = json!(["sliding_attention", "full_attention"]);
    let of = |class: &str, more: Value| {
        let mut all = json!({"architectures": [class], "layer_types": types, "sliding_window": 3});
        for (key, value) in more.as_object().unwrap() {
            all[key] = value.clone();
        }
        all
    };
    let alternating = [Some(3), None];
    assert_eq!(
        read(of("MistralForCausalLM", json!({}))).windows,
        alternating
    );
    assert_eq!(
        read(of("Gemma2ForCausalLM", json!({}))).windows,
        alternating
    );
    let asked = json!({"use_sliding_window": true});
    assert_eq!(read(of("Qwen3ForCausalLM", asked)).windows, alternating);
    // These do not read the list.
    assert_eq!(
        read(of("MixtralForCausalLM", json!({}))).windows,
        [Some(3); 2]
    );
    assert_eq!(read(of("LlamaForCausalLM", json!({}))).windows, [None; 2]);
    // A window without a width.
    for (class, more) in [
        ("Qwen2ForCausalLM", json!({})),
        ("MistralForCausalLM", json!({"sliding_window": null})),
    ] {
        let error = refused(of(class, more));
        assert!(
            error.contains("`layer_types`") && error.contains("no sliding window"),
            "{error}"
        );
    }
    let error = refused(of(
        "MistralForCausalLM",
        json!({"layer_types": ["full_attention"]}),
    ));
    assert!(error.contains("`layer_types`"), "{error}");
}

#[test]
fn next_versions_of_families_are_refused_by_name() {
    for (class, kind) in [
        ("Gemma4ForCausalLM", "gemma4_text"),
        ("Gemma4ForConditionalGeneration", "gemma4"),
        ("Gemma3nForCausalLM", "gemma3n_text"),
        ("Qwen3NextForCausalLM", "qwen3_next"),
        ("Qwen3_5ForCausalLM", "qwen3_5_text"),
        ("Qwen3_5MoeForCausalLM", "qwen3_5_moe_text"),
        ("Qwen2MoeForCausalLM", "qwen2_moe"),
        ("GPTNeoForCausalLM", "gpt_neo"),
        ("GPTNeoXJapaneseForCausalLM", "gpt_neox_japanese"),
        ("GPTBigCodeForCausalLM", "gpt_bigcode"),
    ] {
        let error = refused(json!({"architectures": [class], "model_type": kind}));
        assert!(error.contains(class) || error.contains(kind), "{error}");
        let error = refused(json!({"architectures": [class]}));
        assert!(error.contains(class), "{error}");
    }
}

#[test]
fn the_type_counts_and_not_the_class() {
    let class = |changes: Value| read(changes).architecture.name();
    assert_eq!(
        class(json!({"model_type": "mistral"})),
        "MistralForCausalLM"
    );
    assert_eq!(
        class(json!({"architectures": ["LlamaModel"], "model_type": "qwen2"})),
        "Qwen2ForCausalLM"
    );
    assert_eq!(
        class(json!({"architectures": null, "model_type": "qwen2"})),
        "Qwen2ForCausalLM"
    );
    assert_eq!(
        class(json!({"architectures": ["Qwen3ForCausalLM"]})),
        "Qwen3ForCausalLM"
    );
    let error = refused(json!({"model_type": "mistrall"}));
    assert!(
        error.contains("`model_type`") && error.contains("did you mean `mistral`?"),
        "{error}"
    );
    // A class of the folder's own code.
    let own = json!({"architectures": ["OwnForCausalLM"], "model_type": "llama",
        "auto_map": {"AutoModelForCausalLM": "own.OwnForCausalLM"}});
    assert!(refused(own).contains("`architectures`"));
}

#[test]
fn other_names_of_fields_count() {
    let mixtral =
        json!({"architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts": 3});
    assert_eq!(read(mixtral).experts[0].unwrap().count, 3);
    let qwen3 = json!({"architectures": ["Qwen3MoeForCausalLM"], "num_local_experts": 40, "num_experts": 30});
    assert_eq!(read(qwen3).experts[0].unwrap().count, 40);
    let aliased = mpt(
        json!({"n_layers": 7, "num_hidden_layers": 3, "hidden_size": 12, "num_attention_heads": 4}),
    );
    assert_eq!(read(aliased).num_hidden_layers, 3);
    let act = |changes: Value| read(changes).activation;
    let gemma = json!({"architectures": ["GemmaForCausalLM"], "hidden_act": "silu", "hidden_activation": "gelu"});
    assert_eq!(act(gemma), Activation::Silu);
    let gemma2 = json!({"architectures": ["Gemma2ForCausalLM"], "hidden_act": "silu"});
    assert_eq!(act(gemma2), Activation::GeluTanh);
}

/// Qwen3-MoE: in which layers, and what is usual.
#[test]
fn experts_are_in_the_layers_that_the_file_says() {
    let qwen3 = |changes: Value| {
        let mut all = json!({"architectures": ["Qwen3MoeForCausalLM"], "num_hidden_layers": 6});
        for (key, value) in changes.as_object().unwrap() {
            all[key] = value.clone();
        }
        all
    };
    let usual = read(qwen3(json!({}))).experts[5].unwrap();
    let shape = [usual.count, usual.per_token, usual.width];
    assert_eq!((shape, usual.normalised), ([128, 8, 768], false));
    for (changes, expected) in [
        (json!({}), "eeeeee"),
        (json!({"decoder_sparse_step": 2}), "-e-e-e"),
        (json!({"mlp_only_layers": [0, 5]}), "-eeee-"),
        (
            json!({"mlp_only_layers": null, "decoder_sparse_step": 4}),
            "---e--",
        ),
        (
            json!({"mlp_only_layers": [1, 9, -1], "decoder_sparse_step": 2}),
            "---e-e",
        ),
    ] {
        let config = read(qwen3(changes.clone()));
        let found = config
            .experts
            .iter()
            .map(|experts| experts.map_or('-', |_| 'e'));
        assert_eq!(found.collect::<String>(), expected, "{changes}");
        // What is counted is what is listed.
        let elements = config
            .tensors()
            .into_iter()
            .map(|spec| spec.elements().unwrap());
        assert_eq!(config.parameters(), elements.sum::<u64>(), "{changes}");
    }
    for (changes, words) in [
        (
            json!({"mlp_only_layers": 3}),
            "`mlp_only_layers`: expected a list",
        ),
        (
            json!({"mlp_only_layers": ["1"]}),
            "`mlp_only_layers`: expected a list",
        ),
        (json!({"decoder_sparse_step": 0}), "`decoder_sparse_step`"),
        (json!({"num_experts": 4}), "at most the 4 experts"),
    ] {
        let error = refused(qwen3(changes));
        assert!(error.contains(words), "{error}");
    }
    // A window holds for all layers, where it is asked for.
    let types = json!(vec!["full_attention"; 6]);
    let asked = json!({"sliding_window": 3, "use_sliding_window": true, "layer_types": types});
    assert_eq!(read(qwen3(asked)).windows, [Some(3); 6]);
    assert_eq!(read(qwen3(json!({"sliding_window": 3}))).windows, [None; 6]);
}

#[test]
fn gpt_neox_has_its_own_names_for_the_rotary_embedding() {
    let neox = |changes: Value| {
        let mut all = json!({"architectures": ["GPTNeoXForCausalLM"], "hidden_size": 32, "hidden_act": "gelu"});
        for (key, value) in changes.as_object().unwrap() {
            all[key] = value.clone();
        }
        all
    };
    let linear = json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 30.0});
    for (changes, theta, dims) in [
        (json!({}), 1e4, 2),
        (json!({"rotary_pct": 0.5, "rotary_emb_base": 20}), 20.0, 4),
        (
            json!({"rope_theta": 50.0, "partial_rotary_factor": 0.5}),
            1e4,
            2,
        ),
        (
            json!({"rotary_pct": 0.5, "rotary_emb_base": 20, "rope_parameters": linear}),
            30.0,
            4,
        ),
        (
            json!({"rotary_pct": 0.5, "rope_parameters": {"partial_rotary_factor": 1.0}}),
            1e4,
            8,
        ),
    ] {
        let rope = read(neox(changes.clone())).rope.unwrap();
        assert_eq!((rope.theta, rope.dims), (theta, dims), "{changes}");
    }
    let config = read(neox(json!({})));
    assert!(config.parallel && config.qkv_bias && config.output_bias && config.mlp_bias);
    assert!(!read(neox(json!({"use_parallel_residual": false}))).parallel);
    let without = read(neox(json!({"attention_bias": false})));
    assert!(!without.qkv_bias && !without.output_bias && without.mlp_bias);
    for (changes, field) in [
        (json!({"rotary_pct": 2.0}), "partial_rotary_factor"),
        (json!({"rotary_emb_base": -1}), "rotary_emb_base"),
        (json!({"hidden_act": "relu"}), "hidden_act"),
    ] {
        let error = refused(neox(changes));
        assert!(error.contains(field), "{error}");
    }
}

/// GPT-2: the usual names of sizes count where the file has both, and a sequence ends with the table
/// of positions.
#[test]
fn gpt2_has_its_own_names_and_a_table_of_positions() {
    let gpt2 = |changes: Value| {
        let mut all = json!({"architectures": ["GPT2LMHeadModel"]});
        for (key, value) in changes.as_object().unwrap() {
            all[key] = value.clone();
        }
        all
    };
    let config = read(gpt2(
        json!({"n_embd": 24, "n_ctx": 7, "n_head": 3, "n_layer": 5, "n_positions": 9}),
    ));
    assert_eq!(
        [
            config.hidden_size,
            config.num_attention_heads,
            config.num_hidden_layers
        ],
        [12, 4, 2]
    );
    assert_eq!(
        (config.max_position_embeddings, config.intermediate_size),
        (32, 48)
    );
    assert!(config.tie_word_embeddings && config.norm_bias && config.rope.is_none());
    assert_eq!(read(gpt2(json!({"n_inner": 30}))).intermediate_size, 30);
    assert_eq!(
        read(gpt2(json!({"scale_attn_weights": false}))).attention_scale,
        1.0
    );
    let scales = |changes| {
        let config = read(gpt2(changes));
        [0, 1].map(|layer| config.attention_scale_of(layer) * 3f64.sqrt())
    };
    assert_eq!(scales(json!({})), [1.0, 1.0]);
    assert_eq!(
        scales(json!({"scale_attn_by_inverse_layer_idx": true})),
        [1.0, 0.5]
    );
    let error = refused(gpt2(json!({"add_cross_attention": true})));
    assert!(error.contains("`add_cross_attention`"), "{error}");

    let decoder = random(&config, Mode::Inference);
    let ids = |len: usize| Tensor::zeros((1, len), DType::U32, &Device::Cpu).unwrap();
    assert!(decoder.hidden(&ids(32)).is_ok());
    let error = decoder.hidden(&ids(33)).unwrap_err().to_string();
    assert!(error.contains("context of 32 tokens"), "{error}");
    let mut cache = Cache::new(&decoder, 1, 40).unwrap();
    decoder.step(&ids(30), &mut cache).unwrap();
    assert!(decoder.step(&ids(3), &mut cache).is_err());
    assert!(decoder.step(&ids(2), &mut cache).is_ok());
}

#[test]
fn mpt_has_its_usual_slopes_whatever_the_file_says() {
    let config = read(mpt(json!({"attn_config": {"alibi_bias_max": 4}})));
    assert_eq!(config.alibi_bias_max, Some(8.0));
}

/// A model of the family with this class, saved, with changed tensors and `config.json`.
pub(super) fn stored(
    changes: Value,
    config: Value,
    tensors: &dyn Fn(&mut HashMap<String, Tensor>),
) -> (tempfile::TempDir, Decoder) {
    let out = tempfile::tempdir().unwrap();
    let made = random(&read(changes), Mode::Inference);
    let dir = out.path().join("model");
    made.save(&dir, &dir, DType::F32).unwrap();
    let path = dir.join("config.json");
    let mut stored: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (key, value) in config.as_object().unwrap() {
        stored[key] = value.clone();
    }
    std::fs::write(&path, stored.to_string()).unwrap();
    let path = dir.join("model.safetensors");
    let mut all = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    tensors(&mut all);
    candle_core::safetensors::save(&all, &path).unwrap();
    (out, made)
}

pub(super) fn same_logits(dir: &tempfile::TempDir, expected: &Decoder) -> Decoder {
    let again = Decoder::load(dir.path().join("model"), &options(Mode::Inference)).unwrap();
    let (a, b) = (
        all_logits(&again, &some_ids()),
        all_logits(expected, &some_ids()),
    );
    assert_eq!(largest_difference(&a, &b), 0.0);
    again
}

#[test]
fn a_head_of_its_own_counts_in_spite_of_the_configuration() {
    for (class, config) in [
        ("LlamaForCausalLM", json!({"tie_word_embeddings": true})),
        ("GemmaForCausalLM", json!({"tie_word_embeddings": true})),
        ("Gemma2ForCausalLM", json!({"tie_word_embeddings": null})),
    ] {
        let untied =
            json!({"architectures": [class], "tie_word_embeddings": false, "sliding_window": 3});
        let (dir, made) = stored(untied, config, &|_| {});
        let again = same_logits(&dir, &made);
        assert!(!again.config().tie_word_embeddings);
        // What is saved says so.
        let out = dir.path().join("again");
        again.save(&out, &out, DType::F32).unwrap();
        let text = std::fs::read_to_string(out.join("config.json")).unwrap();
        assert!(text.contains("\"tie_word_embeddings\": false"), "{text}");
    }
}

#[test]
fn a_tied_tensor_may_be_stored_twice_or_as_the_head() {
    let (embedding, head) = ("model.embed_tokens.weight", "lm_head.weight");
    let tied = json!({"tie_word_embeddings": true});
    let (dir, made) = stored(tied.clone(), json!({}), &|all| {
        let copy = all[embedding].clone();
        all.insert(head.to_owned(), copy);
    });
    assert!(same_logits(&dir, &made).config().tie_word_embeddings);
    let (dir, made) = stored(tied, json!({}), &|all| {
        let moved = all.remove(embedding).unwrap();
        all.insert(head.to_owned(), moved);
    });
    assert!(same_logits(&dir, &made).config().tie_word_embeddings);
}

#[test]
fn names_may_lack_the_prefix_and_buffers_may_be_there() {
    for (name, changes) in families::families() {
        let (dir, made) = stored(changes, json!({}), &|all| {
            let trunk = all.drain().map(|(name, tensor)| {
                let short = name
                    .strip_prefix("model.")
                    .or(name.strip_prefix("transformer."))
                    .or(name.strip_prefix("gpt_neox."));
                (short.unwrap_or(&name).to_owned(), tensor)
            });
            *all = trunk.collect();
            let mask = Tensor::zeros((1, 1, 3, 3), DType::F32, &Device::Cpu).unwrap();
            all.insert("layers.0.attn.bias".to_owned(), mask);
            let low = Tensor::full(f32::NEG_INFINITY, (), &Device::Cpu).unwrap();
            all.insert("layers.0.attn.masked_bias".to_owned(), low);
        });
        eprintln!("{name}");
        same_logits(&dir, &made);
    }
}
