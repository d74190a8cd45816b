//! Settings that depend on layers, by hand.

use std::path::Path;

use serde_json::{Value, json};

use super::{Layers, follow};

/// The configuration of an output of these layers of the only model, which has `has` of them; notes.
fn followed(config: Value, has: usize, sources: &[usize]) -> Result<(Value, Vec<String>), String> {
    let sources = sources.iter().map(|layer| (0, *layer)).collect();
    let layers = Layers {
        reference: 0,
        configs: &[&config],
        has: vec![has],
        sources,
        beyond: true,
    };
    let mut notes = Vec::new();
    let found = follow(&layers, Path::new("m"), &mut notes);
    found
        .map(|config| (config, notes))
        .map_err(|error| error.to_string())
}

/// The same for a top of the file with `num_hidden_layers: 4`.
fn top(mut config: Value, sources: &[usize]) -> Result<Value, String> {
    config["num_hidden_layers"] = 4.into();
    followed(config, 4, sources).map(|(config, _)| config)
}

const PLAN: [usize; 6] = [0, 1, 2, 1, 2, 3];

#[test]
fn lists_and_numbers_of_layers_follow() {
    for (key, before, after) in [
        (
            "layer_types",
            json!(["a", "b", "c", "d"]),
            json!(["a", "b", "c", "b", "c", "d"]),
        ),
        (
            "no_rope_layers",
            json!([1, 1, 1, 0]),
            json!([1, 1, 1, 1, 1, 0]),
        ),
        (
            "num_key_value_heads",
            json!([1, 2, 3, 4]),
            json!([1, 2, 3, 2, 3, 4]),
        ),
        ("num_key_value_heads", json!(2), json!(2)),
        (
            "intermediate_size",
            json!([1, 2, 3, 4]),
            json!([1, 2, 3, 2, 3, 4]),
        ),
        ("hybrid_override_pattern", json!("M*-E"), json!("M*-*-E")),
        (
            "moe_layer_freq",
            json!([0, 1, 1, 1]),
            json!([0, 1, 1, 1, 1, 1]),
        ),
        ("mlp_only_layers", json!([0, 2]), json!([0, 2, 4])),
        ("mlp_only_layers", json!([]), json!([])),
        ("moe_layers", json!([1, 3]), json!([1, 3, 5])),
        ("moe_layers_enum", json!("1,3"), json!("1,3,5")),
        ("cross_attention_layers", json!([3]), json!([5])),
        ("first_k_dense_replace", json!(1), json!(1)),
        ("first_k_dense_replace", json!(0), json!(0)),
        ("num_dense_layers", json!(4), json!(6)),
        ("moe_layer_end_index", json!(3), json!(5)),
        ("moe_layer_end_index", json!(-1), json!(-1)),
        ("max_window_layers", json!(28), json!(28)),
        (
            "attention_types",
            json!([[["global", "local"], 2]]),
            json!([[["global", "local", "global", "local", "global", "local"], 1]]),
        ),
        ("scale_depth", json!(2.0), json!(2.0 * 1.5f64.sqrt())),
        (
            "block_types",
            json!(["r", "r", "a"]),
            json!(["r", "r", "a", "r", "a", "r"]),
        ),
        (
            "per_layer_config",
            json!({"2": {"head_dim": 8}}),
            json!({"2": {"head_dim": 8}, "4": {"head_dim": 8}}),
        ),
        ("num_kv_shared_layers", json!(0), json!(0)),
        ("num_sparse_encoder_layers", json!(2), json!(3)),
        ("no_rope_layer_interval", json!(9), json!(9)),
        (
            "rope_parameters",
            json!({"short_factor": [1, 2, 3, 4]}),
            json!({"short_factor": [1, 2, 3, 4]}),
        ),
        ("eos_token_id", json!([1, 2, 3, 4]), json!([1, 2, 3, 4])),
        ("layer_norm_eps", json!(1e-5), json!(1e-5)),
    ] {
        let found = top(json!({ key: before }), &PLAN).unwrap();
        assert_eq!(found[key], after, "{key}");
        assert_eq!(found["num_hidden_layers"], 6);
    }
}

#[test]
fn what_cannot_follow_is_refused_by_name() {
    for (key, value, more) in [
        ("first_k_dense_replace", json!(2), json!({})),
        ("no_rope_layer_interval", json!(4), json!({})),
        ("sliding_window_pattern", json!(3), json!({})),
        ("sliding_window_pattern", json!("LLG"), json!({})),
        (
            "attn_layer_period",
            json!(3),
            json!({"attn_layer_offset": 1}),
        ),
        ("interleave_moe_layer_step", json!(3), json!({})),
        ("decoder_sparse_step", json!(3), json!({})),
        ("num_kv_shared_layers", json!(2), json!({})),
        ("num_sparse_encoder_layers", json!(1), json!({})),
        ("scale_attn_by_inverse_layer_idx", json!(true), json!({})),
        (
            "max_window_layers",
            json!(2),
            json!({"use_sliding_window": true}),
        ),
        ("layer_types", json!(["a", "b"]), json!({})),
        ("odd_layers_period", json!(3), json!({})),
        ("special_layer_ids", json!([1, 3, 7]), json!({})),
        (
            "layer_types",
            json!(null),
            json!({"model_type": "kimi_linear"}),
        ),
    ] {
        let mut config = more;
        config[key] = value;
        let error = top(config, &PLAN).unwrap_err();
        assert!(
            error.contains("m/config.json") && error.contains(&format!("`{key}`")),
            "{error}"
        );
    }
    // A model without a known number of layers.
    let error = followed(json!({"layers": 4}), 4, &PLAN).unwrap_err();
    assert!(error.contains("num_hidden_layers"), "{error}");
}

#[test]
fn periods_that_hold_are_kept() {
    let twice = [0, 1, 2, 3, 0, 1, 2, 3];
    for (key, value) in [
        ("no_rope_layer_interval", json!(4)),
        ("sliding_window_pattern", json!(2)),
        ("sliding_window_pattern", json!("LG")),
        ("attn_layer_period", json!(4)),
        ("decoder_sparse_step", json!(2)),
        ("odd_layers_period", json!(1)),
    ] {
        let found = top(json!({ key: value }), &twice).unwrap();
        assert_eq!(found[key], value, "{key}");
    }
    // The first layers keep their numbers.
    let found = top(
        json!({"sliding_window_pattern": 4, "odd_layers_period": 3}),
        &[0, 1],
    )
    .unwrap();
    assert_eq!(found["sliding_window_pattern"], 4);
    assert_eq!(found["num_hidden_layers"], 2);
    // A list counts in the period's stead.
    let config = json!({"sliding_window_pattern": 4, "layer_types": [1, 2, 3, 4]});
    assert_eq!(top(config, &[3, 0]).unwrap()["layer_types"], json!([4, 1]));
}

#[test]
fn layers_that_a_list_can_name_are_listed() {
    let config = json!({"decoder_sparse_step": 2, "mlp_only_layers": [1]});
    // Layers 0 and 2 have no experts by the step, layer 1 by the list: only layer 3 has.
    let found = top(config.clone(), &PLAN).unwrap();
    assert_eq!(found["decoder_sparse_step"], 2);
    assert_eq!(found["mlp_only_layers"], json!([1, 3]));
    let found = top(config, &[3, 0, 1]).unwrap();
    assert_eq!(found["decoder_sparse_step"], 1);
    assert_eq!(found["mlp_only_layers"], json!([1, 2]));
    let config = json!({"interleave_moe_layer_step": 3, "moe_layers": []});
    let found = top(config, &PLAN).unwrap();
    assert_eq!(found["moe_layers"], json!([2, 4]));
}

#[test]
fn implied_lists_are_written_where_they_no_longer_hold() {
    let (s, f) = ("sliding_attention", "full_attention");
    let config = json!({"model_type": "gemma2", "num_hidden_layers": 4});
    let (found, notes) = followed(config.clone(), 4, &PLAN).unwrap();
    // They alternate as before.
    assert_eq!(found.get("layer_types"), None);
    assert!(notes.is_empty(), "{notes:?}");
    let (found, notes) = followed(config, 4, &[1, 2, 2]).unwrap();
    assert_eq!(found["layer_types"], json!([f, s, s]));
    assert!(notes[0].contains("`layer_types`"), "{notes:?}");
    let config = json!({"model_type": "smollm3", "num_hidden_layers": 4});
    let (found, _) = followed(config, 4, &PLAN).unwrap();
    assert_eq!(found["no_rope_layers"], json!([1, 1, 1, 1, 1, 0]));
    let config = json!({"model_type": "gemma3", "text_config": {"num_hidden_layers": 6},
        "vision_config": {"num_hidden_layers": 6}});
    let (found, _) = followed(config, 6, &[5, 0]).unwrap();
    assert_eq!(
        found,
        json!({"model_type": "gemma3",
            "text_config": {"num_hidden_layers": 2, "layer_types": [f, s]},
            "vision_config": {"num_hidden_layers": 6}})
    );
}

#[test]
fn nested_settings_and_unknown_lists_follow() {
    let config = json!({"model_type": "x", "text_config": {"n_layers": 3, "odd": [1, 2, 3], "odd_layers": [7, 8, 9]},
        "odd": [1, 2], "vision_config": {"n_layers": 3, "odd": [1, 2, 3]}});
    let (found, notes) = followed(config, 3, &[2, 2]).unwrap();
    assert_eq!(
        found["text_config"],
        json!({"n_layers": 2, "odd": [3, 3], "odd_layers": [9, 9]})
    );
    assert_eq!(found["odd"], json!([1, 2]));
    assert_eq!(
        found["vision_config"],
        json!({"n_layers": 3, "odd": [1, 2, 3]})
    );
    assert!(
        notes.iter().any(|note| note.contains("`text_config.odd`")),
        "{notes:?}"
    );
}

#[test]
fn entries_come_from_the_model_of_the_layer() {
    let one = json!({"num_hidden_layers": 2, "layer_types": ["a", "b"], "mlp_only_layers": [0]});
    let two =
        json!({"num_hidden_layers": 3, "layer_types": ["c", "d", "e"], "mlp_only_layers": [2]});
    let layers = |sources: Vec<(usize, usize)>| Layers {
        reference: 0,
        configs: &[],
        has: vec![2, 3],
        sources,
        beyond: false,
    };
    let configs = [&one, &two];
    let both = Layers {
        configs: &configs,
        ..layers(vec![(1, 2), (0, 1), (1, 0)])
    };
    let found = follow(&both, Path::new("m"), &mut Vec::new()).unwrap();
    assert_eq!(found["layer_types"], json!(["e", "b", "c"]));
    assert_eq!(found["mlp_only_layers"], json!([0]));
    let without = json!({"num_hidden_layers": 3});
    let configs = [&one, &without];
    let lacking = Layers {
        configs: &configs,
        ..layers(vec![(0, 0), (1, 0)])
    };
    let error = follow(&lacking, Path::new("m"), &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("another model"), "{error}");
}

#[test]
fn modules_that_are_left_out_are_not_counted() {
    let config = json!({"num_hidden_layers": 2, "num_nextn_predict_layers": 1});
    let layers = Layers {
        reference: 0,
        configs: &[&config],
        has: vec![2],
        sources: vec![(0, 0), (0, 1)],
        beyond: false,
    };
    let mut notes = Vec::new();
    let found = follow(&layers, Path::new("m"), &mut notes).unwrap();
    assert_eq!(
        found,
        json!({"num_hidden_layers": 2, "num_nextn_predict_layers": 0})
    );
    assert!(notes[0].contains("num_nextn_predict_layers"), "{notes:?}");
}
