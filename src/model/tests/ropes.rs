//! Rotary embeddings in configurations: what transformers 5.24 makes of them.

use super::configurations::{read, refused};
use super::*;
use crate::model::config::RopeScaling;

#[test]
fn of_two_descriptions_of_the_rotary_embedding_the_old_one_counts() {
    let linear = json!({"rope_type": "linear", "factor": 2.0});
    let with_theta = json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 30.0});
    let new = json!({"rope_type": "default", "rope_theta": 70.0});
    for (changes, theta, factor) in [
        (json!({}), 10_000.0, None),
        (json!({"rope_theta": 20.0}), 20.0, None),
        (
            json!({"rope_theta": 20.0, "rope_parameters": new}),
            70.0,
            None,
        ),
        (
            json!({"rope_theta": 20.0, "rope_parameters": linear}),
            20.0,
            Some(2.0),
        ),
        (
            json!({"rope_theta": 20.0, "rope_scaling": with_theta}),
            30.0,
            Some(2.0),
        ),
        (
            json!({"rope_scaling": linear, "rope_parameters": new}),
            10_000.0,
            Some(2.0),
        ),
        (
            json!({"rope_scaling": with_theta, "rope_parameters": new}),
            30.0,
            Some(2.0),
        ),
        (
            json!({"rope_scaling": {}, "rope_parameters": new}),
            70.0,
            None,
        ),
        (
            json!({"rope_scaling": null, "rope_parameters": new}),
            70.0,
            None,
        ),
    ] {
        let rope = read(changes.clone()).rope.unwrap();
        let scaling = match factor {
            Some(factor) => RopeScaling::Linear { factor },
            None => RopeScaling::Default,
        };
        assert_eq!((rope.theta, rope.scaling), (theta, scaling), "{changes}");
    }
    let nested = json!({"rope_parameters": {"full_attention": {"rope_theta": 9.0}}});
    let error = refused(nested);
    assert!(
        error.contains("`rope_parameters`") && error.contains("`full_attention`"),
        "{error}"
    );
}

#[test]
fn the_original_context_is_looked_for_in_the_order_of_transformers() {
    let scaling = |original: Value| {
        let mut scaling = json!({"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
        if !original.is_null() {
            scaling["original_max_position_embeddings"] = original;
        }
        scaling
    };
    let original = |changes: Value| match read(changes).rope.unwrap().scaling {
        RopeScaling::Llama3 {
            original_max_position_embeddings: original,
            ..
        } => original as usize,
        RopeScaling::Long {
            original_max_position_embeddings: original,
            ..
        } => original,
        other => panic!("{other:?}"),
    };
    let top = "original_max_position_embeddings";
    assert_eq!(original(json!({"rope_scaling": scaling(json!(null))})), 32);
    assert_eq!(original(json!({"rope_scaling": scaling(json!(8))})), 8);
    assert_eq!(
        original(json!({"rope_scaling": scaling(json!(8)), top: 16})),
        16
    );
    let long = |more: Value| {
        let mut all = json!({"architectures": ["Phi3ForCausalLM"], "rope_scaling":
            {"type": "longrope", "short_factor": [1, 1, 2], "long_factor": [1, 1, 2], top: 8}});
        for (key, value) in more.as_object().unwrap() {
            all[key] = value.clone();
        }
        all
    };
    assert_eq!(original(long(json!({ top: 16 }))), 16);
    assert_eq!(original(long(json!({}))), 4096);
    assert_eq!(read(long(json!({}))).max_position_embeddings, 32);
}

/// What `_compute_yarn_parameters` of transformers 5.24 makes of the same settings.
#[test]
fn yarn_keeps_fast_pairs_and_stretches_slow_ones() {
    let yarn = json!({"rope_type": "yarn", "factor": 8.0, "rope_theta": 1000.0,
        "original_max_position_embeddings": 512});
    let of = |more: Value| {
        let mut scaling = yarn.clone();
        for (key, value) in more.as_object().unwrap() {
            scaling[key] = value.clone();
        }
        json!({"head_dim": 16, "max_position_embeddings": 4096, "rope_scaling": scaling})
    };
    for (more, frequencies, attention_factor) in [
        (
            json!({}),
            [
                1.0,
                0.421_696_5,
                0.146_708_06,
                0.048_743_12,
                0.015_020_82,
                0.004_000_564_6,
                7.029_266_6e-4,
                2.964_217_3e-4,
            ],
            1.207_944_2,
        ),
        (
            json!({"truncate": false, "mscale": 1.2, "mscale_all_dim": 0.8, "beta_fast": 16.0, "beta_slow": 2.0}),
            [
                1.0,
                0.421_696_5,
                0.170_414_03,
                0.044_616_655,
                0.007_324_999_7,
                0.001_666_901_9,
                7.029_266_6e-4,
                2.964_217_3e-4,
            ],
            1.071_314_2,
        ),
        (
            json!({"factor": 1.0, "attention_factor": 1.5}),
            [
                1.0,
                0.421_696_5,
                0.177_827_94,
                0.074_989_416,
                0.031_622_78,
                0.013_335_215,
                0.005_623_413_2,
                0.002_371_373_8,
            ],
            1.5,
        ),
    ] {
        let rope = read(of(more.clone())).rope.unwrap();
        for (found, expected) in rope.frequencies().into_iter().zip(frequencies) {
            let expected: f32 = expected;
            assert!(
                (found / expected - 1.0).abs() < 1e-6,
                "{more}: {found} {expected}"
            );
        }
        assert!(
            (rope.attention_factor() - attention_factor).abs() < 1e-6,
            "{more}"
        );
    }
    // Null is the ratio of the contexts, which is 8 as well; absent is an error, as there.
    let ratio = read(of(json!({"factor": null}))).rope.unwrap();
    assert_eq!(ratio, read(of(json!({}))).rope.unwrap());
    let mut absent = of(json!({}));
    absent["rope_scaling"]
        .as_object_mut()
        .unwrap()
        .shift_remove("factor");
    assert!(refused(absent).contains("`rope_scaling.factor`"));
    assert!(refused(of(json!({"factor": 0.5}))).contains("`rope_scaling.factor`"));
}
