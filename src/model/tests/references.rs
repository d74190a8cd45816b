//! Agreement with models run by others.

use candle_core::IndexOp;

use super::*;

/// Folders of `tests/models`, written by transformers 5.24 (`scripts/make_model_goldens.py`).
#[test]
fn logits_of_committed_models_agree_with_transformers() {
    let dirs = folders(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models"));
    for dir in &dirs {
        agrees(dir);
    }
    assert!(dirs.len() >= 2, "{dirs:?}");
}

/// The model in `dir` gives the logits of `expected.safetensors`.
fn agrees(dir: &Path) {
    let expected = dir.join("expected.safetensors");
    let expected = candle_core::safetensors::load(expected, &Device::Cpu).unwrap();
    let ids = expected["ids"].to_dtype(DType::U32).unwrap();
    for mode in [Mode::Inference, Mode::Training] {
        let decoder = Decoder::load(dir, &options(mode)).unwrap();
        let logits = all_logits(&decoder, &ids).reshape(expected["logits"].shape());
        let difference = largest_difference(&logits.unwrap(), &expected["logits"]);
        assert!(
            difference < 1e-4,
            "{} {mode:?}: {difference}",
            dir.display()
        );
    }
}

/// `tests/golden`-style folders written by transformers 5.12 (`how_made.py` beside them).
#[test]
fn logits_agree_with_transformers() {
    let Some(shared) = shared() else { return };
    let mut run = Vec::new();
    for dir in folders(&shared.join("golden/models")) {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        agrees(&dir);
        run.push(name);
    }
    for name in [
        "llama",
        "llama3-rope",
        "llama-tied",
        "mistral",
        "mistral-window",
        "mixtral",
        "qwen2",
        "qwen3",
        "gemma2",
        "phi3",
        "mpt",
    ] {
        assert!(run.iter().any(|done| done == name), "{name} did not run");
    }
}

/// Trained models; references confirmed with transformers (`reference.json` beside them).
#[test]
fn trained_models_agree_with_their_references() {
    let Some(shared) = shared() else { return };
    for dir in folders(&shared.join("assets/models")) {
        let text = std::fs::read_to_string(dir.join("reference.json")).unwrap();
        let reference: Value = serde_json::from_str(&text).unwrap();
        let ids =
            |field: &str| -> Vec<u32> { serde_json::from_value(reference[field].clone()).unwrap() };
        let numbers =
            |field: &str| -> Vec<f64> { serde_json::from_value(reference[field].clone()).unwrap() };
        let decoder = Decoder::load(&dir, &options(Mode::Inference)).unwrap();
        let tokens = ids("ids");
        let vocab = decoder.config().vocab_size;
        let input = Tensor::from_slice(&tokens, (1, tokens.len()), &Device::Cpu).unwrap();
        let hidden = decoder.hidden(&input).unwrap().squeeze(0).unwrap();

        let logits = decoder.logits(&hidden).unwrap();
        let first = logits.i((0, ..8)).unwrap().to_vec1::<f32>().unwrap();
        for (got, want) in first.iter().zip(numbers("logits_row0_first8")) {
            assert!(
                (f64::from(*got) - want).abs() < 1e-4 + 5e-5,
                "{}",
                dir.display()
            );
        }
        let rows = hidden.narrow(0, 0, tokens.len() - 1).unwrap();
        let nll = numbers("per_token_nll");
        let wanted = Wanted {
            targets: &tokens[1..],
            vocab_len: vocab,
            listed: Listed::Best(0),
        };
        next_token(decoder.head(), &rows, &wanted, |row, next| {
            let difference = f64::from(next.target_logprob) + nll[row];
            assert!(
                difference.abs() < 1e-4,
                "{} row {row}: {difference}",
                dir.display()
            );
            Ok(())
        })
        .unwrap();

        let greedy = ids("greedy");
        let settings = GenerateOptions {
            temperature: 0.0,
            max_new_tokens: greedy.len().saturating_sub(5),
            ..GenerateOptions::default()
        };
        let mut streamed = Vec::new();
        let new = generate(&decoder, &greedy[..5], vocab, &settings, |token| {
            streamed.push(token);
            Ok(())
        })
        .unwrap();
        assert_eq!(new, streamed);
        assert_eq!(new, greedy[5..], "{}", dir.display());
    }
}
