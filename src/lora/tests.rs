//! Adapters of small models: what becomes of each of the model's tensors.

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

/// Every way in which one of embedding and head, or both, are changed.
#[test]
fn a_head_that_is_the_embedding_is_another_tensor_where_one_is_changed() {
    let embed: Tensors<'_> = &[
        ("model.embed_tokens.lora_embedding_A", &[1, 2], &[1.0, 0.0]),
        (
            "model.embed_tokens.lora_embedding_B",
            &[2, 1],
            &[10.0, 20.0],
        ),
    ];
    let head: Tensors<'_> = &[
        ("lm_head.lora_A.weight", &[1, 2], &[1.0, 0.0]),
        ("lm_head.lora_B.weight", &[2, 1], &[10.0, 20.0]),
    ];
    let new: &[f32] = &[5.0, 6.0, 7.0, 8.0];
    let stored_embed: Tensors<'_> = &[("model.embed_tokens.weight", &[2, 2], new)];
    let stored_head: Tensors<'_> = &[("lm_head.weight", &[2, 2], new)];
    let below: Tensors<'_> = &[("model.embed_tokens.base_layer.weight", &[2, 2], new)];
    let rows: Tensors<'_> = &[(
        "model.embed_tokens.token_adapter.trainable_tokens_delta",
        &[1, 2],
        &[9.0, 9.0],
    )];
    let targets = |names: &[&str]| json!({"target_modules": ([&["q_proj"], names].concat())});
    let and = |mut value: Value, key: &str, more: Value| {
        value[key] = more;
        value
    };
    let saves = |names: Value| json!({"modules_to_save": names});
    let ensured = |value| and(value, "ensure_weight_tying", json!(true));
    // (1 2; 3 4) with (B A)ᵀ.
    let looked_up = [11.0, 22.0, 3.0, 4.0];
    let below_adapted = [15.0, 26.0, 7.0, 8.0];
    let of_new: [f32; 4] = [5.0, 6.0, 7.0, 8.0];
    for (settings, tensors, expected, unties) in [
        (
            targets(&["embed_tokens"]),
            vec![embed],
            [looked_up, OWN],
            true,
        ),
        (targets(&["lm_head"]), vec![head], [OWN, ADAPTED], true),
        (
            targets(&["lm_head", "embed_tokens"]),
            vec![head, embed],
            [looked_up, ADAPTED],
            true,
        ),
        (
            targets(&["embed_tokens"]),
            vec![embed, below],
            [below_adapted, of_new],
            true,
        ),
        (
            saves(json!(["embed_tokens"])),
            vec![stored_embed],
            [of_new, OWN],
            true,
        ),
        (
            saves(json!(["lm_head"])),
            vec![stored_head],
            [OWN, of_new],
            true,
        ),
        (
            saves(json!(["lm_head", "embed_tokens"])),
            vec![stored_head, stored_embed],
            [of_new, of_new],
            true,
        ),
        // In place of the one tensor.
        (json!({}), vec![stored_embed], [of_new, of_new], false),
        (json!({}), vec![stored_head], [of_new, of_new], false),
        (
            ensured(saves(json!(["embed_tokens"]))),
            vec![stored_embed, stored_head],
            [of_new, of_new],
            false,
        ),
        (
            ensured(saves(json!(["lm_head"]))),
            vec![stored_embed, stored_head],
            [of_new, of_new],
            false,
        ),
        (
            ensured(targets(&["embed_tokens", "lm_head"])),
            vec![embed, head],
            [looked_up, looked_up],
            false,
        ),
        (
            ensured(targets(&["lm_head"])),
            vec![embed],
            [looked_up, looked_up],
            false,
        ),
        (
            json!({"trainable_token_indices": [1]}),
            vec![rows],
            [[1.0, 2.0, 9.0, 9.0]; 2],
            false,
        ),
    ] {
        let tensors = [&[&HALVES[..]], &tensors[..]].concat().concat();
        let found = open(&base("qwen3", true), &settings, &tensors).unwrap();
        assert_eq!(found.unties(), unties, "{settings}");
        assert_eq!(with(&found, EMBED), expected[0], "{settings}");
        assert_eq!(with(&found, HEAD), expected[1], "{settings}");
    }
    // Of a model whose head is its own, only one is changed, and nothing is untied.
    let found = open(
        &base("llama", false),
        &targets(&["lm_head"]),
        &[&HALVES[..], head].concat(),
    );
    let found = found.unwrap();
    assert!(!found.unties() && !found.changes(EMBED));
}

#[test]
fn enlarged_vocabularies_are_whole_or_named() {
    let rows: &[f32] = &[1.0; 6];
    let embed: (&str, &[usize], &[f32]) = ("model.embed_tokens.weight", &[3, 2], rows);
    let head: (&str, &[usize], &[f32]) = ("lm_head.weight", &[3, 2], rows);
    let both = json!({"modules_to_save": ["embed_tokens", "lm_head"]});
    let all = [&HALVES[..], &[embed, head]].concat();
    for tied in [false, true] {
        let found = open(&base("llama", tied), &both, &all).unwrap();
        assert_eq!(found.rows(), Some(3));
        assert_eq!(found.shape_of(EMBED), Some(&[3, 2][..]));
        assert_eq!(with(&found, HEAD).len(), 6);
        assert_eq!(found.shape_of(Q), None);
    }
    // One tensor for both, where they are one.
    let one = [&HALVES[..], &[embed]].concat();
    assert_eq!(
        open(&base("qwen3", true), &json!({}), &one).unwrap().rows(),
        Some(3)
    );
    for (settings, tied) in [
        (json!({}), false),
        (json!({"modules_to_save": ["embed_tokens"]}), true),
    ] {
        let error = open(&base("llama", tied), &settings, &one)
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("a row for each of 3 tokens, `lm_head.weight` has 2"),
            "{error}"
        );
        assert!(error.contains("resize_token_embeddings"), "{error}");
    }
    let wide: (&str, &[usize], &[f32]) = ("lm_head.weight", &[2, 3], rows);
    let error = open(
        &base("llama", false),
        &json!({}),
        &[&HALVES[..], &[wide]].concat(),
    );
    let error = error.err().unwrap().to_string();
    assert!(
        error.contains("expected the model's shape [2, 2], found [2, 3]"),
        "{error}"
    );
}

#[test]
fn rows_of_tokens_are_replaced_or_refused() {
    let name = "model.embed_tokens.token_adapter.trainable_tokens_delta";
    let rows: Tensors<'_> = &[(name, &[2, 2], &[7.0, 8.0, 5.0, 6.0])];
    let tensors = [&HALVES[..], rows].concat();
    let base = base("llama", false);
    for ids in [json!([1, 0]), json!({"embed_tokens": [1, 0]})] {
        let settings = json!({"trainable_token_indices": ids});
        let found = open(&base, &settings, &tensors).unwrap();
        assert_eq!(with(&found, EMBED), [5.0, 6.0, 7.0, 8.0]);
        assert!(!found.changes(HEAD));
    }
    for (ids, part) in [
        (json!([1]), "expected shape [1, 2]"),
        (json!([1, 2]), "a row for token 2"),
        (json!({"wte": [1, 0]}), "does not name its module"),
    ] {
        let error = open(&base, &json!({"trainable_token_indices": ids}), &tensors);
        let error = error.err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    }
    let lacking = open(&base, &json!({"trainable_token_indices": [1]}), &HALVES);
    assert!(
        lacking
            .err()
            .unwrap()
            .to_string()
            .contains("the file lacks their rows")
    );
}

#[test]
fn experts_are_adapted_in_their_order() {
    let name = "model.layers.0.mlp.experts.down_proj";
    let halves: Tensors<'_> = &[
        (
            "model.layers.0.mlp.experts.lora_A.weight",
            &[2, 2],
            &[1.0, 0.0, 0.0, 1.0],
        ),
        (
            "model.layers.0.mlp.experts.lora_B.weight",
            &[2, 2],
            &[1.0, 2.0, 3.0, 4.0],
        ),
    ];
    // Expert 0: A = (1 0), B = (1; 3); expert 1: A = (0 1), B = (2; 4).
    for (family, expected) in [
        ("llama4_text", [1.0, 0.0, 3.0, 0.0, 0.0, 2.0, 0.0, 4.0]),
        ("gpt_oss", [1.0, 3.0, 0.0, 0.0, 0.0, 0.0, 2.0, 4.0]),
    ] {
        let settings = json!({"target_modules": [], "target_parameters": ["experts.down_proj"]});
        let found = open(&base(family, false), &settings, halves).unwrap();
        let values = found.adapted(name, || Ok(vec![0.0; 8])).unwrap();
        assert_eq!(values, expected, "{family}");
    }
    let settings = json!({"target_modules": [], "target_parameters": ["experts.w9"]});
    let error = open(&base("gpt_oss", false), &settings, halves)
        .err()
        .unwrap();
    assert!(
        error
            .to_string()
            .contains("`target_parameters` names no tensor"),
        "{error}"
    );
}

/// diag(3, 1) less its largest part is diag(0, 1); its first column is (3; 0).
#[test]
fn what_a_training_began_with_is_taken_away() {
    for (start, own, alpha, expected) in [
        // s (B A) + W, less the largest part, whatever s is.
        ("pissa", [3.0, 0.0, 0.0, 1.0], 2.0, [20.0, 0.0, 40.0, 1.0]),
        ("pissa", [1.0, 0.0, 0.0, 3.0], 1.0, [11.0, 0.0, 20.0, 0.0]),
        // Less s times what lies along the first column.
        ("olora", [3.0, 6.0, 0.0, 1.0], 1.0, [10.0, 0.0, 20.0, 1.0]),
        ("OLoRA", [3.0, 6.0, 0.0, 1.0], 2.0, [17.0, -6.0, 40.0, 1.0]),
    ] {
        let settings = json!({"init_lora_weights": start, "lora_alpha": alpha});
        let found = open(&base("llama", false), &settings, &HALVES).unwrap();
        let values = found.adapted(Q, || Ok(own.to_vec())).unwrap();
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-5, "{start}: {values:?}");
        }
    }
    let found = open(
        &base("llama", false),
        &json!({"init_lora_weights": "olora"}),
        &HALVES,
    );
    let error = found
        .unwrap()
        .adapted(Q, || Ok(vec![0.0; 4]))
        .unwrap_err()
        .to_string();
    assert!(error.contains("depend on each other"), "{error}");
}

#[test]
fn names_with_another_prefix_than_the_models() {
    let bare = [(Q.strip_prefix("model.").unwrap().to_owned(), vec![2, 2])];
    let bare = Base::new(bare, &json!({"model_type": "qwen3"}), None);
    let found = open(
        &bare,
        &json!({"target_modules": r"model\.layers\..*"}),
        &HALVES,
    )
    .unwrap();
    assert_eq!(with(&found, Q.strip_prefix("model.").unwrap()), ADAPTED);
    let halves: Tensors<'_> = &[
        (
            "layers.0.self_attn.q_proj.lora_A.weight",
            &[1, 2],
            &[1.0, 0.0],
        ),
        (
            "layers.0.self_attn.q_proj.lora_B.weight",
            &[2, 1],
            &[10.0, 20.0],
        ),
    ];
    let found = open(&base("qwen3", false), &json!({}), halves).unwrap();
    assert_eq!(with(&found, Q), ADAPTED);
}

#[test]
fn damage_is_blamed_on_the_adapter_or_the_model() {
    let nan: (&str, &[usize], &[f32]) = (HALVES[1].0, &[2, 1], &[f32::NAN, 1.0]);
    let found = open(&base("llama", false), &json!({}), &[HALVES[0], nan]);
    let error = found
        .unwrap()
        .adapted(Q, || Ok(vec![0.0; 4]))
        .unwrap_err()
        .to_string();
    assert!(error.contains("adapter_model.safetensors"), "{error}");
    assert!(
        error.contains("q_proj.lora_B.weight`: number 0 is NaN"),
        "{error}"
    );
    let found = open(&base("llama", false), &json!({}), &HALVES).unwrap();
    let error = found
        .adapted(Q, || Ok(vec![f32::NAN; 4]))
        .unwrap_err()
        .to_string();
    assert!(error.contains("the model is damaged"), "{error}");
    assert!(found.blame(Q).is_none());
}

#[test]
fn pickled_weights_are_named_for_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), &json!({}), &HALVES);
    let weights = folder.join("adapter_model.safetensors");
    std::fs::rename(&weights, folder.join("adapter_model.bin")).unwrap();
    let error = Adapter::open(&folder, &base("llama", false))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("`adapter_model.bin` is pickled"), "{error}");
    assert!(error.contains("safe_serialization=True"), "{error}");
}
