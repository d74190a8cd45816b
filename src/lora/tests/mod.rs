//! Adapters of small models: what becomes of each of the model's tensors.

mod embeddings;
mod starts;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::*;
use crate::checkpoint::{CheckpointWriter, Layout};
use crate::error::Result;
use crate::tensors::{Dtype, TensorSpec};

const EMBED: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";
const Q: &str = "model.layers.0.self_attn.q_proj.weight";
const V: &str = "model.layers.1.self_attn.v_proj.weight";

/// A model of type `model_type` with square matrices, a norm and a bias; `tied`: its head is the
/// embedding.
fn base(model_type: &str, tied: bool) -> Base {
    let names = [
        EMBED,
        HEAD,
        Q,
        V,
        "model.norm.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.attn.c_proj.weight",
        "model.layers.0.mlp.experts.down_proj",
    ];
    let shape = |name: &str| match name {
        "model.norm.weight" | "model.layers.0.self_attn.q_proj.bias" => vec![2],
        "model.layers.0.mlp.experts.down_proj" => vec![2, 2, 2],
        _ => vec![2, 2],
    };
    let tensors = names.map(|name| (name.to_owned(), shape(name)));
    let tied = tied.then_some([EMBED, HEAD]);
    Base::new(tensors, &json!({"model_type": model_type}), tied)
}

/// The folder of an adapter with rank 1 and s = 1, of tensors by their names without the prefix.
fn folder(dir: &Path, settings: &Value, tensors: &[(&str, &[usize], &[f32])]) -> PathBuf {
    let mut config = json!({"peft_type": "LORA", "r": 1, "lora_alpha": 1,
        "target_modules": ["q_proj", "v_proj"]});
    let more = settings.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(more);
    std::fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    let specs = tensors.iter().map(|(name, shape, _)| TensorSpec {
        name: format!("base_model.model.{name}"),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
    });
    let layout = Layout::single(specs.collect(), "adapter_model.safetensors").unwrap();
    let writer = CheckpointWriter::open(dir, layout).unwrap();
    for (at, (_, _, values)) in tensors.iter().enumerate() {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        writer.write(at, 0, &bytes).unwrap();
    }
    writer.finish(dir).unwrap();
    dir.to_path_buf()
}

type Tensors<'a> = &'a [(&'a str, &'a [usize], &'a [f32])];

fn open(base: &Base, settings: &Value, tensors: Tensors<'_>) -> Result<Adapter> {
    let dir = tempfile::tempdir().unwrap();
    Adapter::open(&folder(dir.path(), settings, tensors), base)
}

/// The tensor `name` with an adapter, where the model has (1 2; 3 4), or (1 2).
fn with(adapter: &Adapter, name: &str) -> Vec<f32> {
    let own = match name.contains("norm") || name.contains("bias") {
        true => vec![1.0, 2.0],
        false => vec![1.0, 2.0, 3.0, 4.0],
    };
    adapter.adapted(name, || Ok(own)).unwrap()
}

const OWN: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
/// A = (1 0), B = (10; 20): (11 2; 23 4).
const HALVES: [(&str, &[usize], &[f32]); 2] = [
    (
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        &[1, 2],
        &[1.0, 0.0],
    ),
    (
        "model.layers.0.self_attn.q_proj.lora_B.weight",
        &[2, 1],
        &[10.0, 20.0],
    ),
];
const ADAPTED: [f32; 4] = [11.0, 2.0, 23.0, 4.0];
const V_HALVES: [(&str, &[usize], &[f32]); 2] = [
    (
        "model.layers.1.self_attn.v_proj.lora_A.weight",
        &[1, 2],
        &[1.0, 0.0],
    ),
    (
        "model.layers.1.self_attn.v_proj.lora_B.weight",
        &[2, 1],
        &[10.0, 20.0],
    ),
];

/// What the settings do not name is not applied, whatever the file has; nothing of it is an error.
#[test]
fn tensors_that_peft_does_not_read_are_not_applied() {
    let base = base("llama", false);
    let both = [&HALVES[..], &V_HALVES].concat();
    for (settings, applied) in [
        (json!({}), [true, true]),
        (json!({"target_modules": ["q_proj"]}), [true, false]),
        (json!({"target_modules": null}), [true, true]),
        (json!({"target_modules": "all-linear"}), [true, true]),
        (json!({"exclude_modules": ["q_proj"]}), [false, true]),
        (json!({"exclude_modules": ".*v_proj"}), [true, false]),
        (json!({"layers_to_transform": [1]}), [false, true]),
        (
            json!({"target_modules": r"model\.layers\.0\..*"}),
            [true, false],
        ),
        (json!({"layers_to_transform": [3]}), [false, false]),
        (json!({"target_modules": ["o_proj"]}), [false, false]),
        (json!({"target_modules": ["lm_head"]}), [false, false]),
    ] {
        let found = open(&base, &settings, &both);
        if applied == [false, false] {
            let error = found.err().unwrap().to_string();
            assert!(error.contains("`target_modules`"), "{settings}: {error}");
            continue;
        }
        let found = found.unwrap();
        for (name, applied) in [Q, V].into_iter().zip(applied) {
            assert_eq!(found.changes(name), applied, "{settings} {name}");
            let expected = if applied { ADAPTED } else { OWN };
            assert_eq!(with(&found, name), expected, "{settings} {name}");
        }
    }
    // An embedding has other names; lengths are DoRA's; a targeted module's own weight lies below.
    let unread: Tensors<'_> = &[
        ("model.embed_tokens.lora_A.weight", &[1, 2], &[1.0, 1.0]),
        ("model.embed_tokens.lora_B.weight", &[2, 1], &[1.0, 1.0]),
        (
            "model.layers.0.self_attn.q_proj.lora_magnitude_vector",
            &[2],
            &[5.0, 5.0],
        ),
        (
            "model.layers.0.self_attn.q_proj.lora_B.bias",
            &[2],
            &[5.0, 5.0],
        ),
        ("model.layers.1.self_attn.v_proj.weight", &[2, 2], &[0.0; 4]),
    ];
    let settings = json!({"target_modules": ["q_proj", "v_proj", "embed_tokens"]});
    let found = open(&base, &settings, &[&HALVES[..], unread].concat()).unwrap();
    assert_eq!(with(&found, Q), ADAPTED);
    assert!(!found.changes(EMBED) && !found.changes(V));
}

#[test]
fn projections_are_transposed_by_the_family_and_not_by_the_setting() {
    let halves: Tensors<'_> = &[
        (
            "model.layers.0.attn.c_proj.lora_A.weight",
            &[1, 2],
            &[1.0, 0.0],
        ),
        (
            "model.layers.0.attn.c_proj.lora_B.weight",
            &[2, 1],
            &[10.0, 20.0],
        ),
    ];
    for (family, expected) in [("llama", ADAPTED), ("gpt2", [11.0, 22.0, 3.0, 4.0])] {
        for says in [false, true] {
            let settings = json!({"target_modules": ["c_proj"], "fan_in_fan_out": says});
            let found = open(&base(family, false), &settings, halves).unwrap();
            let name = "model.layers.0.attn.c_proj.weight";
            assert_eq!(with(&found, name), expected, "{family} {says}");
        }
    }
}

#[test]
fn stored_tensors_under_every_name() {
    let base = base("llama", false);
    let new: &[f32] = &[5.0, 6.0, 7.0, 8.0];
    for (name, settings, tensor) in [
        (
            "lm_head.weight",
            json!({"modules_to_save": ["lm_head"]}),
            HEAD,
        ),
        (
            "lm_head.modules_to_save.weight",
            json!({"modules_to_save": ["lm_head"]}),
            HEAD,
        ),
        (
            "lm_head.modules_to_save.default.weight",
            json!({"modules_to_save": ["lm_head"]}),
            HEAD,
        ),
        ("lm_head.weight", json!({}), HEAD),
        (
            "model.layers.1.self_attn.v_proj.base_layer.weight",
            json!({}),
            V,
        ),
        (
            "model.embed_tokens.base_layer.weight",
            json!({"trainable_token_indices": [0]}),
            EMBED,
        ),
    ] {
        let mut tensors = HALVES.to_vec();
        tensors.push((name, &[2, 2], new));
        if settings["trainable_token_indices"].is_array() {
            let rows = "model.embed_tokens.token_adapter.trainable_tokens_delta";
            tensors.push((rows, &[1, 2], &[5.0, 6.0]));
        }
        let found = open(&base, &settings, &tensors).unwrap();
        assert_eq!(with(&found, tensor), new, "{name}");
    }
    // Written twice: the shorter name counts.
    let twice = ["lm_head.modules_to_save.default.weight", "lm_head.weight"];
    let values: [&[f32]; 2] = [&[0.0; 4], new];
    let twice = twice.into_iter().zip(values);
    let twice = twice.map(|(name, values)| (name, &[2, 2][..], values));
    let tensors: Vec<_> = HALVES.into_iter().chain(twice).collect();
    let settings = json!({"modules_to_save": ["lm_head"]});
    assert_eq!(with(&open(&base, &settings, &tensors).unwrap(), HEAD), new);
    // A bias, and one that is added to it.
    let bias = "model.layers.0.self_attn.q_proj.bias";
    let stored = (
        "model.layers.0.self_attn.q_proj.base_layer.bias",
        &[2][..],
        &[7.0, 8.0][..],
    );
    let added = (
        "model.layers.0.self_attn.q_proj.lora_B.bias",
        &[2][..],
        &[7.0, 8.0][..],
    );
    let tensors = [&HALVES[..], &[stored]].concat();
    let found = open(&base, &json!({"bias": "lora_only"}), &tensors).unwrap();
    assert_eq!(with(&found, bias), [7.0, 8.0]);
    let tensors = [&HALVES[..], &[added]].concat();
    let found = open(
        &base,
        &json!({"lora_bias": true, "lora_alpha": 2}),
        &tensors,
    )
    .unwrap();
    assert_eq!(with(&found, bias), [15.0, 18.0]);
    // Modules that are to be stored, and are not.
    let missing = open(&base, &json!({"modules_to_save": ["lm_head"]}), &HALVES);
    assert!(
        missing
            .err()
            .unwrap()
            .to_string()
            .contains("the file lacks it")
    );
}
