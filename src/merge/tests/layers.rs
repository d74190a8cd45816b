//! Stacks of layers, heads, and tensors that are no weights.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::fixtures::{noise, open};
use crate::checkpoint::{Checkpoint, CheckpointWriter, Layout};
use crate::error::Result;
use crate::merge::{MergeConfig, MergeOptions, MergeSummary, plan, run};
use crate::tensors::{Dtype, TensorSpec};

/// A folder of models, each with tensors of its own.
struct Models {
    dir: tempfile::TempDir,
}

impl Models {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Writes a model whose tensors are filled by `seed`; a tensor may be a copy of another.
    fn write(&self, name: &str, config: &Value, tensors: &[(&str, &[usize], u64)]) {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
        std::fs::write(dir.join("tokenizer.json"), "{}").unwrap();
        let specs = tensors.iter().map(|(name, shape, _)| TensorSpec {
            name: (*name).to_owned(),
            dtype: Dtype::F32,
            shape: shape.to_vec(),
        });
        let specs: Vec<TensorSpec> = specs.collect();
        let writer = Layout::new(specs.clone(), 1 << 20).unwrap();
        let writer = CheckpointWriter::open(&dir, writer).unwrap();
        for (at, (spec, (.., seed))) in specs.iter().zip(tensors).enumerate() {
            let value = |i| match *seed {
                INFINITE => f32::NEG_INFINITY,
                seed => noise(seed, i),
            };
            let values: Vec<f32> = (0..spec.elements()).map(value).collect();
            writer.write(at, 0, bytemuck::cast_slice(&values)).unwrap();
        }
        writer.finish(&dir).unwrap();
    }

    fn merge(&self, config: Value) -> Result<(Merged, MergeSummary)> {
        let config = MergeConfig::from_value(&config, self.dir.path())?;
        let dir = tempfile::tempdir().unwrap();
        let plan = plan(&config, &dir.path().join("out"), &MergeOptions::default())?;
        let summary = run(&plan)?;
        let config = std::fs::read(dir.path().join("out/config.json")).unwrap();
        let merged = Merged {
            tensors: values(&open(&dir)),
            config: serde_json::from_slice(&config).unwrap(),
            plan: plan.to_string(),
        };
        Ok((merged, summary))
    }

    fn average(&self, models: [&str; 2]) -> Result<Merged> {
        let merged = self.merge(json!({"merge_method": "linear", "models": [
            {"model": models[0], "parameters": {"weight": 0.5}},
            {"model": models[1], "parameters": {"weight": 0.5}}]}));
        merged.map(|(merged, _)| merged)
    }

    fn stack(&self, model: &str, ranges: &[(usize, usize)]) -> Result<Merged> {
        let slices = ranges.iter().map(
            |(first, end)| json!({"sources": [{"model": model, "layer_range": [first, end]}]}),
        );
        let slices: Vec<Value> = slices.collect();
        let merged = self.merge(json!({"merge_method": "passthrough", "slices": slices}));
        merged.map(|(merged, _)| merged)
    }
}

/// A seed whose tensors are minus infinity.
const INFINITE: u64 = 1 << 40;

/// What a merge wrote.
struct Merged {
    tensors: BTreeMap<String, Vec<f32>>,
    config: Value,
    plan: String,
}

fn values(checkpoint: &Checkpoint) -> BTreeMap<String, Vec<f32>> {
    let names = checkpoint.tensors().map(|tensor| tensor.name.clone());
    names
        .map(|name| (name.clone(), checkpoint.tensor(&name).unwrap().to_f32()))
        .collect()
}

fn filled(seed: u64, count: usize) -> Vec<f32> {
    (0..count).map(|i| noise(seed, i)).collect()
}

fn mean(a: u64, b: u64, count: usize) -> Vec<f32> {
    let pairs = filled(a, count).into_iter().zip(filled(b, count));
    pairs.map(|(a, b)| 0.5 * a + 0.5 * b).collect()
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

fn llama(more: Value) -> Value {
    let mut config = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "num_hidden_layers": 1});
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// A model of one layer, with a head or without.
fn with_head(models: &Models, name: &str, config: &Value, embedding: u64, head: Option<u64>) {
    let mut tensors: Vec<(&str, &[usize], u64)> = vec![
        (EMBEDDING, &[3, 2], embedding),
        ("model.layers.0.w", &[2], 9),
    ];
    tensors.extend(head.map(|seed| (HEAD, &[3usize, 2][..], seed)));
    models.write(name, config, &tensors);
}

#[test]
fn a_head_that_differs_is_kept_in_spite_of_the_configuration() {
    let tied = llama(json!({"tie_word_embeddings": true}));
    let absent = llama(json!({}));
    let models = Models::new();
    with_head(&models, "tied", &tied, 1, None);
    with_head(&models, "copy", &tied, 2, Some(2));
    with_head(&models, "own", &tied, 3, Some(4));
    with_head(&models, "absent", &absent, 5, None);
    with_head(&models, "absent-own", &absent, 6, Some(7));
    with_head(
        &models,
        "untied",
        &llama(json!({"tie_word_embeddings": false})),
        8,
        None,
    );
    // Both are tied: one tensor.
    for pair in [["tied", "copy"], ["copy", "tied"], ["copy", "copy"]] {
        let pair = if pair[0] == pair[1] {
            ["copy", "tied"]
        } else {
            pair
        };
        let merged = models.average(pair).unwrap();
        assert_eq!(merged.tensors[EMBEDDING], mean(1, 2, 6));
        assert!(!merged.tensors.contains_key(HEAD));
        assert_eq!(merged.config["tie_word_embeddings"], true);
    }
    // One has a head of its own: the other's is its embedding.
    for (pair, embeddings, heads) in [
        (["tied", "own"], (1, 3), (1, 4)),
        (["own", "tied"], (3, 1), (4, 1)),
        (["copy", "own"], (2, 3), (2, 4)),
        (["own", "copy"], (3, 2), (4, 2)),
        (["absent", "absent-own"], (5, 6), (5, 7)),
        (["absent-own", "absent"], (6, 5), (7, 5)),
        (["absent", "own"], (5, 3), (5, 4)),
    ] {
        let merged = models.average(pair).unwrap();
        assert_eq!(
            merged.tensors[EMBEDDING],
            mean(embeddings.0, embeddings.1, 6)
        );
        assert_eq!(merged.tensors[HEAD], mean(heads.0, heads.1, 6), "{pair:?}");
        // Where the reference says nothing and has a head of its own, there is nothing to say.
        let kept = pair[0] == "absent-own";
        let stated = if kept { Value::Null } else { false.into() };
        assert_eq!(merged.config["tie_word_embeddings"], stated, "{pair:?}");
        let said = merged
            .plan
            .contains("`own` ties head and embedding, which differ");
        assert_eq!(said, pair.contains(&"own"), "{}", merged.plan);
    }
    // A model that says that it is not tied lacks a tensor.
    let error = models.average(["own", "untied"]).err().unwrap();
    assert!(error.to_string().contains(HEAD), "{error}");
}

#[test]
fn the_embedding_may_be_stored_as_the_head() {
    let tied = llama(json!({"tie_word_embeddings": true}));
    let models = Models::new();
    with_head(&models, "tied", &tied, 1, None);
    models.write(
        "head",
        &tied,
        &[(HEAD, &[3, 2], 2), ("model.layers.0.w", &[2], 9)],
    );
    let merged = models.average(["tied", "head"]).unwrap();
    assert_eq!(merged.tensors[EMBEDDING], mean(1, 2, 6));
}

#[test]
fn names_may_lack_the_prefix() {
    let config = llama(json!({"tie_word_embeddings": true}));
    let models = Models::new();
    with_head(&models, "whole", &config, 1, None);
    let trunk: [(&str, &[usize], u64); 2] =
        [("embed_tokens.weight", &[3, 2], 2), ("layers.0.w", &[2], 8)];
    models.write("trunk", &config, &trunk);
    let merged = models.average(["whole", "trunk"]).unwrap();
    assert_eq!(merged.tensors[EMBEDDING], mean(1, 2, 6));
    assert_eq!(merged.tensors["model.layers.0.w"], mean(9, 8, 2));
    let merged = models.average(["trunk", "whole"]).unwrap();
    assert_eq!(merged.tensors["embed_tokens.weight"], mean(1, 2, 6));
    assert_eq!(merged.tensors.len(), 2);
}

#[test]
fn buffers_are_no_weights() {
    let config = json!({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_layer": 1});
    let plain: [(&str, &[usize], u64); 2] = [
        ("wte.weight", &[3, 2], 1),
        ("h.0.attn.c_attn.bias", &[6], 2),
    ];
    let models = Models::new();
    models.write("plain", &config, &plain);
    let buffers: [(&str, &[usize], u64); 2] = [
        ("h.0.attn.bias", &[1, 1, 4, 4], 5),
        ("h.0.attn.masked_bias", &[], INFINITE),
    ];
    models.write("buffers", &config, &[&plain[..], &buffers].concat());
    for pair in [
        ["plain", "buffers"],
        ["buffers", "plain"],
        ["buffers", "buffers2"],
    ] {
        models.write("buffers2", &config, &[&plain[..], &buffers].concat());
        let merged = models.average(pair).unwrap();
        assert_eq!(merged.tensors.len(), 2, "{pair:?}");
        let said = merged
            .plan
            .contains("2 buffers that models compute themselves");
        assert_eq!(said, pair[0] == "buffers", "{}", merged.plan);
    }
}

#[test]
fn layers_beyond_the_counted_ones_are_merged_if_all_have_them() {
    let config = llama(json!({"num_nextn_predict_layers": 1}));
    let models = Models::new();
    let plain: [(&str, &[usize], u64); 2] =
        [(EMBEDDING, &[3, 2], 1), ("model.layers.0.w", &[2], 2)];
    let beyond: [(&str, &[usize], u64); 1] = [("model.layers.1.eh_proj.weight", &[2], 3)];
    models.write("plain", &config, &plain);
    models.write("a", &config, &[&plain[..], &beyond].concat());
    models.write(
        "b",
        &config,
        &[&plain[..], &[("model.layers.1.eh_proj.weight", &[2], 4)]].concat(),
    );
    let merged = models.average(["a", "b"]).unwrap();
    assert_eq!(
        merged.tensors["model.layers.1.eh_proj.weight"],
        mean(3, 4, 2)
    );
    assert_eq!(merged.config["num_nextn_predict_layers"], 1);
    for pair in [["a", "plain"], ["plain", "a"]] {
        let merged = models.average(pair).unwrap();
        assert_eq!(merged.tensors.len(), 2);
        assert_eq!(merged.config["num_nextn_predict_layers"], 0);
        assert!(
            merged
                .plan
                .contains("1 tensors of `a` in layers beyond the 1 of config.json"),
            "{}",
            merged.plan
        );
    }
    let merged = models.stack("a", &[(0, 1), (0, 1)]).unwrap();
    assert_eq!(merged.config["num_nextn_predict_layers"], 0);
    assert_eq!(merged.config["num_hidden_layers"], 2);
    let names: Vec<_> = merged.tensors.keys().map(String::as_str).collect();
    assert_eq!(names, [EMBEDDING, "model.layers.0.w", "model.layers.1.w"]);
}

#[test]
fn towers_stay_as_they_are() {
    let config = json!({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
        "text_config": {"num_hidden_layers": 2, "layer_types": ["a", "b"]},
        "vision_config": {"num_hidden_layers": 3}});
    let models = Models::new();
    models.write(
        "m",
        &config,
        &[
            ("model.language_model.embed_tokens.weight", &[3, 2], 1),
            ("model.language_model.layers.0.w", &[2], 2),
            ("model.language_model.layers.1.w", &[2], 3),
            ("model.vision_tower.encoder.layers.0.w", &[2], 4),
            ("model.vision_tower.encoder.layers.1.w", &[2], 5),
            ("model.vision_tower.encoder.layers.2.w", &[2], 6),
        ],
    );
    let merged = models.stack("m", &[(1, 2), (0, 2)]).unwrap();
    let layer = |number: usize| &merged.tensors[&format!("model.language_model.layers.{number}.w")];
    assert_eq!(
        [layer(0), layer(1), layer(2)],
        [&filled(3, 2), &filled(2, 2), &filled(3, 2)]
    );
    assert_eq!(
        merged.tensors["model.vision_tower.encoder.layers.2.w"],
        filled(6, 2)
    );
    assert_eq!(merged.tensors.len(), 7);
    assert_eq!(
        merged.config["text_config"],
        json!({"num_hidden_layers": 3, "layer_types": ["b", "a", "b"]})
    );
    assert_eq!(
        merged.config["vision_config"],
        json!({"num_hidden_layers": 3})
    );
    // Whole models, whose tower is higher than the language model.
    models.write(
        "n",
        &config,
        &[
            ("model.language_model.embed_tokens.weight", &[3, 2], 11),
            ("model.language_model.layers.0.w", &[2], 12),
            ("model.language_model.layers.1.w", &[2], 13),
            ("model.vision_tower.encoder.layers.0.w", &[2], 14),
            ("model.vision_tower.encoder.layers.1.w", &[2], 15),
            ("model.vision_tower.encoder.layers.2.w", &[2], 16),
        ],
    );
    let merged = models.average(["m", "n"]).unwrap();
    assert_eq!(
        merged.tensors["model.vision_tower.encoder.layers.2.w"],
        mean(6, 16, 2)
    );
    assert_eq!(merged.config["text_config"], config["text_config"]);
}

#[test]
fn encoder_and_decoder_are_cut_together_or_not_at_all() {
    const TABLE: &str = "layer.0.SelfAttention.relative_attention_bias.weight";
    let config = |layers: usize, decoder: usize| {
        json!({"architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5", "is_encoder_decoder": true, "num_layers": layers, "num_decoder_layers": decoder})
    };
    let (encoder, decoder) = (
        format!("encoder.block.0.{TABLE}"),
        format!("decoder.block.0.{TABLE}"),
    );
    let tensors: [(&str, &[usize], u64); 7] = [
        ("shared.weight", &[3, 2], 1),
        (&encoder, &[2], 2),
        (&decoder, &[2], 3),
        ("encoder.block.0.layer.0.w", &[2], 4),
        ("encoder.block.1.layer.0.w", &[2], 5),
        ("decoder.block.0.layer.0.w", &[2], 6),
        ("decoder.block.1.layer.0.w", &[2], 7),
    ];
    let models = Models::new();
    models.write("even", &config(2, 2), &tensors);
    models.write("uneven", &config(2, 1), &tensors[..6]);
    let merged = models.stack("even", &[(1, 2), (0, 2)]).unwrap();
    // The table of positions stays in the first layer.
    assert_eq!(merged.tensors[&encoder], filled(2, 2));
    assert_eq!(merged.tensors[&decoder], filled(3, 2));
    assert_eq!(merged.tensors["decoder.block.0.layer.0.w"], filled(7, 2));
    assert_eq!(merged.tensors["decoder.block.1.layer.0.w"], filled(6, 2));
    assert_eq!(merged.tensors.len(), 9);
    assert_eq!(
        merged.config,
        config(3, 3)
            .as_object()
            .map(|map| {
                let mut map = map.clone();
                map.insert("torch_dtype".into(), "float32".into());
                Value::Object(map)
            })
            .unwrap()
    );
    let error = models.stack("uneven", &[(0, 1)]).err().unwrap().to_string();
    assert!(error.contains("`decoder.block.` has 1 layers"), "{error}");
    let whole = models.average(["uneven", "uneven2"]);
    assert!(whole.is_err());
    models.write("uneven2", &config(2, 1), &tensors[..6]);
    let merged = models.average(["uneven", "uneven2"]).unwrap();
    assert_eq!(merged.tensors.len(), 6);
    assert_eq!(merged.config["num_decoder_layers"], 1);
}

#[test]
fn configurations_of_the_cases_come_through_as_python_wrote_them() {
    let shared = std::env::var("FUSELM_TEST_SHARED").map(std::path::PathBuf::from);
    let shared = shared.unwrap_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    let Ok(cases) = std::fs::read_dir(shared.join("cases/merge")) else {
        return eprintln!("skipped: no cases/merge in {}", shared.display());
    };
    for case in cases {
        let path = case.unwrap().path().join("config.json");
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        let models = Models::new();
        let layers = text.matches("num_hidden_layers").count();
        assert!(layers > 0, "{}", path.display());
        for (name, seed) in [("base", 1), ("tuned", 2)] {
            models.write(
                name,
                &json!({}),
                &[
                    ("backbone.embeddings.weight", &[3, 2], seed),
                    ("backbone.layers.0.w", &[2], seed),
                    ("backbone.layers.1.w", &[2], seed),
                ],
            );
            std::fs::write(models.dir.path().join(name).join("config.json"), &text).unwrap();
        }
        let out = tempfile::tempdir().unwrap();
        let config = MergeConfig::from_value(
            &json!({"merge_method": "linear", "parameters": {"weight": 1},
            "models": ["base", "tuned"]}),
            models.dir.path(),
        )
        .unwrap();
        run(&plan(&config, &out.path().join("out"), &MergeOptions::default()).unwrap()).unwrap();
        let written = std::fs::read_to_string(out.path().join("out/config.json")).unwrap();
        for word in ["Infinity", "NaN"] {
            let count = |text: &str| text.matches(word).count();
            assert_eq!(count(&written), count(&text), "{written}");
        }
        assert!(!written.contains("\\u0000"), "{written}");
    }
}
