//! Adapters extracted from two checkpoints: what they hold, and what they say of it.

use serde_json::{Value, json};

use super::fixtures::{Zoo, values};
use crate::checkpoint::Checkpoint;
use crate::lora::{ExtractOptions, Extracted, Form, extract};
use crate::tensors::{Dtype, TensorSpec};

fn options(rank: usize, targets: &[&str]) -> ExtractOptions {
    ExtractOptions {
        rank,
        targets: targets.iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// Extracts the difference of `tuned`, and applies it to `base`.
fn back(zoo: &Zoo, options: &ExtractOptions, out: &str) -> (Vec<Extracted>, Checkpoint) {
    let [base, tuned, dir] = ["base", "tuned", out].map(|name| zoo.out(name));
    let report = extract(&base, &tuned, &dir, options).unwrap();
    let model = format!("{}+{}", base.display(), dir.display());
    let value = json!({"merge_method": "passthrough", "models": [model]});
    let (merged, _) = zoo.merge(value, &format!("{out}-merged"));
    (report, merged)
}

/// The share of the difference that is missed, as it is said.
fn said(report: &[Extracted]) -> f64 {
    let square = |value: f64| value * value;
    let missed: f64 = report
        .iter()
        .map(|module| square(module.error * module.norm))
        .sum();
    let norm: f64 = report.iter().map(|module| square(module.norm)).sum();
    (missed / norm).sqrt()
}

/// The same, measured.
fn measured(zoo: &Zoo, merged: &Checkpoint) -> f64 {
    let (base, tuned) = (zoo.open("base"), zoo.open("tuned"));
    let names: Vec<String> = tuned.tensors().map(|tensor| tensor.name.clone()).collect();
    let (mut missed, mut norm) = (0.0, 0.0);
    for name in names {
        let of = |checkpoint: &Checkpoint| checkpoint.tensor(&name).unwrap().to_f32();
        for ((a, b), c) in of(&tuned).into_iter().zip(of(&base)).zip(of(merged)) {
            missed += f64::from(a - c).powi(2);
            norm += f64::from(a - b).powi(2);
        }
    }
    (missed / norm).sqrt()
}

fn settings(zoo: &Zoo, out: &str) -> Value {
    let text = std::fs::read_to_string(zoo.out(out).join("adapter_config.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn all_that_differs_is_held_or_counted() {
    let zoo = Zoo::new(Dtype::F32, 8);
    zoo.model("base", 1, 0.0).model("tuned", 2, 0.1);
    let (report, merged) = back(&zoo, &options(16, &[]), "all");
    let forms = |form| report.iter().filter(|module| module.form == form).count();
    assert_eq!(
        (
            forms(Form::LowRank),
            forms(Form::Whole),
            forms(Form::Missing)
        ),
        (2, 5, 0)
    );
    let largest = values(&merged).into_iter().zip(values(&zoo.open("tuned")));
    let largest = largest.map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
    assert!(largest < 1e-5, "{largest}");
    let found = settings(&zoo, "all");
    assert_eq!(found["target_modules"], json!(["mlp"]));
    let saved = json!([
        "lm_head",
        "model.embed_tokens",
        "model.layers.0.norm",
        "model.layers.1.norm",
        "model.norm"
    ]);
    assert_eq!(found["modules_to_save"], saved);
    // What is said is what is measured, whatever is left out.
    for (at, (rank, targets)) in [
        (2, &[][..]),
        (2, &["mlp"][..]),
        (16, &["1.mlp"][..]),
        (3, &["mlp", "embed_tokens", "lm_head"][..]),
    ]
    .into_iter()
    .enumerate()
    {
        let (report, merged) = back(&zoo, &options(rank, targets), &format!("out{at}"));
        let (said, measured) = (said(&report), measured(&zoo, &merged));
        assert!(
            (said - measured).abs() < 1e-5,
            "{targets:?}: {said} {measured}"
        );
        assert!(said > 0.1, "{targets:?}: {said}");
        let missing = report.iter().filter(|module| module.form == Form::Missing);
        assert_eq!(missing.count() > 0, !targets.is_empty(), "{targets:?}");
    }
    let found = Checkpoint::open(&zoo.out("out3/adapter_model.safetensors")).unwrap();
    let shape = |name: &str| {
        found
            .info(&format!("base_model.model.{name}"))
            .unwrap()
            .shape
            .clone()
    };
    assert_eq!(shape("model.embed_tokens.lora_embedding_A"), [3, 8]);
    assert_eq!(shape("model.embed_tokens.lora_embedding_B"), [24, 3]);
    assert_eq!(shape("lm_head.lora_A.weight"), [3, 24]);
}

#[test]
fn what_is_stored_as_its_transpose_is_written_as_peft_wants_it() {
    let zoo = Zoo::new(Dtype::F32, 8);
    let spec = |name: &str, shape: &[usize]| TensorSpec {
        name: name.to_owned(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
    };
    let specs = [
        spec("wte.weight", &[8, 6]),
        spec("h.0.attn.c_attn.weight", &[6, 18]),
        spec("h.0.attn.c_attn.bias", &[18]),
        spec("h.0.ln_1.weight", &[6]),
        spec("h.0.ln_1.bias", &[6]),
        spec("h.0.mlp.experts.up", &[2, 3, 4]),
    ];
    for (name, seed, scale) in [("base", 1, 0.0), ("tuned", 2, 0.1)] {
        zoo.write(name, &specs, seed, scale);
        let config =
            json!({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_layer": 1});
        std::fs::write(zoo.out(name).join("config.json"), config.to_string()).unwrap();
    }
    let (report, merged) = back(&zoo, &options(6, &[]), "out");
    let (said, measured) = (said(&report), measured(&zoo, &merged));
    assert!(
        (said - measured).abs() < 1e-5 && said > 0.01,
        "{said} {measured}"
    );
    let missing = report.iter().filter(|module| module.form == Form::Missing);
    let missing: Vec<&str> = missing.map(|module| module.module.as_str()).collect();
    assert_eq!(missing, ["transformer.h.0.mlp.experts.up"]);
    assert_eq!(settings(&zoo, "out")["fan_in_fan_out"], true);
    let found = Checkpoint::open(&zoo.out("out/adapter_model.safetensors")).unwrap();
    let mut names: Vec<(String, Vec<usize>)> = found
        .tensors()
        .map(|tensor| {
            (
                tensor.name.replace("base_model.model.transformer.", ""),
                tensor.shape.clone(),
            )
        })
        .collect();
    names.sort();
    let names: Vec<String> = names
        .iter()
        .map(|(name, shape)| format!("{name} {shape:?}"))
        .collect();
    // The head is the embedding, so that one tensor takes the place of both.
    assert_eq!(
        names,
        [
            "h.0.attn.c_attn.base_layer.bias [18]",
            "h.0.attn.c_attn.lora_A.weight [6, 6]",
            "h.0.attn.c_attn.lora_B.weight [18, 6]",
            "h.0.ln_1.bias [6]",
            "h.0.ln_1.weight [6]",
            "wte.weight [8, 6]",
        ]
    );
}

#[test]
fn a_tied_model_stays_tied_or_gets_the_head_that_was_trained() {
    let zoo = Zoo::new(Dtype::F32, 8);
    let mut specs = zoo.specs();
    let config = |zoo: &Zoo, name: &str, tied: bool| {
        let config = json!({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3",
            "num_hidden_layers": 2, "tie_word_embeddings": tied});
        std::fs::write(zoo.out(name).join("config.json"), config.to_string()).unwrap();
    };
    zoo.write("tuned", &specs, 2, 0.1);
    config(&zoo, "tuned", false);
    specs.retain(|spec| spec.name != "lm_head.weight");
    zoo.write("base", &specs, 1, 0.0);
    config(&zoo, "base", true);
    let (_, merged) = back(&zoo, &options(16, &[]), "untied");
    let largest = values(&merged).into_iter().zip(values(&zoo.open("tuned")));
    assert!(largest.map(|(x, y)| (x - y).abs()).fold(0.0, f32::max) < 1e-5);
    zoo.write("tuned", &specs, 2, 0.1);
    std::fs::remove_dir_all(zoo.out("tuned")).unwrap();
    zoo.write("tuned", &specs, 2, 0.1);
    config(&zoo, "tuned", true);
    for (at, targets) in [&[][..], &["mlp", "embed_tokens"][..]]
        .into_iter()
        .enumerate()
    {
        let (report, merged) = back(&zoo, &options(16, targets), &format!("tied{at}"));
        assert!(merged.info("lm_head.weight").is_none(), "{targets:?}");
        let (said, measured) = (said(&report), measured(&zoo, &merged));
        assert!(
            (said - measured).abs() < 1e-5,
            "{targets:?}: {said} {measured}"
        );
    }
}
