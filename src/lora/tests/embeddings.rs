//! Adapters of embeddings and heads.

use super::*;

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
