//! What a merge leaves on disk.

use serde_json::{Value, json};

use super::fixtures::{config_of, files, zoo};
use crate::checkpoint::Checkpoint;
use crate::error::Error;
use crate::merge::methods::METHODS;
use crate::merge::{MergeOptions, plan, run, run_observed};
use crate::tensors::Dtype;

#[test]
fn an_interrupted_merge_continues_to_the_same_files() {
    let zoo = zoo(Dtype::BF16, 3000);
    let config = zoo.config(config_of(&METHODS[0], &["a", "b", "c"]));
    let options = MergeOptions {
        out_shard_size: 100_000,
        ..Default::default()
    };
    // One thread merges the tensors in order.
    let one = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    let whole = plan(&config, &zoo.out("whole"), &options).unwrap();
    let expected = run(&whole).unwrap();
    for stop in 0..7 {
        let out = zoo.out("broken");
        let broken = plan(&config, &out, &options).unwrap();
        let mut observer = |at, _: &str| match at == stop {
            true => Err(Error::Interrupted),
            false => Ok(()),
        };
        let stopped = one.install(|| run_observed(&broken, &mut observer));
        assert!(matches!(stopped, Err(Error::Interrupted)));
        assert!(!out.exists());
        // What the tensor after the last finished one had written may be anything, and the
        // journal may end in the middle of a line.
        let journal = broken.workplace().join("merge-journal.jsonl");
        let mut text = std::fs::read_to_string(&journal).unwrap();
        text += "{\"tensor\":6,\"outc";
        std::fs::write(&journal, text).unwrap();
        let again = plan(&config, &out, &options).unwrap();
        let mut merged = Vec::new();
        let mut observer = |at, _: &str| {
            merged.push(at);
            Ok(())
        };
        let summary = one.install(|| run_observed(&again, &mut observer)).unwrap();
        assert_eq!(merged, (stop + 1..7).collect::<Vec<_>>());
        assert_eq!(summary.resumed, stop + 1);
        assert_eq!(summary.stats, expected.stats);
        assert!(files(&out) == files(&zoo.out("whole")));
        assert!(!again.workplace().exists());
        std::fs::remove_dir_all(&out).unwrap();
    }
    // Another configuration starts over.
    let broken = plan(&config, &zoo.out("broken"), &options).unwrap();
    let _ = run_observed(&broken, &mut |_, _| Err(Error::Interrupted));
    let other = zoo.config(config_of(&METHODS[1], &["a", "b", "c"]));
    let summary = run(&plan(&other, &zoo.out("broken"), &options).unwrap()).unwrap();
    assert_eq!(summary.resumed, 0);
}

#[test]
fn slices_stack_layers_and_the_config_follows() {
    let zoo = zoo(Dtype::F32, 8);
    let value = json!({"merge_method": "passthrough", "slices": [
        {"sources": [{"model": "a", "layer_range": [0, 2]}]},
        {"sources": [{"model": "b", "layer_range": [1, 2], "parameters": {"scale":
            [{"filter": "mlp", "value": 0.0}, {"value": 1.0}]}}]}]});
    let (out, _) = zoo.merge(value, "out");
    let (a, b) = (zoo.open("a"), zoo.open("b"));
    let read = |c: &Checkpoint, name: &str| c.tensor(name).unwrap().to_f32();
    let same = |x: &str, c: &Checkpoint, y: &str| assert_eq!(read(&out, x), read(c, y));
    same("model.embed_tokens.weight", &a, "model.embed_tokens.weight");
    same("model.layers.1.mlp.weight", &a, "model.layers.1.mlp.weight");
    same(
        "model.layers.2.norm.weight",
        &b,
        "model.layers.1.norm.weight",
    );
    same("lm_head.weight", &b, "lm_head.weight");
    assert!(
        read(&out, "model.layers.2.mlp.weight")
            .iter()
            .all(|x| *x == 0.0)
    );
    let text = std::fs::read_to_string(zoo.out("out/config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(config["num_hidden_layers"], 3);
    assert!(zoo.out("out/tokenizer.json").exists());
    let card = std::fs::read_to_string(zoo.out("out/README.md")).unwrap();
    assert!(card.contains("merge_method: passthrough"), "{card}");
}

#[test]
fn heads_that_differ_are_written_and_the_dtype_is_the_configured_one() {
    let zoo = zoo(Dtype::F32, 8);
    for name in ["base", "a", "b"] {
        let path = zoo.out(name).join("config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let tied = text.replace("{\"arch", "{\"tie_word_embeddings\":true,\"arch");
        std::fs::write(path, tied).unwrap();
    }
    let value = json!({"merge_method": "sce", "base_model": "base", "models": ["a", "b"],
        "dtype": "float32", "out_dtype": "bfloat16"});
    let (out, _) = zoo.merge(value, "out");
    assert_eq!(out.tensor("lm_head.weight").unwrap().dtype, Dtype::BF16);
    assert_eq!(out.tensor("model.norm.weight").unwrap().dtype, Dtype::BF16);
    let text = std::fs::read_to_string(zoo.out("out/config.json")).unwrap();
    assert!(text.contains("\"torch_dtype\": \"bfloat16\""), "{text}");
    assert!(text.contains("\"tie_word_embeddings\": false"), "{text}");
}

#[test]
fn tokenizers_that_differ_are_told_of() {
    let zoo = zoo(Dtype::F32, 8);
    let tokenizer = |name: &str, vocabulary: Value| {
        let text = json!({"model": {"type": "BPE", "vocab": vocabulary}}).to_string();
        std::fs::write(zoo.out(name).join("tokenizer.json"), text).unwrap();
    };
    let value = json!({"merge_method": "varm", "base_model": "base", "models": ["a", "b"]});
    let warnings = |value: &Value| zoo.plan(value.clone(), "out").unwrap().warnings;
    tokenizer("base", json!({"x": 0, "y": 1}));
    tokenizer("a", json!({"y": 1, "x": 0}));
    assert!(warnings(&value).is_empty());
    tokenizer("b", json!({"x": 1, "y": 0}));
    let found = warnings(&value);
    assert!(
        found.len() == 1 && found[0].contains("`base` and `b`"),
        "{found:?}"
    );
}

#[test]
fn the_card_holds_the_configuration() {
    let zoo = zoo(Dtype::F32, 8);
    let value = json!({
        "models": [
            {"model": "a", "parameters": {"weight": [0.0, 1.5], "density": [
                {"filter": "mlp", "value": 0.5}, {"value": 1.0}]}},
            {"model": "b", "parameters": {"weight": 1}},
        ],
        "merge_method": "ties", "parameters": {}, "base_model": "base", "name": "yes: 1.5",
        "chat_template": "{{ a }}\n'x'\n\n", "dtype": null,
    });
    zoo.merge(value.clone(), "out");
    let card = std::fs::read_to_string(zoo.out("out/README.md")).unwrap();
    let (_, yaml) = card.split_once("```yaml\n").unwrap();
    let (yaml, _) = yaml.split_once("\n```\n").unwrap();
    let back: Value = serde_saphyr::from_str(&format!("{yaml}\n")).unwrap();
    assert_eq!(back, value, "{yaml}");
}
