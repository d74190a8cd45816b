//! Results of the methods.

use serde_json::{Value, json};

use super::fixtures::{Zoo, config_of, files, values, zoo};
use crate::checkpoint::{Checkpoint, CheckpointWriter, Layout};
use crate::merge::methods::METHODS;
use crate::merge::{MergeOptions, plan, run};
use crate::tensors::{Dtype, TensorSpec};

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
