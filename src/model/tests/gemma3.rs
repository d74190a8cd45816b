//! Gemma 3: angles by type of layer, and the text of models that read images.

use super::configurations::{read, refused, same_logits, stored};
use super::*;
use crate::model::config::RopeScaling;

/// Gemma 3 by types of layers; what transformers makes of each is in `scripts/judges/configs.py`.
#[test]
fn layers_with_a_window_have_angles_of_their_own() {
    let gemma = |changes: Value| {
        let mut all = json!({"architectures": ["Gemma3ForCausalLM"], "sliding_window": 3});
        for (key, value) in changes.as_object().unwrap() {
            all[key] = value.clone();
        }
        all
    };
    let linear = |factor: f64| RopeScaling::Linear { factor };
    let (plain, two) = (
        RopeScaling::Default,
        json!({"rope_type": "linear", "factor": 2.0}),
    );
    let full =
        json!({"full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 70.0}});
    let both = json!({"full_attention": {"rope_theta": 70.0},
        "sliding_attention": {"rope_theta": 7.0, "type": "linear", "factor": 3.0}});
    for (changes, all, of_windows) in [
        (json!({}), (1e6, plain.clone()), (1e4, plain.clone())),
        (
            json!({"rope_theta": 90.0, "rope_local_base_freq": 9.0, "rope_scaling": two}),
            (90.0, linear(2.0)),
            (9.0, plain.clone()),
        ),
        (
            json!({"rope_theta": 90.0, "rope_local_base_freq": 9.0, "rope_parameters": full}),
            (70.0, linear(4.0)),
            (9.0, plain.clone()),
        ),
        (
            json!({"rope_parameters": both}),
            (70.0, plain.clone()),
            (7.0, linear(3.0)),
        ),
        (
            json!({"rope_parameters": full, "rope_scaling": {"factor": 5.0}}),
            (70.0, linear(5.0)),
            (1e4, plain.clone()),
        ),
        // Beside the usual `rope_type`, the old name says nothing.
        (
            json!({"rope_scaling": {"type": "linear", "factor": 2.0}}),
            (1e6, plain.clone()),
            (1e4, plain.clone()),
        ),
        // One setting for all layers has no effect.
        (
            json!({"rope_parameters": two}),
            (1e6, plain.clone()),
            (1e4, plain.clone()),
        ),
    ] {
        let config = read(gemma(changes.clone()));
        let found = [config.rope, config.window_rope].map(|rope| {
            let rope = rope.unwrap();
            (rope.theta, rope.scaling)
        });
        assert_eq!(found, [all, of_windows], "{changes}");
    }
    let error = refused(gemma(json!({"rope_parameters": two, "rope_scaling": two})));
    assert!(
        error.contains("`rope_scaling`") && error.contains("`full_attention`"),
        "{error}"
    );
    let error = refused(gemma(
        json!({"rope_parameters": {"sliding_attention": {"rope_type": "ntk"}}}),
    ));
    assert!(
        error.contains("`rope_parameters.sliding_attention.rope_type`"),
        "{error}"
    );

    let windows = |changes: Value| {
        let mut changes = gemma(changes);
        changes["num_hidden_layers"] = json!(7);
        let windows = read(changes).windows.into_iter();
        windows
            .map(|window| if window == Some(3) { 's' } else { 'f' })
            .collect::<String>()
    };
    assert_eq!(windows(json!({})), "sssssfs");
    assert_eq!(windows(json!({"sliding_window_pattern": 3})), "ssfssfs");
    assert_eq!(windows(json!({"_sliding_window_pattern": 3})), "sssssfs");
    let error = refused(gemma(json!({"sliding_window_pattern": null})));
    assert!(error.contains("`sliding_window_pattern`"), "{error}");
    let config = read(gemma(json!({"attn_logit_softcapping": 2.0})));
    assert_eq!(
        (config.attention_softcap, config.final_softcap),
        (None, None)
    );
    assert_eq!(config.attention_scale, 1.0 / 16.0);
}

/// The text of the models that read images, whose files leave most to transformers.
#[test]
fn the_text_tower_is_a_model_of_its_own() {
    let published = json!({
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
        "eos_token_id": [1, 106], "torch_dtype": "bfloat16", "vision_config": {"hidden_size": 1152},
        "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
            "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024, "tie_word_embeddings": false},
    });
    let from = |changes: Value| {
        let mut file = published.clone();
        for (key, value) in changes.as_object().unwrap() {
            file[key] = value.clone();
        }
        Config::from_json(
            file.as_object().unwrap().clone(),
            Path::new("m/config.json"),
        )
    };
    let config = from(json!({})).unwrap();
    assert_eq!(config.architecture.name(), "Gemma3ForCausalLM");
    let sizes = [
        config.vocab_size,
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
    ];
    assert_eq!(sizes, [262_208, 2560, 34, 8]);
    let sizes = [
        config.num_key_value_heads,
        config.head_dim,
        config.max_position_embeddings,
    ];
    assert_eq!(sizes, [4, 256, 131_072]);
    assert_eq!((config.windows[4], config.windows[5]), (Some(1024), None));
    assert_eq!(config.eos_token_ids, [1, 106]);
    // What the whole model says counts.
    assert!(config.tie_word_embeddings);
    assert!(
        !from(json!({"tie_word_embeddings": false}))
            .unwrap()
            .tie_word_embeddings
    );
    // What is saved is read again as the same.
    assert!(!config.raw.contains_key("vision_config"));
    let again = Config::from_json(config.raw.clone(), Path::new("c")).unwrap();
    assert_eq!(format!("{again:?}"), format!("{config:?}"));

    let without_text = from(json!({"text_config": null})).unwrap();
    assert_eq!(
        (without_text.num_hidden_layers, without_text.hidden_size),
        (26, 2304)
    );
    let error = from(json!({"text_config": {"hidden_size": -1}}))
        .unwrap_err()
        .to_string();
    assert!(error.contains("`text_config.hidden_size`"), "{error}");
    let error = from(json!({"text_config": {"model_type": "llama"}}))
        .unwrap_err()
        .to_string();
    assert!(error.contains("`text_config.model_type`"), "{error}");
}

/// Text and images in one checkpoint, in the spellings of transformers 4 and 5: the other towers are
/// passed over, and what is saved is the text alone.
#[test]
fn the_text_of_a_model_of_several_towers_is_read_and_saved() {
    let changes = json!({"architectures": ["Gemma3ForCausalLM"], "sliding_window": 3,
        "sliding_window_pattern": 2});
    for (prefix, head, tied) in [
        (
            "language_model.model.",
            "language_model.lm_head.weight",
            false,
        ),
        ("language_model.model.", "", true),
        ("model.language_model.", "lm_head.weight", false),
        ("model.language_model.", "", true),
    ] {
        let mut changes = changes.clone();
        changes["tie_word_embeddings"] = json!(tied);
        let mut text = tiny(changes.clone());
        text.insert("model_type".to_owned(), json!("gemma3_text"));
        let whole = json!({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
            "text_config": text, "tie_word_embeddings": tied});
        let (dir, made) = stored(changes, json!({}), &|all| {
            let named = all
                .drain()
                .map(|(name, tensor)| match name.strip_prefix("model.") {
                    Some(rest) => (format!("{prefix}{rest}"), tensor),
                    None => (head.to_owned(), tensor),
                });
            *all = named.collect();
            let other = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
            let tower = prefix.strip_suffix("language_model.").unwrap_or("");
            for name in [
                "vision_tower.vision_model.post_layernorm",
                "multi_modal_projector.mm",
            ] {
                all.insert(format!("{tower}{name}.weight"), other.clone());
            }
        });
        let path = dir.path().join("model/config.json");
        std::fs::write(&path, whole.to_string()).unwrap();
        let again = same_logits(&dir, &made);
        let out = dir.path().join("out");
        again.save(&out, &out, DType::F32).unwrap();
        let names: Vec<String> = again.params().keys().cloned().collect();
        let saved = candle_core::safetensors::load(out.join("model.safetensors"), &Device::Cpu);
        let mut saved: Vec<String> = saved.unwrap().into_keys().collect();
        saved.sort();
        assert_eq!(names, saved);
        let config = Config::load(&out).unwrap();
        assert_eq!(config.architecture.name(), "Gemma3ForCausalLM");
        assert_eq!(config.tie_word_embeddings, tied);

        // A tensor that no tower has is still one too many.
        let path = dir.path().join("model/model.safetensors");
        let mut all = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        let other = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
        all.insert("audio_tower.weight".to_owned(), other);
        candle_core::safetensors::save(&all, &path).unwrap();
        let error = Decoder::load(dir.path().join("model"), &options(Mode::Inference));
        let error = error.map(drop).unwrap_err().to_string();
        assert!(error.contains("audio_tower.weight"), "{error}");
    }
}
