//! Adapters of experts, those that begin with other weights, other spellings, damage.

use super::*;

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
    // The same matrices one by one, as a checkpoint has them: gate and up are the halves of one.
    let names = ["w1", "w2", "w3"].map(|name| {
        let tensor =
            |e: usize| format!("model.layers.0.block_sparse_moe.experts.{e}.{name}.weight");
        [tensor(0), tensor(1)]
    });
    let tensors = names.concat().into_iter().map(|name| (name, vec![1, 2]));
    let one_by_one = Base::new(tensors, &json!({"model_type": "mixtral"}), None);
    let settings = json!({"target_modules": [], "target_parameters": ["gate_up_proj"]});
    let found = open(&one_by_one, &settings, halves).unwrap();
    for (name, expert, expected) in [
        ("w1", 0, [1.0, 0.0]),
        ("w3", 0, [3.0, 0.0]),
        ("w1", 1, [0.0, 2.0]),
        ("w3", 1, [0.0, 4.0]),
    ] {
        let name = format!("model.layers.0.block_sparse_moe.experts.{expert}.{name}.weight");
        assert_eq!(
            found.adapted(&name, || Ok(vec![0.0; 2])).unwrap(),
            expected,
            "{name}"
        );
    }
    assert!(!found.changes("model.layers.0.block_sparse_moe.experts.0.w2.weight"));
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
