//! Adapters: what they change, what is trained, and their files.

use candle_core::Var;

use super::*;
use crate::lora::{LoraConfig, ModelPath, halves};

fn lora(targets: &[&str]) -> LoraConfig {
    let targets = targets.iter().map(|&name| name.to_owned());
    LoraConfig::new(3, 6.0, targets.collect())
}

/// The same model with adapters of all projections, moved off zero if `moved`.
fn adapted(config: &Config, mode: Mode, moved: bool) -> Decoder {
    let lora = LoraConfig::new(3, 6.0, super::lora::all_linear(config));
    let adapters = Adapters::random(config, lora, 3, &Device::Cpu).unwrap();
    if moved {
        for (index, var) in adapters.params().values().enumerate() {
            let noise = direction(var.as_tensor(), 77 + index as u64);
            let noise = (noise.to_dtype(DType::F32).unwrap() * 0.2).unwrap();
            var.set(&(var.as_detached_tensor() + noise).unwrap())
                .unwrap();
        }
    }
    random(config, mode).adapt(adapters).unwrap()
}

#[test]
fn a_fresh_adapter_changes_nothing() {
    let ids = some_ids();
    for (name, config) in variants() {
        for mode in [Mode::Inference, Mode::Training] {
            let plain = all_logits(&random(&config, mode), &ids);
            let found = all_logits(&adapted(&config, mode, false), &ids);
            assert_eq!(largest_difference(&plain, &found), 0.0, "{name}");
        }
    }
    // A is uniform within ±1/√in, as in PEFT.
    let (_, config) = variants().remove(0);
    let decoder = adapted(&config, Mode::Training, false);
    let a = &decoder.trained()["model.layers.0.mlp.down_proj.lora_A.weight"];
    let values = a.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let bound = 1.0 / 20f32.sqrt();
    assert!(values.iter().all(|value| value.abs() < bound));
    assert!(values.iter().any(|value| value.abs() > 0.8 * bound));
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    assert!(mean.abs() < 0.2 * bound, "{mean}");
}

/// An adapted model and the model that it merges to have the same logits, and the gradients of
/// A and B are those that the chain rule gives for the merged weight: dA = s Bᵀ dW, dB = s dW Aᵀ.
#[test]
fn an_adapter_is_its_merged_weight() {
    let ids = some_ids();
    let gradients = |decoder: &Decoder| {
        let logits = all_logits(decoder, &ids);
        let weights = direction(&logits, 5).to_dtype(DType::F32).unwrap();
        let loss = (&logits * weights).unwrap().sum_all().unwrap();
        let value = loss.to_scalar::<f32>().unwrap();
        (logits, loss.backward().unwrap(), f64::from(value))
    };
    for (name, config) in variants() {
        let decoder = adapted(&config, Mode::Training, true);
        let adapters = decoder.adapters().unwrap();
        let merged = random(&config, Mode::Training);
        for module in adapters.modules() {
            let weight = &merged.params()[&format!("{}.weight", module.name)];
            let adapter = adapters.of(&module.name, Mode::Inference).unwrap();
            let new = adapter.merged(&weight.as_detached_tensor()).unwrap();
            weight.set(&new).unwrap();
        }
        let (logits, grads, _) = gradients(&decoder);
        let (merged_logits, merged_grads, _) = gradients(&merged);
        let difference = largest_difference(&logits, &merged_logits);
        assert!(difference < 1e-4, "{name}: {difference}");

        for var in decoder.params().values() {
            assert!(grads.get(var.as_tensor()).is_none(), "{name}");
        }
        assert_eq!(decoder.trained().len(), 2 * adapters.modules().len());
        let scale = 2.0;
        let mut along = Vec::new();
        for module in adapters.modules() {
            let [a, b] = halves(&module.name);
            let vars = [&decoder.trained()[&a], &decoder.trained()[&b]];
            let [a, b] = vars.map(Var::as_detached_tensor);
            let weight = &merged.params()[&format!("{}.weight", module.name)];
            let dw = merged_grads.get(weight.as_tensor()).unwrap();
            let dw = &match config.names().transposed {
                true => dw.t().unwrap().contiguous().unwrap(),
                false => dw.clone(),
            };
            let expected = [
                (b.t().unwrap().matmul(dw).unwrap() * scale).unwrap(),
                (dw.matmul(&a.t().unwrap()).unwrap() * scale).unwrap(),
            ];
            for (var, expected) in vars.into_iter().zip(expected) {
                let found = grads.get(var.as_tensor()).unwrap();
                let size = expected.abs().unwrap().max_all().unwrap();
                let size = f64::from(size.to_scalar::<f32>().unwrap());
                let difference = largest_difference(found, &expected);
                let at = &module.name;
                assert!(size > 1e-6, "{name} {at}: no gradient");
                assert!(
                    difference < 2e-4 * size.max(1.0),
                    "{name} {at}: {difference}"
                );
                let step = direction(var.as_tensor(), along.len() as u64);
                along.push((var, step.to_dtype(DType::F32).unwrap(), found.clone()));
            }
        }

        // Along one direction of all adapters together, by finite differences.
        let moved = |by: f64| {
            for (var, step, _) in &along {
                var.set(&(var.as_detached_tensor() + (step * by).unwrap()).unwrap())
                    .unwrap();
            }
            gradients(&decoder).2
        };
        let (ahead, behind) = (moved(1e-3), moved(-2e-3));
        let slope = (ahead - behind) / 2e-3;
        let product: f64 = along
            .iter()
            .map(|(_, step, grad)| {
                let product = (step * grad).unwrap().sum_all().unwrap();
                f64::from(product.to_scalar::<f32>().unwrap())
            })
            .sum();
        let scale = product.abs().max(10.0);
        assert!(
            (slope - product).abs() < 0.02 * scale,
            "{name}: slope {slope}, gradient {product}"
        );
    }
}

#[test]
fn adapters_survive_their_files() {
    let ids = some_ids();
    let dir = tempfile::tempdir().unwrap();
    let (base, out) = (dir.path().join("base"), dir.path().join("out"));
    let dtype = DType::F32;
    for (name, config) in variants() {
        random(&config, Mode::Inference)
            .save(&base, &base, dtype)
            .unwrap();
        let decoder = adapted(&config, Mode::Inference, true);
        let expected = all_logits(&decoder, &ids);
        decoder
            .save_lora(&out, &base, dtype, LoraSave::Both)
            .unwrap();
        let merged = Decoder::load(&out, &options(Mode::Inference)).unwrap();
        let difference = largest_difference(&expected, &all_logits(&merged, &ids));
        assert!(difference < 1e-4, "{name}: {difference}");
        // Merged while it is read or before it is written: the same to the bit.
        let model = ModelPath {
            base: base.clone(),
            adapter: Some(out.join("adapter")),
        };
        let loaded = Decoder::load(&model, &options(Mode::Inference)).unwrap();
        for (param, var) in merged.params() {
            let difference = largest_difference(var, &loaded.params()[param]);
            assert_eq!(difference, 0.0, "{name} {param}");
        }
        let text = std::fs::read(out.join("adapter/adapter_config.json")).unwrap();
        let found: Value = serde_json::from_slice(&text).unwrap();
        let targets = &decoder.adapters().unwrap().lora().targets;
        for (field, expected) in [
            ("r", json!(3)),
            ("lora_alpha", json!(6)),
            ("use_rslora", json!(false)),
            ("fan_in_fan_out", json!(config.names().transposed)),
            ("target_modules", json!(targets)),
            ("base_model_name_or_path", json!(base)),
        ] {
            assert_eq!(found[field], expected, "{name} {field}");
        }
        decoder
            .save_lora(&out, &base, dtype, LoraSave::Adapter)
            .unwrap();
        assert!(out.join("adapter_config.json").exists());
        assert!(!out.join("model.safetensors").exists());
    }
    let plain = random(&variants()[0].1, Mode::Inference);
    assert!(plain.save_lora(&out, &base, dtype, LoraSave::Both).is_err());
}

#[test]
fn adapters_that_do_not_fit_are_errors_by_name() {
    let (_, config) = variants().remove(0);
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    let decoder = adapted(&config, Mode::Inference, true);
    decoder.save(&base, &base, DType::F32).unwrap();
    let written = dir.path().join("adapter");
    let save = |dir: &Path| {
        decoder
            .save_lora(dir, &base, DType::F32, LoraSave::Adapter)
            .unwrap();
    };
    save(&written);
    let good_config = std::fs::read_to_string(written.join("adapter_config.json")).unwrap();
    let good_weights = std::fs::read(written.join("adapter_model.safetensors")).unwrap();
    let problem = || {
        let model = ModelPath {
            base: base.clone(),
            adapter: Some(written.clone()),
        };
        match Decoder::load(&model, &options(Mode::Inference)) {
            Ok(_) => "none".to_owned(),
            Err(error) => error.to_string(),
        }
    };
    assert_eq!(problem(), "none");
    for (from, to, expected) in [
        (
            "\"LORA\"",
            "\"LOHA\"",
            "field `peft_type`: expected \"LORA\", found \"LOHA\"",
        ),
        (
            "\"r\": 3",
            "\"r\": 0",
            "field `r`: expected a number of at least 1, found 0",
        ),
        ("\"r\": 3", "\"r\": 4", "expected shape [4, "),
        ("\"r\": 3", "\"r\": -3", "field `r`"),
        (
            "\"lora_alpha\": 6",
            "\"lora_alpha\": \"x\"",
            "field `lora_alpha`",
        ),
        ("\"none\"", "\"some\"", "field `bias`"),
        (
            "\"fan_in_fan_out\": false",
            "\"fan_in_fan_out\": 1",
            "field `fan_in_fan_out`: expected true or false, found 1",
        ),
        (
            "\"modules_to_save\": null",
            "\"target_parameters\": [\"experts\"]",
            "`target_parameters` names no tensor of the model",
        ),
        ("{", "[", "not a JSON object"),
    ] {
        let text = good_config.replacen(from, to, 1);
        assert_ne!(text, good_config, "{from}");
        std::fs::write(written.join("adapter_config.json"), text).unwrap();
        let found = problem();
        assert!(found.contains(expected), "{found}, expected `{expected}`");
    }
    std::fs::write(written.join("adapter_config.json"), &good_config).unwrap();
    // Names of equal length, so that the header stays valid.
    for (from, to, expected) in [
        (
            "layers.0.mlp.up_proj.lora_A",
            "layers.9.mlp.up_proj.lora_A",
            "no tensor `model.layers.9.mlp.up_proj.weight`",
        ),
        (
            "layers.0.mlp.up_proj.lora_A",
            "layers.0.mlp.up_proj.lora_C",
            "expected `base_model",
        ),
        (
            "layers.0.mlp.up_proj.lora_A.weight",
            "layers.0.mlp.xp_proj.lora_A.weight",
            "no tensor `model.layers.0.mlp.xp_proj.weight`",
        ),
        ("\"F32\"", "\"I32\"", "expected dtype"),
    ] {
        let at = good_weights
            .windows(from.len())
            .position(|window| window == from.as_bytes())
            .unwrap();
        let mut bytes = good_weights.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        std::fs::write(written.join("adapter_model.safetensors"), bytes).unwrap();
        let found = problem();
        assert!(found.contains(expected), "{found}, expected `{expected}`");
    }
    let cut = &good_weights[..good_weights.len() - 8];
    std::fs::write(written.join("adapter_model.safetensors"), cut).unwrap();
    assert!(problem().contains("damaged or incomplete"));

    let missing = |targets: &[&str]| {
        let adapters = Adapters::random(&config, lora(targets), 1, &Device::Cpu);
        adapters.unwrap_err().to_string()
    };
    let text = missing(&["q_proj", "k_porj"]);
    assert!(
        text.contains("no projection `k_porj`; did you mean `k_proj`?"),
        "{text}"
    );
    assert!(
        text.contains("`q_proj`, `k_proj`, `v_proj`, `o_proj`"),
        "{text}"
    );
    assert!(missing(&["lm_head"]).contains("no projection `lm_head`"));
    let some = super::lora::targeted(&config, &["1.self_attn.q_proj".to_owned()]).unwrap();
    assert_eq!(some[0].name, "model.layers.1.self_attn.q_proj");
    assert_eq!(some.len(), 1);
}

#[test]
fn frozen_parameters_get_no_gradient_and_the_others_the_same() {
    let ids = some_ids();
    for (name, config) in variants() {
        let all = random(&config, Mode::Training);
        let some = random(&config, Mode::Training)
            .freeze(|name| name.contains(".0.") || name.contains("k_proj.weight"))
            .unwrap();
        assert!(some.trained().len() < all.trained().len());
        let gradients = |decoder: &Decoder| {
            let logits = all_logits(decoder, &ids);
            let weights = direction(&logits, 5).to_dtype(DType::F32).unwrap();
            let loss = (logits * weights).unwrap().sum_all().unwrap();
            loss.backward().unwrap()
        };
        let (of_all, of_some) = (gradients(&all), gradients(&some));
        for (param, var) in some.params() {
            let found = of_some.get(var.as_tensor());
            let expected = of_all.get(all.params()[param].as_tensor()).unwrap();
            match some.trained().contains_key(param) {
                true => {
                    let difference = largest_difference(found.unwrap(), expected);
                    assert!(difference < 1e-4, "{name} {param}: {difference}");
                }
                false => assert!(found.is_none(), "{name} {param}"),
            }
        }
    }
}
