//! Merges of models with different vocabularies.

use serde_json::{Value, json};

use super::fixtures::{Zoo, config_of, files, noise};
use crate::checkpoint::{Checkpoint, CheckpointWriter, Layout};
use crate::error::Error;
use crate::merge::methods::METHODS;
use crate::merge::{MergeOptions, plan, run, run_observed};
use crate::tensors::{Dtype, TensorSpec};

const EMBEDDING: &str = "model.embed_tokens.weight";

/// A tokenizer of whole words; words in angle brackets are special added tokens.
pub(super) fn words(words: &[&str]) -> Value {
    let ids = (0..).zip(words);
    let plain = ids.clone().filter(|(_, word)| !word.starts_with('<'));
    let vocabulary: Value = plain
        .map(|(id, word)| ((*word).into(), json!(id)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let added: Vec<Value> = ids
        .filter(|(_, word)| word.starts_with('<'))
        .map(|(id, word)| {
            json!({"id": id, "content": word, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    json!({"version": "1.0", "added_tokens": added,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": words[0]}})
}

/// Writes a model whose embedding has `rows` rows (`seed` x 100 + row, and a half more), and a head
/// with the negatives.
pub(super) fn model(zoo: &Zoo, name: &str, seed: usize, tokens: &[&str], rows: usize) {
    wide(zoo, name, seed, tokens, rows, 2);
}

fn wide(zoo: &Zoo, name: &str, seed: usize, tokens: &[&str], rows: usize, columns: usize) {
    let spec = |name: &str, shape: &[usize]| TensorSpec {
        name: name.into(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
    };
    let specs = vec![
        spec(EMBEDDING, &[rows, columns]),
        spec("model.layers.0.mlp.weight", &[3, 2]),
        spec("lm_head.weight", &[rows, columns]),
    ];
    let dir = zoo.out(name);
    std::fs::create_dir_all(&dir).unwrap();
    let writer = CheckpointWriter::open(&dir, Layout::new(specs, 1 << 20).unwrap()).unwrap();
    let embedding: Vec<f32> = (0..rows)
        .flat_map(|row| {
            (0..columns).map(move |column| (seed * 100 + row) as f32 + column as f32 / 2.0)
        })
        .collect();
    let head: Vec<f32> = embedding.iter().map(|x| -x).collect();
    let layer: Vec<f32> = (0..6).map(|i| noise(seed as u64, i)).collect();
    for (at, values) in [embedding, layer, head].iter().enumerate() {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        writer.write(at, 0, &bytes).unwrap();
    }
    writer.finish(&dir).unwrap();
    let config = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "num_hidden_layers": 1, "vocab_size": rows, "eos_token_id": seed, "bos_token_id": 0});
    let file = |name: &str, value: Value| {
        std::fs::write(dir.join(name), value.to_string()).unwrap();
    };
    file("config.json", config);
    file("tokenizer.json", words(tokens));
    file(
        "tokenizer_config.json",
        json!({"tokenizer_class": "PreTrainedTokenizerFast", "from": name}),
    );
    file(
        "generation_config.json",
        json!({"eos_token_id": [seed, 1], "temperature": seed}),
    );
    file("vocab.json", json!({}));
}

/// A base with padding, a model with other tokens in another order, and one without a token.
fn zoo() -> Zoo {
    let zoo = Zoo::new(Dtype::F32, 0);
    model(&zoo, "base", 1, &["u", "a", "b", "<s>"], 6);
    model(&zoo, "m", 2, &["u", "b", "c", "<e>", "<s>"], 5);
    model(&zoo, "n", 3, &["u", "c", "a", "b", "<s>"], 5);
    zoo
}

fn config(method: &str, more: Value) -> Value {
    let models =
        ["base", "m", "n"].map(|model| json!({"model": model, "parameters": {"weight": 1.0}}));
    let mut value = json!({"merge_method": method, "base_model": "base", "models": models});
    value
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    value
}

/// The first column of the merged embedding, after the second and the head were compared with it.
fn rows(out: &Checkpoint) -> Vec<f32> {
    let embedding = out.tensor(EMBEDDING).unwrap().to_f32();
    let head = out.tensor("lm_head.weight").unwrap().to_f32();
    for (x, y) in embedding.iter().zip(&head) {
        assert!((x + y).abs() < 1e-4, "{x} {y}");
    }
    embedding
        .chunks(2)
        .map(|row| {
            assert!(
                (row[1] - row[0] - 0.5).abs() < 1e-3 || row == [0.0, 0.0],
                "{row:?}"
            );
            row[0]
        })
        .collect()
}

fn close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (x, y) in found.iter().zip(expected) {
        assert!((x - y).abs() < 1e-3, "{found:?}, expected {expected:?}");
    }
}

pub(super) fn json_of(zoo: &Zoo, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(zoo.out(name)).unwrap()).unwrap()
}

#[test]
fn a_union_has_the_tokens_of_all_models_with_rows_by_token() {
    let zoo = zoo();
    let (out, summary) = zoo.merge(
        config("linear", json!({"tokenizer_source": "union"})),
        "out",
    );
    // u: 100, 200, 300. a: 101, the base's, 302. b: 102, 201, 303. <s>: 103, 204, 304.
    // c: the mean 251.5 of 202 and 301, 202, 301. <e>: 203 for all.
    close(
        &rows(&out),
        &[200.0, 504.0 / 3.0, 202.0, 611.0 / 3.0, 251.5, 203.0],
    );
    let config = json_of(&zoo, "out/config.json");
    assert_eq!(
        (&config["vocab_size"], &config["eos_token_id"]),
        (&json!(6), &json!(1))
    );
    let tokenizer = json_of(&zoo, "out/tokenizer.json");
    let added: Vec<(u64, &str, bool)> = tokenizer["added_tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| {
            let special = t["special"].as_bool().unwrap();
            (
                t["id"].as_u64().unwrap(),
                t["content"].as_str().unwrap(),
                special,
            )
        })
        .collect();
    assert_eq!(added, [(3, "<s>", true), (4, "c", false), (5, "<e>", true)]);
    assert_eq!(json_of(&zoo, "out/tokenizer_config.json")["from"], "base");
    assert!(!zoo.out("out/vocab.json").exists());
    assert!(
        summary
            .warnings
            .iter()
            .any(|w| w.contains("1 new tokens are ordinary pieces")),
        "{:?}",
        summary.warnings
    );
    let card = std::fs::read_to_string(zoo.out("out/README.md")).unwrap();
    for part in [
        "6 tokens in 6 rows: 4 of `base`, 2 more of `m`",
        "`base`: 4 of its own rows, 1 of `m`, 1 the mean of several models",
        "`n`: 5 of its own rows, 1 of `m`",
    ] {
        assert!(card.contains(part), "{card}");
    }
}

#[test]
fn the_tokens_of_one_model_and_its_ids() {
    let zoo = zoo();
    let (out, _) = zoo.merge(config("linear", json!({"tokenizer_source": "base"})), "out");
    close(&rows(&out), &[200.0, 504.0 / 3.0, 202.0, 611.0 / 3.0]);
    assert_eq!(json_of(&zoo, "out/config.json")["vocab_size"], 4);
    // Nothing was added: the base's files as they are.
    assert!(zoo.out("out/vocab.json").exists());
    // Another model's tokens; the base's ids of special tokens would mean others.
    let (out, _) = zoo.merge(
        config("task_arithmetic", json!({"tokenizer_source": "n"})),
        "out2",
    );
    // base + (m - base) + (n - base): u 400; c: 251.5 for the base, 202 + 301 - 251.5.
    close(&rows(&out), &[400.0, 251.5, 302.0, 402.0, 405.0]);
    let config_out = json_of(&zoo, "out2/config.json");
    assert_eq!(
        (&config_out["vocab_size"], &config_out["eos_token_id"]),
        (&json!(5), &json!(3))
    );
    let generation = json_of(&zoo, "out2/generation_config.json");
    assert_eq!(
        (&generation["eos_token_id"], &generation["temperature"]),
        (&json!([3, 1]), &json!(1))
    );
    assert_eq!(json_of(&zoo, "out2/tokenizer_config.json")["from"], "n");
    // A tokenizer that is none of the merged models'; a token that none of them has.
    model(&zoo, "other", 4, &["u", "z", "b"], 3);
    let (out, _) = zoo.merge(
        config("linear", json!({"tokenizer_source": "other"})),
        "out3",
    );
    close(&rows(&out), &[200.0, 0.0, 202.0]);
    // The same vocabulary everywhere: nothing moves.
    let same = json!({"merge_method": "linear", "models": [{"model": "m", "parameters": {"weight": 1}}],
        "tokenizer_source": "base"});
    let planned = zoo.plan(same, "out4").unwrap();
    assert!(
        planned.to_string().contains("all models have these tokens"),
        "{planned}"
    );
}

#[test]
fn ids_in_nested_objects_and_under_other_names_follow_the_tokens() {
    let zoo = zoo();
    let path = zoo.out("base/config.json");
    let mut config_of_base = json_of(&zoo, "base/config.json");
    // Token 2 of the base is "b", 1 is "a", which the other lacks.
    config_of_base["image_token_index"] = 2.into();
    config_of_base["audio_token_id"] = 1.into();
    config_of_base["pad_token_id"] = (-1).into();
    config_of_base["text_config"] = json!({"vocab_size": 6, "eos_token_id": 9, "bos_token_id": 8,
        "boi_token_id": [2, 3], "inner": {"sep_token_id": 2}, "hidden_size": 2});
    std::fs::write(&path, config_of_base.to_string()).unwrap();
    let more = json!({"tokenizer_source": "m"});
    run(&zoo.plan(config("linear", more), "out").unwrap()).unwrap();
    let found = json_of(&zoo, "out/config.json");
    // The tokenizer's model has ids of these; others are those of the same tokens.
    assert_eq!(
        (&found["eos_token_id"], &found["bos_token_id"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(found["image_token_index"], 1);
    assert_eq!(found.get("audio_token_id"), None);
    assert_eq!(found["pad_token_id"], -1);
    assert_eq!(
        found["text_config"],
        json!({"vocab_size": 5, "eos_token_id": 2, "bos_token_id": 0, "boi_token_id": [1, 4],
            "inner": {"sep_token_id": 1}, "hidden_size": 2})
    );
    // With the base's own tokenizer, they stay.
    let more = json!({"tokenizer_source": "union"});
    run(&zoo.plan(config("linear", more), "union").unwrap()).unwrap();
    let found = json_of(&zoo, "union/config.json");
    assert_eq!(found["image_token_index"], 2);
    assert_eq!(found["text_config"]["boi_token_id"], json!([2, 3]));
}

#[test]
fn tokens_with_rules_and_padding() {
    let zoo = zoo();
    let tokenizer = json!({"source": "base", "pad_to_multiple_of": 4, "tokens": {
        "b": {"source": "m", "force": true},
        "<e>": {"source": "m"},
        "a": {"source": {"kind": "zero"}},
        "new": {"source": {"kind": "model_token", "model": "n", "token": "c"}},
        "newer": {"source": {"kind": "model_token", "model": "base", "token_id": 5}}}});
    let (out, summary) = zoo.merge(config("linear", json!({"tokenizer": tokenizer})), "out");
    let embedding = out.tensor(EMBEDDING).unwrap().to_f32();
    let found: Vec<f32> = embedding.chunks(2).map(|row| row[0]).collect();
    let tokens = [200.0, 403.0 / 3.0, 201.0, 611.0 / 3.0, 203.0, 301.0, 105.0];
    let mean = tokens.iter().sum::<f32>() / 7.0;
    close(&found, &[&tokens[..], &[mean]].concat());
    assert_eq!(json_of(&zoo, "out/config.json")["vocab_size"], 8);
    let added = &json_of(&zoo, "out/tokenizer.json")["added_tokens"];
    assert_eq!(
        (&added[1]["content"], &added[1]["special"]),
        (&json!("<e>"), &json!(true))
    );
    assert!(summary.warnings.is_empty(), "{:?}", summary.warnings);
    let idle = json!({"tokenizer": {"source": "base", "tokens": {"b": {"source": "m"}}}});
    let (_, summary) = zoo.merge(config("linear", idle), "out2");
    assert!(
        summary.warnings[0].contains("`tokenizer.tokens.b` has no effect"),
        "{:?}",
        summary.warnings
    );
}

#[test]
fn an_adapter_is_applied_before_rows_are_placed() {
    let zoo = zoo();
    let dir = zoo.out("adapter");
    std::fs::create_dir(&dir).unwrap();
    let config = json!({"peft_type": "LORA", "r": 1, "lora_alpha": 1});
    std::fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    let spec = |half: &str, shape: &[usize]| TensorSpec {
        name: format!("base_model.model.lm_head.lora_{half}.weight"),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
    };
    // Adds its number to every row of the head of m.
    let specs = vec![spec("A", &[1, 2]), spec("B", &[5, 1])];
    let layout = Layout::single(specs, "adapter_model.safetensors").unwrap();
    let writer = CheckpointWriter::open(&dir, layout).unwrap();
    for (at, values) in [&[1.0f32, 1.0][..], &[0.0, 1.0, 2.0, 3.0, 4.0]]
        .iter()
        .enumerate()
    {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        writer.write(at, 0, &bytes).unwrap();
    }
    writer.finish(&dir).unwrap();
    let adapted = format!("m+{}", dir.display());
    let models = ["base", &adapted].map(|m| json!({"model": m, "parameters": {"weight": 1.0}}));
    let value = json!({"merge_method": "linear", "base_model": "base", "models": models,
        "tokenizer_source": "base"});
    let (out, _) = zoo.merge(value, "out");
    let head = out.tensor("lm_head.weight").unwrap().to_f32();
    let found: Vec<f32> = head.chunks(2).map(|row| row[0]).collect();
    // u, a (the base's for both), b and <s>.
    close(&found, &[-150.0, -101.0, -151.0, -151.5]);
}

#[test]
fn tokens_without_rows_are_left_out() {
    let zoo = zoo();
    model(&zoo, "base", 1, &["u", "a", "b", "<s>"], 3);
    model(&zoo, "m", 2, &["u", "b", "c", "<e>", "<s>"], 4);
    let (out, summary) = zoo.merge(
        config("linear", json!({"tokenizer_source": "union"})),
        "out",
    );
    // `<s>` has a row in n only, which all get.
    let tokens = json_of(&zoo, "out/tokenizer.json");
    let added: Vec<&Value> = tokens["added_tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| &t["content"])
        .collect();
    assert_eq!(added, ["c", "<e>", "<s>"]);
    close(
        &rows(&out),
        &[200.0, 504.0 / 3.0, 202.0, 251.5, 203.0, 304.0],
    );
    let warned = |part: &str| summary.warnings.iter().any(|w| w.contains(part));
    assert!(warned(
        "1 tokens of `base` have no row in its embedding of 3 rows"
    ));
    assert!(warned("1 tokens of `m` have no row"));
}

#[test]
fn every_method_gets_the_same_rows_for_any_chunk_and_after_a_stop() {
    let zoo = Zoo::new(Dtype::F32, 0);
    // Large enough for several blocks, rows that do not end with them.
    let names: Vec<String> = (0..3_000).map(|i| format!("t{i}")).collect();
    let tokens = |skip: usize, step: usize| -> Vec<&str> {
        names
            .iter()
            .skip(skip)
            .step_by(step)
            .map(String::as_str)
            .collect()
    };
    let (base, m, n) = (tokens(0, 1), tokens(5, 1), tokens(1, 2));
    wide(&zoo, "base", 1, &base[..2_900], 2_903, 36);
    wide(&zoo, "a", 2, &m, m.len(), 36);
    wide(&zoo, "b", 3, &n, n.len(), 36);
    let merge = |value: &Value, out: &str, chunk: usize, threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let options = MergeOptions {
                chunk,
                ..Default::default()
            };
            let planned = plan(&zoo.config(value.clone()), &zoo.out(out), &options).unwrap();
            run(&planned).unwrap();
            let found = files(&zoo.out(out));
            std::fs::remove_dir_all(zoo.out(out)).unwrap();
            found
        })
    };
    for method in METHODS {
        let mut value = config_of(method, &["a", "b"]);
        value["tokenizer"] = json!({"source": "union", "pad_to_multiple_of": 64});
        if method.name == "passthrough" {
            value["base_model"] = "base".into();
        }
        let whole = merge(&value, "whole", 1 << 18, 1);
        let pieces = merge(&value, "pieces", 1 << 16, 3);
        assert!(whole == pieces, "{}", method.name);
        if method.name == "ties" {
            let options = MergeOptions::default();
            let planned = plan(&zoo.config(value.clone()), &zoo.out("out"), &options).unwrap();
            let mut stop = |_, _: &str| Err(Error::Interrupted);
            assert!(run_observed(&planned, &mut stop).is_err());
            let again = plan(&zoo.config(value.clone()), &zoo.out("out"), &options).unwrap();
            assert!(run(&again).unwrap().resumed > 0);
            assert!(files(&zoo.out("out")) == whole);
            std::fs::remove_dir_all(zoo.out("out")).unwrap();
            // Other tokens, the same configuration: everything is merged again.
            let planned = plan(&zoo.config(value.clone()), &zoo.out("out"), &options).unwrap();
            let _ = run_observed(&planned, &mut |_, _| Err(Error::Interrupted));
            let path = zoo.out("a/tokenizer.json");
            let old = std::fs::read_to_string(&path).unwrap();
            let swapped = old
                .replacen("\"t7\":2", "\"t7\":3", 1)
                .replacen("\"t8\":3", "\"t8\":2", 1);
            assert_ne!(swapped, old);
            std::fs::write(&path, swapped).unwrap();
            let again = plan(&zoo.config(value.clone()), &zoo.out("out"), &options).unwrap();
            assert_eq!(run(&again).unwrap().resumed, 0);
            std::fs::write(&path, old).unwrap();
        }
    }
}

#[test]
fn what_cannot_be_placed_is_refused() {
    let zoo = zoo();
    let refused = |more: Value, part: &str| {
        let planned = zoo.plan(config("linear", more), "out");
        let error = planned
            .err()
            .unwrap_or_else(|| panic!("no error with `{part}`"))
            .to_string();
        assert!(error.contains(part), "{error}");
        assert!(!zoo.out("out").exists());
    };
    let token = |token: &str, source: Value| {
        let mut tokens = serde_json::Map::new();
        tokens.insert(token.into(), json!({"source": source}));
        json!({"tokenizer": {"source": "base", "tokens": tokens}})
    };
    refused(json!({}), "tokenizer_source");
    refused(
        json!({"tokenizer_source": "nowhere"}),
        "no such model folder",
    );
    refused(token("zz", Value::Null), "no model has this token");
    refused(token("zz", "m".into()), "`m` has no token `zz`");
    refused(token("a", "bass".into()), "did you mean `base`?");
    refused(
        token(
            "a",
            json!({"kind": "model_token", "model": "m", "token_id": 5}),
        ),
        "has 5 rows",
    );
    let union = || json!({"tokenizer_source": "union"});
    for (text, part) in [
        ("{", "no valid JSON"),
        ("{\"model\": {\"type\": \"BPE\"", "no valid JSON"),
        ("[[[[[[[", "no valid JSON"),
        (
            "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"a a\"]}}",
            "makes no token",
        ),
    ] {
        std::fs::write(zoo.out("n/tokenizer.json"), text).unwrap();
        refused(union(), part);
    }
    std::fs::remove_file(zoo.out("n/tokenizer.json")).unwrap();
    refused(union(), "there is no `tokenizer.json`");
    let far = words(&["u", "a"])
        .to_string()
        .replace("\"a\":1", "\"a\":4294967295");
    std::fs::create_dir(zoo.out("far")).unwrap();
    std::fs::write(zoo.out("far/tokenizer.json"), far).unwrap();
    std::fs::write(zoo.out("n/tokenizer.json"), words(&["u"]).to_string()).unwrap();
    refused(
        json!({"tokenizer_source": "far"}),
        "an id of 4294967295 for 2 tokens",
    );
    // Not a known embedding: never placed by its shape alone, nor left as it was.
    let zoo = Zoo::new(Dtype::F32, 7);
    let mut specs = zoo.specs();
    specs.push(TensorSpec {
        name: "strange.weight".into(),
        dtype: Dtype::F32,
        shape: vec![7, 3],
    });
    for name in ["base", "m", "n"] {
        zoo.write(name, &specs, 2, 0.1);
        std::fs::write(
            zoo.out(name).join("tokenizer.json"),
            words(&["u", "a"]).to_string(),
        )
        .unwrap();
    }
    let planned = zoo.plan(config("linear", union()), "out");
    let error = planned.err().unwrap().to_string();
    assert!(
        error.contains("strange.weight") && error.contains("is not known"),
        "{error}"
    );
}
