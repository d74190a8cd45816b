//! Tables with a row for each token: two vocabularies in a stack, embeddings of every layer.

use std::fs;

use safetensors::tensor::{Dtype as Stored, TensorView, serialize};
use serde_json::{Value, json};

use super::fixtures::Zoo;
use super::vocabularies::{json_of, model, words};
use crate::checkpoint::Checkpoint;
use crate::tensors::Dtype;

fn stacked(models: [&str; 2], more: Value) -> Value {
    let slices = models.map(|m| json!({"sources": [{"model": m, "layer_range": [0, 1]}]}));
    let mut value = json!({"merge_method": "passthrough", "slices": slices});
    let more = more.as_object().unwrap().clone();
    value.as_object_mut().unwrap().extend(more);
    value
}

#[test]
fn a_stack_of_two_vocabularies_is_refused_or_has_one() {
    let zoo = Zoo::new(Dtype::F32, 0);
    model(&zoo, "a", 1, &["u", "a", "b", "<s>"], 4);
    model(&zoo, "b", 2, &["u", "b", "c", "a", "<s>"], 5);
    for [first, second, rows, others] in [["a", "b", "4", "5"], ["b", "a", "5", "4"]] {
        let error = zoo.plan(stacked([first, second], json!({})), "out").err();
        let error = error.unwrap();
        assert_eq!(error.exit_code(), 2);
        let error = error.to_string();
        for part in [
            format!("`model.embed_tokens.weight` of `{first}` has {rows} rows"),
            format!("`lm_head.weight` of `{second}` has {others}"),
            "tokenizer: { source: base }".to_owned(),
        ] {
            assert!(error.contains(&part), "{error}");
        }
        assert!(!zoo.out("out").exists());
    }
    // The remedy: the first model's tokens, with the second one's rows for them.
    for (source, rows) in [("base", 4), ("union", 5), ("b", 5)] {
        let value = stacked(["a", "b"], json!({"tokenizer": {"source": source}}));
        let folder = format!("out-{source}");
        let (out, _) = zoo.merge(value, &folder);
        for table in ["model.embed_tokens.weight", "lm_head.weight"] {
            assert_eq!(out.info(table).unwrap().shape, [rows, 2], "{source}");
        }
        let config = json_of(&zoo, &format!("{folder}/config.json"));
        assert_eq!(
            (&config["vocab_size"], &config["num_hidden_layers"]),
            (&json!(rows), &json!(2))
        );
        if source == "base" {
            let head = out.tensor("lm_head.weight").unwrap().to_f32();
            // u, a, b, <s> are rows 0, 3, 1, 4 of `b`.
            let first: Vec<f32> = head.chunks(2).map(|row| row[0]).collect();
            assert_eq!(first, [-200.0, -203.0, -201.0, -204.0]);
        }
    }
    // Layers between may come from anywhere, and no table of theirs is told of.
    let slices = ["a", "b", "a"];
    let slices = slices.map(|m| json!({"sources": [{"model": m, "layer_range": [0, 1]}]}));
    let value = json!({"merge_method": "passthrough", "slices": slices});
    assert!(zoo.plan(value, "between").unwrap().warnings.is_empty());
}

/// A model with an embedding of `rows` rows and one of every layer with `short` rows: row r of
/// model `seed` holds 100 seed + r.
fn with_short_table(zoo: &Zoo, name: &str, seed: usize, tokens: &[&str], short: usize) {
    let dir = zoo.out(name);
    fs::create_dir_all(&dir).unwrap();
    let table = |rows: usize| -> Vec<u8> {
        let values = (0..rows).flat_map(|row| [(100 * seed + row) as f32; 2]);
        values.flat_map(f32::to_le_bytes).collect()
    };
    let (long, small, layer) = (table(tokens.len()), table(short), table(1));
    let view = |rows: usize, bytes| TensorView::new(Stored::F32, vec![rows, 2], bytes).unwrap();
    let tensors = [
        (EMBEDDING, view(tokens.len(), &long)),
        (PER_LAYER, view(short, &small)),
        ("model.language_model.layers.0.w.weight", view(1, &layer)),
    ];
    fs::write(
        dir.join("model.safetensors"),
        serialize(tensors, None).unwrap(),
    )
    .unwrap();
    let config = json!({"architectures": ["X"], "text_config": {"num_hidden_layers": 1,
        "vocab_size": tokens.len(), "vocab_size_per_layer_input": short}});
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    fs::write(dir.join("tokenizer.json"), words(tokens).to_string()).unwrap();
}

const EMBEDDING: &str = "model.language_model.embed_tokens.weight";
const PER_LAYER: &str = "model.language_model.embed_tokens_per_layer.weight";

fn first_column(out: &Checkpoint, name: &str) -> Vec<f32> {
    let values = out.tensor(name).unwrap().to_f32();
    values.chunks(2).map(|row| row[0]).collect()
}

#[test]
fn embeddings_of_every_layer_are_placed_by_token_though_they_are_shorter() {
    let zoo = Zoo::new(Dtype::F32, 0);
    with_short_table(&zoo, "a", 1, &["u", "x", "y", "z"], 3);
    with_short_table(&zoo, "b", 2, &["u", "y", "z", "x"], 3);
    let value = |source: &str| {
        let models = ["a", "b"].map(|m| json!({"model": m, "parameters": {"weight": 0.5}}));
        json!({"merge_method": "linear", "models": models, "tokenizer_source": source})
    };
    let (out, _) = zoo.merge(value("base"), "out");
    assert_eq!(first_column(&out, EMBEDDING), [150.0, 152.0, 151.5, 152.5]);
    // z has no row in `a`, x none in `b`: their models read row 0.
    let mean = |a: f32, b: f32| (a + b) / 2.0;
    let expected = [
        mean(100.0, 200.0),
        mean(101.0, 200.0),
        mean(102.0, 201.0),
        mean(100.0, 202.0),
    ];
    assert_eq!(first_column(&out, PER_LAYER), expected);
    let config = json_of(&zoo, "out/config.json");
    assert_eq!(config["text_config"]["vocab_size_per_layer_input"], 4);
    assert_eq!(config["text_config"]["vocab_size"], 4);

    // The same tokens in the same order: the table keeps its length.
    with_short_table(&zoo, "c", 3, &["u", "x", "y", "z"], 3);
    let models = ["a", "c"].map(|m| json!({"model": m, "parameters": {"weight": 0.5}}));
    let same = json!({"merge_method": "linear", "models": models, "tokenizer_source": "base"});
    let (out, _) = zoo.merge(same, "same");
    assert_eq!(first_column(&out, PER_LAYER), [200.0, 201.0, 202.0]);
    let config = json_of(&zoo, "same/config.json");
    assert_eq!(config["text_config"]["vocab_size_per_layer_input"], 3);
}
