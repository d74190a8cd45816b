//! Where generated text ends.

use std::fs;

use candle_core::{DType, Device};
use fuselm::model::{Decoder, GenerateOptions, LoadOptions, Mode, generate};
use fuselm::vocab::Tokenizer;
use serde_json::{Value, json};

use super::program::{Workshop, read_json};

/// What the model writes after `prompt`, greedily, with nothing to stop it but its own EOS.
fn greedy(workshop: &Workshop, model: &str, prompt: &str) -> Vec<u32> {
    let dir = workshop.path(model);
    let options = LoadOptions {
        device: Device::Cpu,
        dtype: DType::F32,
        mode: Mode::Inference,
    };
    let decoder = Decoder::load(&dir, &options).unwrap();
    let tokenizer = Tokenizer::load(&dir).unwrap();
    let mut ids = vec![tokenizer.first_id().unwrap()];
    ids.extend(tokenizer.encode(prompt).unwrap().ids);
    let options = GenerateOptions {
        max_new_tokens: 24,
        temperature: 0.0,
        ..GenerateOptions::default()
    };
    let rows = tokenizer.vocabulary().len();
    generate(&decoder, &ids, rows, &options, |_| Ok(())).unwrap()
}

#[test]
fn text_ends_at_the_ids_of_the_generation_config() {
    let workshop = Workshop::new();
    let tokens = greedy(&workshop, "models/pivot", "Hello");
    // A token that comes for the first time after some others.
    let at = (2..tokens.len())
        .find(|&at| !tokens[..at].contains(&tokens[at]))
        .expect("a text that changes");
    let tokenizer = Tokenizer::load(&workshop.path("models/pivot")).unwrap();
    // The program shows whole characters only.
    let text = |tokens: &[u32]| {
        let text = tokenizer.decode(tokens);
        text.trim_end_matches('\u{fffd}').to_owned()
    };
    let written = |model: &str| {
        let line = format!(
            "generate --model {model} --raw --prompt Hello --temperature 0 --max-new-tokens 24"
        );
        let stdout = workshop.fuselm(&line).exits(0).stdout;
        stdout.strip_suffix('\n').unwrap().to_owned()
    };
    assert_eq!(written("models/pivot"), text(&tokens));

    let path = workshop.path("models/pivot/generation_config.json");
    let stop = tokens[at];
    for ids in [json!(stop), json!([99_999, stop])] {
        fs::write(&path, json!({ "eos_token_id": ids }).to_string()).unwrap();
        assert_eq!(written("models/pivot"), text(&tokens[..at]), "{ids}");
    }
    // A checkpoint that is made from it ends there as well.
    workshop.write(
        "merge.yml",
        "merge_method: linear\nmodels: [{ model: models/pivot, parameters: { weight: 1.0 } }]\n",
    );
    workshop.fuselm("merge merge.yml merged").exits(0);
    assert_eq!(
        read_json(&workshop.path("merged/generation_config.json"))["eos_token_id"],
        json!([99_999, stop])
    );
    assert_eq!(written("merged"), text(&tokens[..at]));

    fs::write(&path, r#"{"eos_token_id": "</s>"}"#).unwrap();
    workshop
        .fuselm("generate --model models/pivot --prompt Hello")
        .exits(1)
        .says(&["generation_config.json", "`eos_token_id`"]);
    fs::write(&path, Value::Null.to_string()).unwrap();
    workshop
        .fuselm("generate --model models/pivot --prompt Hello")
        .exits(1)
        .says(&["generation_config.json"]);
}
