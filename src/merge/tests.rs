use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::methods::{Base, DefaultValue, METHODS};
use super::{MergeConfig, MergeOptions, MergeSummary, plan, run, run_observed};
use crate::error::{Error, Result};
use crate::tensors::{Checkpoint, CheckpointWriter, Dtype, Layout, TensorSpec};

/// Numbers between -1 and 1 from a counter.
fn noise(seed: u64, index: usize) -> f32 {
    let mut x = (seed << 32 | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (((x >> 40) as f32) / (1 << 23) as f32) - 1.0
}

/// A model folder: two layers of a matrix and a vector, an embedding, a norm.
struct Zoo {
    dir: tempfile::TempDir,
    dtype: Dtype,
    /// Rows of the embedding.
    rows: usize,
}

impl Zoo {
    fn new(dtype: Dtype, rows: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, dtype, rows }
    }

    fn specs(&self) -> Vec<TensorSpec> {
        let spec = |name: &str, shape: &[usize]| TensorSpec {
            name: name.into(),
            dtype: self.dtype,
            shape: shape.to_vec(),
        };
        vec![
            spec("model.embed_tokens.weight", &[self.rows, 24]),
            spec("model.layers.0.mlp.weight", &[16, 24]),
            spec("model.layers.0.norm.weight", &[24]),
            spec("model.layers.1.mlp.weight", &[16, 24]),
            spec("model.layers.1.norm.weight", &[24]),
            spec("model.norm.weight", &[24]),
            spec("lm_head.weight", &[self.rows, 24]),
        ]
    }

    /// Writes model `name`: a base of seed 1 plus `scale` times noise of `seed`.
    fn model(&self, name: &str, seed: u64, scale: f32) -> &Self {
        self.write(name, &self.specs(), seed, scale)
    }

    fn write(&self, name: &str, specs: &[TensorSpec], seed: u64, scale: f32) -> &Self {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let config = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
            "num_hidden_layers": 2, "torch_dtype": "float32"});
        std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
        std::fs::write(dir.join("tokenizer.json"), "{}").unwrap();
        let layout = Layout::new(specs.to_vec(), 1 << 20).unwrap();
        let writer = CheckpointWriter::open(&dir, layout).unwrap();
        for (at, tensor) in specs.iter().enumerate() {
            let values: Vec<f32> = (0..tensor.elements())
                .map(|i| noise(1 + at as u64, i) + scale * noise(seed * 100 + at as u64, i))
                .collect();
            let mut bytes = vec![0; tensor.bytes() as usize];
            tensor.dtype.encode(&values, &mut bytes);
            writer.write(at, 0, &bytes).unwrap();
        }
        writer.finish(&dir).unwrap();
        self
    }

    fn config(&self, value: Value) -> MergeConfig {
        MergeConfig::from_value(&value, self.dir.path()).unwrap()
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn merge(&self, value: Value, out: &str) -> (Checkpoint, MergeSummary) {
        let config = self.config(value);
        let plan = plan(&config, &self.out(out), &MergeOptions::default()).unwrap();
        let summary = run(&plan).unwrap();
        (Checkpoint::open(&self.out(out)).unwrap(), summary)
    }

    fn open(&self, name: &str) -> Checkpoint {
        Checkpoint::open(&self.out(name)).unwrap()
    }
}

fn zoo(dtype: Dtype, rows: usize) -> Zoo {
    let zoo = Zoo::new(dtype, rows);
    zoo.model("base", 1, 0.0);
    for (seed, name) in [(2, "a"), (3, "b"), (4, "c")] {
        zoo.model(name, seed, 0.01);
    }
    zoo
}

/// A configuration that every method accepts, over these models.
fn config_of(method: &super::methods::Method, models: &[&str]) -> Value {
    let models = &models[..models.len().min(method.models.1)];
    let mut parameters = serde_json::Map::new();
    for p in method.parameters {
        let value: Value = match (p.name, p.default) {
            ("density", _) => 0.5.into(),
            ("gamma", _) => 0.1.into(),
            ("select_topk", _) => 0.4.into(),
            (_, DefaultValue::Required) => 0.3.into(),
            _ => continue,
        };
        parameters.insert(p.name.into(), value);
    }
    let models: Vec<Value> = models.iter().map(|m| json!({ "model": m })).collect();
    let mut value =
        json!({"merge_method": method.name, "models": models, "parameters": parameters});
    if method.base == Base::Required {
        value["base_model"] = "base".into();
    }
    value
}

fn values(checkpoint: &Checkpoint) -> Vec<f32> {
    let names: Vec<_> = checkpoint.tensors().map(|t| t.name.clone()).collect();
    names
        .iter()
        .flat_map(|name| checkpoint.tensor(name).unwrap().to_f32())
        .collect()
}

fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap() != "README.md")
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect();
    all.sort();
    all
}

#[test]
fn sce_by_hand() {
    // base 0, a = (1, 2, 0, -1), b = (1, -2, 3, 1); τ = 0.5.
    // Variances over {a, b}: 0, 4, 2.25, 1; three are not zero, k = floor(1.5) = 1: position 1.
    // δ' = (0, 2, 0, 0), (0, -2, 0, 0): η = 1/2 each; the sum is 0, its sign is +, so a is kept:
    // normalised 2, else 1.
    let zoo = Zoo::new(Dtype::F32, 1);
    let spec = [TensorSpec {
        name: "model.norm.weight".into(),
        dtype: Dtype::F32,
        shape: vec![4],
    }];
    for (name, values) in [
        ("base", [0.0f32; 4]),
        ("a", [1.0, 2.0, 0.0, -1.0]),
        ("b", [1.0, -2.0, 3.0, 1.0]),
    ] {
        zoo.write(name, &spec, 1, 0.0);
        let layout = Layout::new(spec.to_vec(), 1 << 20).unwrap();
        let writer = CheckpointWriter::open(&zoo.out(name), layout).unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        writer.write(0, 0, &bytes).unwrap();
        // No layers here.
        let config = json!({"model_type": "llama", "num_hidden_layers": 0});
        std::fs::write(zoo.out(name).join("config.json"), config.to_string()).unwrap();
    }
    let sce = |parameters: Value| {
        json!({"merge_method": "sce", "base_model": "base", "models": ["a", "b"],
            "parameters": parameters})
    };
    let (out, summary) = zoo.merge(sce(json!({"select_topk": 0.5})), "o1");
    assert_eq!(values(&out), [0.0, 2.0, 0.0, 0.0]);
    let row = &summary.stats[0];
    assert_eq!(
        (row.coefficient, row.selected_fraction, row.kept_fraction),
        (0.5, 0.25, 0.25)
    );
    assert!((row.delta_norm - 6f64.sqrt()).abs() < 1e-12);
    let (out, _) = zoo.merge(sce(json!({"select_topk": 0.5, "normalize": false})), "o2");
    assert_eq!(values(&out), [0.0, 1.0, 0.0, 0.0]);
    // Fork: all positions move. Σδ = (2, 0, 3, 0): kept a|b, a, b, b.
    let (out, _) = zoo.merge(sce(json!({"select_topk": 0.5, "compat": "fusechat"})), "o3");
    near(&out, [1.0, 2.0, 3.0, 1.0]);
    // τ = 1: η = 6/21, 15/21; position 0: both kept.
    let (out, _) = zoo.merge(sce(json!({})), "o4");
    near(&out, [1.0, 2.0, 3.0, 1.0]);
    // k = 0: the base.
    let (out, _) = zoo.merge(sce(json!({"select_topk": 0.1})), "o5");
    assert_eq!(values(&out), [0.0; 4]);
    // VaRM: (6 a + 15 b) / 21.
    let varm = json!({"merge_method": "varm", "base_model": "base", "models": ["a", "b"]});
    let (out, _) = zoo.merge(varm, "o6");
    near(&out, [1.0, -18.0 / 21.0, 45.0 / 21.0, 9.0 / 21.0]);
}

fn near(checkpoint: &Checkpoint, expected: [f32; 4]) {
    for (x, y) in values(checkpoint).iter().zip(expected) {
        assert!((x - y).abs() < 1e-6, "{x} {y}");
    }
}

#[test]
fn merging_copies_of_the_base_gives_back_the_base() {
    for dtype in [Dtype::F32, Dtype::BF16] {
        let zoo = Zoo::new(dtype, 40);
        for name in ["base", "a", "b", "c"] {
            zoo.model(name, 1, 0.0);
        }
        for method in METHODS {
            let mut value = config_of(method, &["a", "b", "c"]);
            if method.name == "passthrough" {
                value["parameters"] = json!({});
            }
            let (out, _) = zoo.merge(value, method.name);
            let (a, b) = (values(&out), values(&zoo.open("base")));
            // Means of directions are scaled back by a norm: one rounding more.
            let tolerance = match method.name {
                "karcher" | "multislerp" | "nuslerp" => 3e-7,
                _ => 0.0,
            };
            for (x, y) in a.iter().zip(&b) {
                assert!(
                    (x - y).abs() <= tolerance * y.abs(),
                    "{}: {x} {y}",
                    method.name
                );
            }
        }
    }
}

#[test]
fn permuting_the_targets_changes_nothing_beyond_rounding() {
    let zoo = zoo(Dtype::F32, 40);
    for method in METHODS.iter().filter(|m| m.models.1 > 2) {
        let (a, _) = zoo.merge(
            config_of(method, &["a", "b", "c"]),
            &format!("{}1", method.name),
        );
        let (b, _) = zoo.merge(
            config_of(method, &["c", "a", "b"]),
            &format!("{}2", method.name),
        );
        for (x, y) in values(&a).iter().zip(values(&b)) {
            assert!((x - y).abs() <= 1e-6, "{}: {x} {y}", method.name);
        }
    }
}

#[test]
fn one_target_is_returned_and_said_so() {
    let zoo = zoo(Dtype::F32, 40);
    let value = |compat: &str| {
        json!({"merge_method": "sce", "base_model": "base", "models": ["a"],
            "parameters": {"select_topk": 0.1, "compat": compat}})
    };
    let (out, summary) = zoo.merge(value("none"), "o");
    for (x, y) in values(&out).iter().zip(values(&zoo.open("a"))) {
        assert!((x - y).abs() < 1e-6);
    }
    assert!(
        summary.warnings[0].contains("one target"),
        "{:?}",
        summary.warnings
    );
    let (out, _) = zoo.merge(value("mergekit"), "p");
    assert_eq!(values(&out), values(&zoo.open("base")));
}

#[test]
fn density_one_is_task_arithmetic_whatever_the_sparsifier() {
    let zoo = zoo(Dtype::F32, 40);
    let value = |method: &str| {
        json!({"merge_method": method, "base_model": "base", "models": ["a", "b", "c"],
            "parameters": {"weight": 0.3}})
    };
    let (expected, _) = zoo.merge(value("task_arithmetic"), "ta");
    for method in ["dare_linear", "della_linear", "breadcrumbs"] {
        let (out, _) = zoo.merge(value(method), method);
        assert_eq!(values(&out), values(&expected), "{method}");
    }
}

#[test]
fn random_methods_keep_the_density_and_the_norm() {
    let zoo = zoo(Dtype::F32, 4000);
    for method in ["dare_linear", "della_linear"] {
        let value = |seed: u64| {
            json!({"merge_method": method, "base_model": "base", "models": ["a"],
                "parameters": {"weight": 1.0, "density": 0.3, "random_seed": seed}})
        };
        let (out, summary) = zoo.merge(value(7), &format!("{method}7"));
        let row = summary
            .stats
            .iter()
            .find(|r| r.tensor == "lm_head.weight")
            .unwrap();
        // 96,000 draws: the standard error of the share is 0.0015.
        assert!((row.kept_fraction - 0.3).abs() < 0.006, "{method} {row:?}");
        let l1 = |checkpoint: &Checkpoint| -> f64 {
            let read = |c: &Checkpoint| c.tensor("lm_head.weight").unwrap().to_f32();
            let pairs = read(checkpoint).into_iter().zip(read(&zoo.open("base")));
            pairs.map(|(x, b)| f64::from((x - b).abs())).sum()
        };
        let (ours, whole) = (l1(&out), l1(&zoo.open("a")));
        assert!((ours / whole - 1.0).abs() < 1e-3, "{method} {ours} {whole}");
        let (again, _) = zoo.merge(value(7), &format!("{method}7b"));
        assert_eq!(values(&out), values(&again));
        let (other, _) = zoo.merge(value(8), &format!("{method}8"));
        assert_ne!(values(&out), values(&other));
    }
}

#[test]
fn stats_become_an_artifact_sorted_by_tensor_and_model() {
    use crate::artifact::{Artifact, Existing, Kind, Provenance};
    let zoo = zoo(Dtype::F32, 8);
    let (_, summary) = zoo.merge(config_of(&METHODS[0], &["c", "a", "b"]), "out");
    assert_eq!(summary.stats.len(), 7 * 3);
    let dir = zoo.out("merge_stats");
    let provenance = Provenance::new(Kind::MergeStats);
    super::write_stats(&summary.stats, &dir, provenance.clone(), Existing::Refuse).unwrap();
    super::write_stats(&summary.stats, &dir, provenance, Existing::Refuse).unwrap();
    assert!(Artifact::open(&dir, Kind::MergeStats).is_ok());
    let weights = summary
        .stats
        .iter()
        .filter(|row| row.tensor == "model.norm.weight");
    assert!((weights.map(|row| row.coefficient).sum::<f64>() - 1.0).abs() < 1e-12);
}

#[test]
fn chunks_and_threads_do_not_change_a_byte() {
    // 24 × 9,000 elements: four blocks, the last one short.
    let zoo = zoo(Dtype::BF16, 9000);
    for method in METHODS {
        let config = zoo.config(config_of(method, &["a", "b", "c"]));
        let mut expected = None;
        for (chunk, threads) in [(1, 1), (1, 3), (1 << 17, 2), (1 << 30, 4)] {
            let options = MergeOptions {
                chunk,
                force: true,
                ..Default::default()
            };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let out = zoo.out("out");
            let summary = pool
                .build()
                .unwrap()
                .install(|| run(&plan(&config, &out, &options).unwrap()).unwrap());
            let result = (files(&out), summary.stats);
            match &expected {
                None => expected = Some(result),
                Some(expected) => assert!(*expected == result, "{} {chunk}", method.name),
            }
        }
    }
}

#[test]
fn an_interrupted_merge_continues_to_the_same_files() {
    let zoo = zoo(Dtype::BF16, 3000);
    let config = zoo.config(config_of(&METHODS[0], &["a", "b", "c"]));
    let options = MergeOptions {
        out_shard_size: 100_000,
        ..Default::default()
    };
    let whole = plan(&config, &zoo.out("whole"), &options).unwrap();
    let expected = run(&whole).unwrap();
    for stop in 0..7 {
        let out = zoo.out("broken");
        let broken = plan(&config, &out, &options).unwrap();
        let stopped = run_observed(&broken, &mut |at, _| -> Result<()> {
            if at == stop {
                Err(Error::Interrupted)
            } else {
                Ok(())
            }
        });
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
        let summary = run_observed(&again, &mut |at, _| {
            merged.push(at);
            Ok(())
        })
        .unwrap();
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
fn tied_embeddings_are_written_once_and_the_dtype_is_the_configured_one() {
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
    assert!(out.info("lm_head.weight").is_none());
    assert_eq!(out.tensor("model.norm.weight").unwrap().dtype, Dtype::BF16);
    let text = std::fs::read_to_string(zoo.out("out/config.json")).unwrap();
    assert!(text.contains("\"torch_dtype\": \"bfloat16\""), "{text}");
}

#[test]
fn models_that_do_not_fit_together_are_refused_before_a_byte_is_written() {
    let zoo = zoo(Dtype::F32, 8);
    let refused = |what: &str, parts: &[&str]| {
        let value = json!({"merge_method": "varm", "base_model": "base", "models": ["a", "x"]});
        let out = zoo.out("out");
        let error = plan(&zoo.config(value), &out, &MergeOptions::default()).err();
        let error = error.unwrap_or_else(|| panic!("{what} was accepted"));
        for part in parts {
            assert!(error.to_string().contains(part), "{what}: {error}");
        }
        assert!(!out.exists());
    };
    refused("missing folder", &["x", "no such model folder"]);
    let mut specs = zoo.specs();
    specs[1].shape = vec![24, 16];
    zoo.write("x", &specs, 5, 0.1);
    refused(
        "shape",
        &[
            "model `x`",
            "model.layers.0.mlp.weight",
            "[24, 16]",
            "[16, 24]",
        ],
    );
    let mut specs = zoo.specs();
    specs.remove(3);
    std::fs::remove_dir_all(zoo.out("x")).unwrap();
    zoo.write("x", &specs, 5, 0.1);
    refused("missing", &["`model.layers.1.mlp.weight` is missing"]);
    let mut specs = zoo.specs();
    specs.push(TensorSpec {
        name: "extra.weight".into(),
        dtype: Dtype::F32,
        shape: vec![2],
    });
    std::fs::remove_dir_all(zoo.out("x")).unwrap();
    zoo.write("x", &specs, 5, 0.1);
    refused("extra", &["`extra.weight` is in model `x` only"]);
    std::fs::remove_dir_all(zoo.out("x")).unwrap();
    zoo.model("x", 5, 0.1);
    let config = zoo.out("x/config.json");
    std::fs::write(
        &config,
        "{\"model_type\": \"qwen2\", \"num_hidden_layers\": 2}",
    )
    .unwrap();
    refused("architecture", &["config.json", "qwen2", "llama"]);
    std::fs::remove_file(&config).unwrap();
    refused("no config", &["config.json"]);
    let weights = zoo.out("x/model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() - 1]).unwrap();
    refused("truncated", &["model.safetensors", "damaged or incomplete"]);
}

#[test]
fn outputs_in_the_way_are_refused() {
    let zoo = zoo(Dtype::F32, 8);
    let config = zoo.config(config_of(&METHODS[0], &["a", "b", "c"]));
    let options = MergeOptions::default();
    let refused = |out: PathBuf, part: &str| {
        let error = plan(&config, &out, &options).err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(zoo.out("a/merged"), "lies inside the input folder");
    refused(zoo.out("a"), "lies inside the input folder");
    refused(zoo.dir.path().to_path_buf(), "contains the input folder");
    std::fs::create_dir(zoo.out("out")).unwrap();
    assert!(plan(&config, &zoo.out("out"), &options).is_ok());
    std::fs::write(zoo.out("out/x"), "x").unwrap();
    refused(zoo.out("out"), "is not empty");
    refused(zoo.out("out/x"), "is a file");
    let options = MergeOptions {
        force: true,
        ..options.clone()
    };
    let forced = plan(&config, &zoo.out("out"), &options).unwrap();
    assert!(
        forced.to_string().contains("tensors     7 in 1 file(s)"),
        "{forced}"
    );
    run(&forced).unwrap();
    assert!(!zoo.out("out/x").exists());
}

#[test]
fn wrong_configurations_are_refused_with_a_remedy() {
    let refused = |text: &str, part: &str| {
        let error = MergeConfig::from_yaml(text, Path::new("")).err();
        let error = error.unwrap_or_else(|| panic!("accepted: {text}"));
        assert_eq!(error.exit_code(), 2);
        assert!(
            error.to_string().contains(part),
            "expected `{part}`: {error}"
        );
    };
    let sce = "merge_method: sce\nbase_model: p\nmodels: [a, b]\n";
    assert!(MergeConfig::from_yaml(sce, Path::new("")).is_ok());
    let with = |more: &str| format!("{sce}{more}");
    assert!(MergeConfig::from_yaml(&with("parameters: {int8_mask: true}"), Path::new("")).is_ok());
    refused("models: [a", "merge configuration");
    refused("[]", "expected a mapping");
    refused("models: [a]", "lacks `merge_method`");
    refused("merge_method: scee\nmodels: [a]", "did you mean `sce`?");
    refused("merge_method: sce\nmodels: [a, b]", "needs a `base_model`");
    refused(
        "merge_method: sce\nbase_model: p\nmodels: [p]",
        "at least 1",
    );
    refused(
        "merge_method: slerp\nbase_model: p\nmodels: [a, b]",
        "exactly 1",
    );
    refused(
        "merge_method: linear",
        "exactly one of `models` and `slices`",
    );
    refused(&with("paramters: {}"), "did you mean `parameters`?");
    refused(
        &with("parameters: {select_topc: 1}"),
        "did you mean `select_topk`?",
    );
    refused(
        &with("parameters: {select_topk: 2}"),
        "a number from 0 to 1",
    );
    refused(
        &with("parameters: {select_topk: [0.1, 3]}"),
        "a number from 0 to 1",
    );
    refused(
        &with("parameters: {select_topk: yes please}"),
        "found `yes please`",
    );
    refused(
        &with("parameters: {normalize: 1}"),
        "expected true or false",
    );
    refused(
        &with("parameters: {compat: merge}"),
        "one of none, mergekit, fusechat",
    );
    refused(
        &with("parameters: {density: 0.5}"),
        "it would have no effect",
    );
    refused(&with("dtype: int8"), "cannot be written");
    refused(&with("tokenizer_source: union"), "not supported");
    refused(&with("chat_template: chatml"), "is no template");
    let twice = "merge_method: sce\nbase_model: p\nmodels: [a, a]";
    refused(twice, "listed twice");
    let own = "merge_method: ties\nbase_model: p\nmodels: [{model: a, parameters: {lambda: 1}}]";
    refused(own, "one for all models");
    let backwards =
        "merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [2, 1]}]}]";
    refused(backwards, "first < end");
}

#[test]
fn fusechats_published_configurations_are_read() {
    for text in [
        "models:\n  - model: p\n  - model: a\n    parameters:\n      density: 0.6\n      weight: 0.2\nmerge_method: dare_linear\nbase_model: p\nparameters:\n  normalize: true\ndtype: bfloat16\n",
        "models:\n  - model: a\n    parameters:\n      weight: 0.2\nmerge_method: linear\ndtype: float16\n",
        "models:\n  - model: p\n  - model: a\nmerge_method: sce\nbase_model: p\nparameters:\n  select_topk: 0.1\ndtype: bfloat16\n",
        "models:\n  - model: p\n  - model: a\n    parameters:\n      weight: 0.3\nmerge_method: task_arithmetic\nbase_model: p\nparameters:\n  normalize: false\ndtype: bfloat16\n",
        "models:\n  - model: p\n  - model: a\n    parameters:\n      density: 0.6\n      weight: 0.2\nmerge_method: ties\nbase_model: p\nparameters:\n  normalize: true\ndtype: bfloat16\n",
    ] {
        MergeConfig::from_yaml(text, Path::new("")).unwrap();
    }
}

#[test]
fn a_recipe_brings_models_and_base() {
    let section = json!({"merge_method": "ties", "parameters": {"density": 0.5}});
    let models = [PathBuf::from("t1"), PathBuf::from("t2")];
    let config =
        MergeConfig::from_recipe(&section, &models, Path::new("p"), Path::new("")).unwrap();
    assert_eq!(config.base_model.as_deref(), Some("p"));
    let names: Vec<_> = config.slices[0]
        .sources
        .iter()
        .map(|s| s.model.as_str())
        .collect();
    assert_eq!(names, ["t1", "t2"]);
}

/// Times a merge of a Llama-shaped model of about 350 M parameters and five targets in bf16
/// against reading all inputs and writing one; not run by default:
/// `cargo test --release --lib -- --ignored merge::tests::speed --nocapture`.
#[test]
#[ignore = "takes a minute and 5 GB of disk"]
fn speed() {
    use std::io::{Read, Write};
    use std::time::Instant;
    let zoo = Zoo::new(Dtype::BF16, 1);
    let spec = |name: String, shape: &[usize]| TensorSpec {
        name,
        dtype: Dtype::BF16,
        shape: shape.to_vec(),
    };
    let (hidden, wide, layers) = (1024, 2816, 24);
    let mut specs = vec![spec("model.embed_tokens.weight".into(), &[32000, hidden])];
    for layer in 0..layers {
        for (name, shape) in [
            ("self_attn.q_proj", [hidden, hidden]),
            ("self_attn.k_proj", [hidden, hidden]),
            ("self_attn.v_proj", [hidden, hidden]),
            ("self_attn.o_proj", [hidden, hidden]),
            ("mlp.gate_proj", [wide, hidden]),
            ("mlp.up_proj", [wide, hidden]),
            ("mlp.down_proj", [hidden, wide]),
        ] {
            specs.push(spec(format!("model.layers.{layer}.{name}.weight"), &shape));
        }
    }
    specs.push(spec("lm_head.weight".into(), &[32000, hidden]));
    let names = ["base", "a", "b", "c", "d", "e"];
    for (seed, name) in names.iter().enumerate() {
        let scale = if seed == 0 { 0.0 } else { 0.02 };
        zoo.write(name, &specs, seed as u64 + 1, scale);
        let config = json!({"model_type": "llama", "num_hidden_layers": layers});
        std::fs::write(zoo.out(name).join("config.json"), config.to_string()).unwrap();
    }
    let copy = || {
        let start = Instant::now();
        let mut buffer = vec![0; 4 << 20];
        let mut out = std::fs::File::create(zoo.out("copy")).unwrap();
        for name in names {
            for file in files_of(&zoo.out(name)) {
                let mut file = std::fs::File::open(file).unwrap();
                loop {
                    let read = file.read(&mut buffer).unwrap();
                    if read == 0 {
                        break;
                    }
                    if name == "base" {
                        out.write_all(&buffer[..read]).unwrap();
                    }
                }
            }
        }
        start.elapsed().as_secs_f64()
    };
    let copies: Vec<f64> = (0..4).map(|_| copy()).collect();
    let limit = copies.iter().copied().fold(f64::MAX, f64::min);
    eprintln!("copy {copies:.2?}");
    for (method, parameters) in [
        ("linear", json!({"weight": 0.2})),
        ("task_arithmetic", json!({"weight": 0.2})),
        ("varm", json!({})),
        ("sce", json!({"select_topk": 0.1})),
        ("sce", json!({})),
        ("ties", json!({"weight": 0.2, "density": 0.6})),
        ("dare_linear", json!({"weight": 0.2, "density": 0.6})),
    ] {
        let mut value = json!({"merge_method": method, "base_model": "base",
            "models": names[1..], "parameters": parameters});
        if method == "linear" {
            value["models"] = json!(names);
        }
        for _ in 0..2 {
            let options = MergeOptions {
                force: true,
                ..MergeOptions::default()
            };
            let plan = plan(&zoo.config(value.clone()), &zoo.out("out"), &options).unwrap();
            let start = Instant::now();
            run(&plan).unwrap();
            let seconds = start.elapsed().as_secs_f64();
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let anonymous = status.lines().find(|l| l.starts_with("RssAnon")).unwrap();
            eprintln!(
                "{method} {parameters}: {seconds:.2} s, {:.1} x copy, {anonymous}",
                seconds / limit
            );
        }
    }
}

fn files_of(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .collect()
}
