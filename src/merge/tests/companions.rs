//! Files beside the weights that a configuration changes, and float64.

use serde_json::{Value, json};

use super::fixtures::{Zoo, values, zoo};
use crate::checkpoint::{Checkpoint, CheckpointWriter, Layout};
use crate::merge::{MergeOptions, plan, run};
use crate::tensors::{Dtype, TensorSpec};

fn settings(zoo: &Zoo, name: &str, template: Value) {
    let text = json!({"chat_template": template}).to_string();
    // As Python writes a whole number that stands for infinity.
    let length = "\"model_max_length\": 1000000000000000019884624838656";
    let text = text.replacen('{', &format!("{{{length}, \"eps\": 1e-05, "), 1);
    std::fs::write(zoo.out(name).join("tokenizer_config.json"), text).unwrap();
}

fn read(zoo: &Zoo, name: &str) -> String {
    std::fs::read_to_string(zoo.out("out").join(name)).unwrap_or_default()
}

fn linear(more: (&str, &str)) -> Value {
    json!({"merge_method": "linear", "models": ["a", "b", "c"], "parameters": {"weight": 1},
        (more.0): more.1})
}

#[test]
fn the_commonest_chat_template_is_taken() {
    for (templates, expected) in [
        (
            [json!("{{ a }}"), json!("{{ b }}"), json!(" {{ b }}\n")],
            "{{ b }}",
        ),
        ([json!("{{ a }}"), json!("{{ b }}"), json!(null)], "{{ a }}"),
        (
            [
                json!(null),
                json!([{"name": "default", "template": "{{ d }}"}]),
                json!(null),
            ],
            "{{ d }}",
        ),
        ([json!(null), json!(null), json!(null)], ""),
    ] {
        let zoo = zoo(Dtype::F32, 8);
        for (name, template) in ["a", "b", "c"].into_iter().zip(templates) {
            settings(&zoo, name, template);
        }
        zoo.merge(linear(("chat_template", "auto")), "out");
        assert_eq!(read(&zoo, "chat_template.jinja"), expected);
        let config: Value = serde_json::from_str(&read(&zoo, "tokenizer_config.json")).unwrap();
        if !expected.is_empty() {
            assert!(config.get("chat_template").is_none(), "{config}");
        }
    }
}

#[test]
fn numbers_come_through_as_they_are_written() {
    let zoo = zoo(Dtype::F32, 8);
    settings(&zoo, "a", json!("{{ a }}"));
    zoo.merge(linear(("chat_template", "{{ mine }}")), "out");
    assert_eq!(read(&zoo, "chat_template.jinja"), "{{ mine }}");
    let text = read(&zoo, "tokenizer_config.json");
    assert!(
        text.contains("\"model_max_length\": 1000000000000000019884624838656"),
        "{text}"
    );
    assert!(
        text.contains("\"eps\": 1e-05") && !text.contains("chat_template"),
        "{text}"
    );
}

#[test]
fn a_base_among_the_models_gives_config_and_tokenizer() {
    let zoo = zoo(Dtype::F32, 8);
    let config = json!({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "num_hidden_layers": 2, "torch_dtype": "float32", "rope_theta": 7});
    std::fs::write(zoo.out("base").join("config.json"), config.to_string()).unwrap();
    settings(&zoo, "base", json!("{{ base }}"));
    // Not listed, so that it is added.
    zoo.merge(linear(("base_model", "base")), "out");
    assert!(read(&zoo, "config.json").contains("\"rope_theta\": 7"));
    assert!(read(&zoo, "tokenizer_config.json").contains("{{ base }}"));
}

/// Writes a model with this tensor in float64.
fn doubles(zoo: &Zoo, name: &str, numbers: &[f64]) {
    let spec = TensorSpec {
        name: "model.norm.weight".into(),
        dtype: Dtype::F64,
        shape: vec![numbers.len()],
    };
    zoo.write(name, std::slice::from_ref(&spec), 1, 0.0);
    let config = json!({"model_type": "llama", "num_hidden_layers": 0});
    std::fs::write(zoo.out(name).join("config.json"), config.to_string()).unwrap();
    let writer = CheckpointWriter::open(&zoo.out(name), Layout::new(vec![spec], 1 << 20).unwrap());
    let bytes: Vec<u8> = numbers.iter().flat_map(|v| v.to_le_bytes()).collect();
    writer.unwrap().write(0, 0, &bytes).unwrap();
}

fn f64_values(checkpoint: &Checkpoint) -> Vec<f64> {
    let view = checkpoint.tensor("model.norm.weight").unwrap();
    assert_eq!(view.dtype, Dtype::F64);
    let raw = view.bytes.as_chunks::<8>().0.iter();
    raw.map(|raw| f64::from_le_bytes(*raw)).collect()
}

#[test]
fn passthrough_keeps_the_digits_of_float64() {
    let zoo = Zoo::new(Dtype::F64, 1);
    let numbers: Vec<f64> = (0..70_000)
        .map(|i| f64::from(i).sqrt() / 3.0 + 1e-300)
        .collect();
    doubles(&zoo, "a", &numbers);
    let passed = |scale: f64, key: &str, dtype: &str, out: &str| {
        let mut value = json!({"merge_method": "passthrough",
            "models": [{"model": "a", "parameters": {"scale": scale}}]});
        if !key.is_empty() {
            value[key] = dtype.into();
        }
        zoo.merge(value, out).0
    };
    assert_eq!(f64_values(&passed(1.0, "", "", "same")), numbers);
    let tripled: Vec<f64> = numbers.iter().map(|x| x * 0.3).collect();
    assert_eq!(f64_values(&passed(0.3, "", "", "scaled")), tripled);
    assert_eq!(
        f64_values(&passed(0.3, "dtype", "float64", "dtype")),
        tripled
    );
    let single: Vec<f32> = tripled.iter().map(|x| *x as f32).collect();
    assert_eq!(
        values(&passed(0.3, "out_dtype", "float32", "single")),
        single
    );

    // A number that is not finite has its place; one beyond the output's range is named.
    for (number, dtype, part) in [
        (f64::NAN, "float64", "[1] is NaN"),
        (f64::INFINITY, "float64", "[1] is inf"),
        (1e300, "float64", ""),
    ] {
        doubles(&zoo, "b", &[1.0, number]);
        let value = json!({"merge_method": "passthrough", "models": ["b"], "dtype": dtype});
        let plan = plan(
            &zoo.config(value),
            &zoo.out("never"),
            &MergeOptions {
                force: true,
                ..Default::default()
            },
        );
        match run(&plan.unwrap()) {
            Ok(_) => assert!(part.is_empty(), "{number}"),
            Err(error) => {
                let error = error.to_string();
                assert!(
                    !part.is_empty() && error.contains(part),
                    "{number}: {error}"
                );
            }
        }
    }
}
