//! Adapters as inputs, and extracted from checkpoints.

use serde_json::{Value, json};

use super::fixtures::{Zoo, noise, values};
use crate::checkpoint::{Checkpoint, CheckpointWriter, Layout};
use crate::lora::{ExtractOptions, extract};
use crate::merge::{MergeOptions, plan};
use crate::tensors::{Dtype, TensorSpec};

/// Writes an adapter of rank 2 for the matrices of both layers, and returns how the model looks
/// with it.
fn adapted(zoo: &Zoo, config: &Value) -> Vec<f32> {
    let dir = zoo.out("adapter");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    let base = zoo.open("base");
    let mut specs = Vec::new();
    let mut whole = Vec::new();
    for layer in 0..2 {
        for (half, shape) in [("A", [2, 24]), ("B", [16, 2])] {
            specs.push(TensorSpec {
                name: format!("base_model.model.model.layers.{layer}.mlp.lora_{half}.weight"),
                dtype: Dtype::F32,
                shape: shape.to_vec(),
            });
        }
    }
    let layout = Layout::single(specs.clone(), "adapter_model.safetensors").unwrap();
    let writer = CheckpointWriter::open(&dir, layout).unwrap();
    let halves: Vec<Vec<f32>> = specs
        .iter()
        .enumerate()
        .map(|(at, spec)| {
            (0..spec.elements())
                .map(|i| noise(90 + at as u64, i))
                .collect()
        })
        .collect();
    for (at, half) in halves.iter().enumerate() {
        let bytes: Vec<u8> = half.iter().flat_map(|v| v.to_le_bytes()).collect();
        writer.write(at, 0, &bytes).unwrap();
    }
    writer.finish(&dir).unwrap();
    let alpha = config["lora_alpha"].as_f64().unwrap();
    let scale = match config["use_rslora"] == true {
        true => alpha / 2f64.sqrt(),
        false => alpha / 2.0,
    };
    for tensor in base.tensors() {
        let mut tensor_values = base.tensor(&tensor.name).unwrap().to_f32();
        if tensor.name.contains("mlp") {
            let layer = usize::from(tensor.name.contains("layers.1"));
            let (a, b) = (&halves[2 * layer], &halves[2 * layer + 1]);
            for (at, value) in tensor_values.iter_mut().enumerate() {
                let (row, column) = (at / 24, at % 24);
                let sum: f64 = (0..2)
                    .map(|r| f64::from(b[row * 2 + r]) * f64::from(a[r * 24 + column]))
                    .sum();
                *value = (f64::from(*value) + scale * sum) as f32;
            }
        }
        whole.extend(tensor_values);
    }
    whole
}

fn settings() -> Value {
    json!({"peft_type": "LORA", "r": 2, "lora_alpha": 3.0, "bias": "none",
        "target_modules": ["mlp"]})
}

fn base() -> Zoo {
    let zoo = Zoo::new(Dtype::F32, 8);
    zoo.model("base", 1, 0.0);
    zoo
}

#[test]
fn an_adapter_is_applied_while_its_model_is_read() {
    for rslora in [false, true] {
        let zoo = base();
        let mut config = settings();
        config["use_rslora"] = rslora.into();
        let expected = adapted(&zoo, &config);
        let model = format!(
            "{}+{}",
            zoo.out("base").display(),
            zoo.out("adapter").display()
        );
        let value = json!({"merge_method": "passthrough", "models": [model]});
        let (out, _) = zoo.merge(value, "out");
        for (x, y) in values(&out).iter().zip(&expected) {
            assert!((x - y).abs() < 1e-6, "{x} {y}");
        }
        // Half of it: the mean of the model with and without.
        let value = json!({"merge_method": "task_arithmetic", "base_model": "base",
            "models": [model], "parameters": {"weight": 0.5}});
        let (half, _) = zoo.merge(value, "half");
        let base = values(&zoo.open("base"));
        for ((x, y), b) in values(&half).iter().zip(&expected).zip(&base) {
            assert!((x - (y + b) / 2.0).abs() < 1e-6, "{x} {y} {b}");
        }
    }
}

/// PEFT's other parts of adapters, with the model that they make, by hand.
#[test]
fn all_kinds_of_adapters_give_the_weights_by_hand() {
    let zoo = Zoo::new(Dtype::F32, 8);
    zoo.model("base", 1, 0.0);
    let dir = zoo.out("adapter");
    std::fs::create_dir_all(&dir).unwrap();
    let mut config = settings();
    config["alpha_pattern"] = json!({"layers.1.mlp": 8});
    config["use_dora"] = json!(true);
    config["target_modules"] = json!(["mlp", "embed_tokens"]);
    std::fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    let base = zoo.open("base");
    let (embedding, norm) = ("model.embed_tokens.weight", "model.norm.weight");
    let shape = |name: &str| base.info(name).unwrap().shape.clone();
    let rows = shape(embedding)[0];
    let parts: [(&str, Vec<usize>); 10] = [
        ("model.layers.0.mlp.lora_A.weight", vec![2, 24]),
        ("model.layers.0.mlp.lora_B.weight", vec![16, 2]),
        ("model.layers.0.mlp.lora_magnitude_vector", vec![16]),
        ("model.layers.1.mlp.lora_A.weight", vec![2, 24]),
        ("model.layers.1.mlp.lora_B.weight", vec![16, 2]),
        ("model.embed_tokens.lora_embedding_A", vec![2, rows]),
        (
            "model.embed_tokens.lora_embedding_B",
            vec![shape(embedding)[1], 2],
        ),
        (norm, shape(norm)),
        ("model.layers.1.mlp.lora_magnitude_vector", vec![16]),
        (
            "model.embed_tokens.lora_magnitude_vector",
            vec![shape(embedding)[1]],
        ),
    ];
    let specs: Vec<TensorSpec> = parts
        .iter()
        .map(|(name, shape)| TensorSpec {
            name: format!("base_model.model.{name}"),
            dtype: Dtype::F32,
            shape: shape.clone(),
        })
        .collect();
    let number = |part: usize, at: usize| noise(50 + part as u64, at) + 2.0;
    let layout = Layout::single(specs.clone(), "adapter_model.safetensors").unwrap();
    let writer = CheckpointWriter::open(&dir, layout).unwrap();
    for (at, spec) in specs.iter().enumerate() {
        let bytes: Vec<u8> = (0..spec.elements())
            .flat_map(|i| number(at, i).to_le_bytes())
            .collect();
        writer.write(at, 0, &bytes).unwrap();
    }
    writer.finish(&dir).unwrap();

    let model = format!("{}+{}", zoo.out("base").display(), dir.display());
    let value = json!({"merge_method": "passthrough", "models": [model]});
    let (out, _) = zoo.merge(value, "out");
    // s · B A, from the parts `a` and `a + 1`, rank 2.
    let product = |a: usize, alpha: f64, width: usize, row: usize, column: usize| -> f64 {
        let term = |r: usize| {
            f64::from(number(a + 1, row * 2 + r)) * f64::from(number(a, r * width + column))
        };
        alpha / 2.0 * (term(0) + term(1))
    };
    for tensor in base.tensors() {
        let own = base.tensor(&tensor.name).unwrap().to_f32();
        let own = |at: usize| f64::from(own[at]);
        let width = tensor.shape.last().copied().unwrap();
        let value = |at: usize| -> f64 {
            let (row, column) = (at / width, at % width);
            match tensor.name.as_str() {
                name if name == norm => f64::from(number(7, at)),
                // An embedding has a length for each column.
                name if name == embedding => {
                    let changed =
                        |r: usize| own(r * width + column) + product(5, 3.0, rows, column, r);
                    let length = (0..rows).map(|r| changed(r).powi(2)).sum::<f64>().sqrt();
                    changed(row) * f64::from(number(9, column)) / length
                }
                name if name.contains("mlp") => {
                    let (first, alpha, lengths) = match name.contains("layers.1") {
                        true => (3, 8.0, 8),
                        false => (0, 3.0, 2),
                    };
                    let changed = |c: usize| own(row * 24 + c) + product(first, alpha, 24, row, c);
                    let length = (0..24).map(|c| changed(c).powi(2)).sum::<f64>().sqrt();
                    changed(column) * f64::from(number(lengths, row)) / length
                }
                _ => own(at),
            }
        };
        let found = out.tensor(&tensor.name).unwrap().to_f32();
        for (at, found) in found.iter().enumerate() {
            let expected = value(at);
            assert!(
                (f64::from(*found) - expected).abs() < 1e-5 * expected.abs().max(1.0),
                "{} {at}: {found} {expected}",
                tensor.name
            );
        }
    }
}

#[test]
fn extracting_an_adapter_is_the_inverse_of_applying_it() {
    let zoo = base();
    let expected = adapted(&zoo, &settings());
    let model = format!(
        "{}+{}",
        zoo.out("base").display(),
        zoo.out("adapter").display()
    );
    let passthrough = |model: &str| json!({"merge_method": "passthrough", "models": [model]});
    zoo.merge(passthrough(&model), "tuned");
    let options = ExtractOptions {
        rank: 2,
        targets: vec!["mlp".into()],
    };
    let report = extract(
        &zoo.out("base"),
        &zoo.out("tuned"),
        &zoo.out("found"),
        &options,
    )
    .unwrap();
    assert_eq!(report.len(), 2);
    assert!(
        report
            .iter()
            .all(|module| module.error < 1e-5 && module.norm > 1.0),
        "{report:?}"
    );
    let model = format!(
        "{}+{}",
        zoo.out("base").display(),
        zoo.out("found").display()
    );
    let (out, _) = zoo.merge(passthrough(&model), "again");
    for (x, y) in values(&out).iter().zip(&expected) {
        assert!((x - y).abs() < 1e-5, "{x} {y}");
    }
    // Less rank misses something; more rank than the matrix has is filled up with zeros.
    for (rank, misses) in [(1, true), (20, false)] {
        let options = ExtractOptions {
            rank,
            targets: Vec::new(),
        };
        let out = zoo.out(&format!("rank{rank}"));
        let report = extract(&zoo.out("base"), &zoo.out("tuned"), &out, &options).unwrap();
        assert!(
            report.iter().all(|module| (module.error > 0.01) == misses),
            "{report:?}"
        );
        let found = Checkpoint::open(&out.join("adapter_model.safetensors")).unwrap();
        let name = "base_model.model.model.layers.0.mlp.lora_A.weight";
        assert_eq!(found.info(name).unwrap().shape, [rank, 24]);
    }
}

#[test]
fn wrong_adapters_are_refused() {
    let zoo = base();
    adapted(&zoo, &settings());
    let refused = |part: &str| {
        let model = format!(
            "{}+{}",
            zoo.out("base").display(),
            zoo.out("adapter").display()
        );
        let value = json!({"merge_method": "passthrough", "models": [model]});
        let error = plan(
            &zoo.config(value),
            &zoo.out("out"),
            &MergeOptions::default(),
        )
        .err();
        let error = error
            .unwrap_or_else(|| panic!("accepted: {part}"))
            .to_string();
        assert!(error.contains(part), "expected `{part}`: {error}");
    };
    let config = zoo.out("adapter/adapter_config.json");
    for (field, value, part) in [
        ("peft_type", json!("IA3"), "field `peft_type`"),
        ("bias", json!("some"), "field `bias`"),
        ("alpha_pattern", json!({"(": 1}), "field `alpha_pattern`"),
        (
            "alora_invocation_tokens",
            json!([4]),
            "field `alora_invocation_tokens`",
        ),
        (
            "target_modules",
            json!(["q_proj"]),
            "name no module of the model",
        ),
        (
            "exclude_modules",
            json!(["mlp"]),
            "name no module of the model",
        ),
        (
            "layers_to_transform",
            json!([2]),
            "name no module of the model",
        ),
        ("modules_to_save", json!(["lm_head"]), "the file lacks it"),
        ("use_dora", json!(true), "no `lora_magnitude_vector`"),
        ("lora_alpha", json!("x"), "field `lora_alpha`"),
        ("fan_in_fan_out", json!(1), "field `fan_in_fan_out`"),
        ("r", json!(3), "expected shape [3, 24]"),
        (
            "rank_pattern",
            json!({"1.mlp": "x"}),
            "field `rank_pattern`",
        ),
        (
            "rank_pattern",
            json!({".*1.mlp": 3}),
            "expected shape [3, 24]",
        ),
        ("use_rslora", json!(1), "field `use_rslora`"),
    ] {
        let mut wrong = settings();
        wrong[field] = value;
        std::fs::write(&config, wrong.to_string()).unwrap();
        refused(part);
    }
    std::fs::write(&config, settings().to_string()).unwrap();
    let weights = zoo.out("adapter/adapter_model.safetensors");
    let good = std::fs::read(&weights).unwrap();
    let replaced = |from: &str, to: &str| {
        let same = |window: &[u8]| window == from.as_bytes();
        let at = good.windows(from.len()).position(same).unwrap();
        let mut bytes = good.clone();
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        std::fs::write(&weights, bytes).unwrap();
    };
    replaced("layers.1.mlp.lora_B", "layers.1.mlp.lora_C");
    refused("lora_A.weight");
    replaced("layers.1.mlp.lora_B", "layers.7.mlp.lora_B");
    refused("no tensor `model.layers.7.mlp.weight`");
    std::fs::write(&weights, &good[..good.len() - 3]).unwrap();
    refused("damaged or incomplete");
    std::fs::remove_file(&config).unwrap();
    refused("adapter_config.json");
    // Its folder is an input, too.
    std::fs::write(&weights, &good).unwrap();
    std::fs::write(&config, settings().to_string()).unwrap();
    let model = format!(
        "{}+{}",
        zoo.out("base").display(),
        zoo.out("adapter").display()
    );
    let value = json!({"merge_method": "passthrough", "models": [model]});
    let out = zoo.out("adapter/out");
    let error = plan(&zoo.config(value), &out, &MergeOptions::default())
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("inside the input folder"),
        "{error}"
    );
}

/// Models whose head is their embedding, as folders of the zoo.
fn tied(zoo: &Zoo, name: &str, seed: u64, scale: f32) {
    let mut specs = zoo.specs();
    specs.retain(|spec| spec.name != "lm_head.weight");
    zoo.write(name, &specs, seed, scale);
    let config = json!({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
        "num_hidden_layers": 2, "tie_word_embeddings": true, "torch_dtype": "float32"});
    std::fs::write(zoo.out(name).join("config.json"), config.to_string()).unwrap();
}

/// Writes the adapter of these tensors, whose numbers are drawn, and returns them.
fn write_adapter(zoo: &Zoo, more: &Value, tensors: &[(&str, &[usize])]) -> Vec<Vec<f32>> {
    let dir = zoo.out("adapter");
    std::fs::create_dir_all(&dir).unwrap();
    let mut config = settings();
    config
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    std::fs::write(dir.join("adapter_config.json"), config.to_string()).unwrap();
    let specs = tensors.iter().map(|(name, shape)| TensorSpec {
        name: format!("base_model.model.{name}"),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
    });
    let specs: Vec<TensorSpec> = specs.collect();
    let layout = Layout::single(specs.clone(), "adapter_model.safetensors").unwrap();
    let writer = CheckpointWriter::open(&dir, layout).unwrap();
    let mut all = Vec::new();
    for (at, spec) in specs.iter().enumerate() {
        let values: Vec<f32> = (0..spec.elements())
            .map(|i| noise(70 + at as u64, i))
            .collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        writer.write(at, 0, &bytes).unwrap();
        all.push(values);
    }
    writer.finish(&dir).unwrap();
    all
}

const MLP: [(&str, &[usize]); 2] = [
    ("model.layers.0.mlp.lora_A.weight", &[2, 24]),
    ("model.layers.0.mlp.lora_B.weight", &[16, 2]),
];

#[test]
fn a_head_that_was_the_embedding_is_written_where_an_adapter_changes_one_of_them() {
    let zoo = Zoo::new(Dtype::F32, 8);
    tied(&zoo, "base", 1, 0.0);
    tied(&zoo, "other", 2, 0.1);
    let embedding = "model.embed_tokens.weight";
    let own = zoo.open("base").tensor(embedding).unwrap().to_f32();
    let other = zoo.open("other").tensor(embedding).unwrap().to_f32();
    let saved: (&str, &[usize]) = ("model.embed_tokens.weight", &[8, 24]);
    let model = format!(
        "{}+{}",
        zoo.out("base").display(),
        zoo.out("adapter").display()
    );
    for (more, unties) in [
        (json!({"modules_to_save": ["embed_tokens"]}), true),
        (json!({}), false),
        (
            json!({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": true}),
            false,
        ),
    ] {
        let numbers = write_adapter(&zoo, &more, &[MLP[0], MLP[1], saved]);
        let out = zoo.out("merged");
        let _ = std::fs::remove_dir_all(&out);
        let value = json!({"merge_method": "passthrough", "models": [model]});
        let (merged, _) = zoo.merge(value, "merged");
        assert_eq!(
            merged.tensor(embedding).unwrap().to_f32(),
            numbers[2],
            "{more}"
        );
        let config = std::fs::read_to_string(out.join("config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        assert_eq!(config["tie_word_embeddings"], !unties, "{more}");
        let head = merged.info("lm_head.weight").is_some();
        assert_eq!(head, unties, "{more}");
        if unties {
            assert_eq!(merged.tensor("lm_head.weight").unwrap().to_f32(), own);
        }
        // Beside a model that is tied still: its head is its embedding.
        let _ = std::fs::remove_dir_all(&out);
        let value = json!({"merge_method": "linear", "models": ["other", model],
            "parameters": {"weight": 0.5}});
        let (mean, _) = zoo.merge(value, "merged");
        let check = |name: &str, numbers: &[f32]| {
            let found = mean.tensor(name).unwrap().to_f32();
            for ((x, a), b) in found.iter().zip(numbers).zip(&other) {
                assert!((x - (a + b) / 2.0).abs() < 1e-6, "{more} {name}");
            }
        };
        check(embedding, &numbers[2]);
        if unties {
            check("lm_head.weight", &own);
        }
    }
}

#[test]
fn an_enlarged_vocabulary_is_written_with_its_tokenizer() {
    let zoo = Zoo::new(Dtype::F32, 8);
    tied(&zoo, "base", 1, 0.0);
    let tensors: [(&str, &[usize]); 3] = [MLP[0], MLP[1], ("model.embed_tokens.weight", &[9, 24])];
    let numbers = write_adapter(&zoo, &json!({}), &tensors);
    std::fs::write(zoo.out("adapter").join("tokenizer.json"), "{\"larger\": 1}").unwrap();
    let model = format!(
        "{}+{}",
        zoo.out("base").display(),
        zoo.out("adapter").display()
    );
    let value = json!({"merge_method": "passthrough", "models": [model]});
    let (merged, _) = zoo.merge(value, "merged");
    let found = merged.tensor("model.embed_tokens.weight").unwrap();
    assert_eq!(
        (found.shape, found.to_f32()),
        (&[9, 24][..], numbers[2].clone())
    );
    let read = |file: &str| std::fs::read_to_string(zoo.out("merged").join(file)).unwrap();
    let config: Value = serde_json::from_str(&read("config.json")).unwrap();
    assert_eq!(config["vocab_size"], 9);
    assert!(read("tokenizer.json").contains("larger"));
}

#[test]
fn damaged_numbers_are_blamed_on_the_adapter() {
    let zoo = base();
    adapted(&zoo, &settings());
    let weights = zoo.out("adapter/adapter_model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&weights, bytes).unwrap();
    let model = format!(
        "{}+{}",
        zoo.out("base").display(),
        zoo.out("adapter").display()
    );
    let value = json!({"merge_method": "passthrough", "models": [model]});
    let error = crate::merge::run(&zoo.plan(value, "out").unwrap())
        .err()
        .unwrap();
    let error = error.to_string();
    assert!(error.contains("adapter_model.safetensors"), "{error}");
    assert!(
        error.contains("mlp.lora_B.weight`: number 31 is NaN"),
        "{error}"
    );
}
