//! How fast the stages are, on the data samples: medians of five runs.
//!
//! ```text
//! cargo bench --bench stages
//! ```
//!
//! The table times whole stages, files included, as a run records them; what follows, tokenising
//! with byte ends alone, also of texts that are made to be slow. Alignment, maps and projection have
//! a bench of their own, `align`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use fuselm::vocab::SpecialTokens;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use fuselm::artifact::RunDir;
use fuselm::recipe::{self, Recipe, Record, Selection};
use fuselm::text;
use fuselm::vocab::Tokenizer;
use serde_json::{Value, json};

const RUNS: usize = 5;

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data-samples")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Seconds that `work` takes, the median of several runs.
fn time(mut work: impl FnMut()) -> f64 {
    let runs = (0..RUNS).map(|_| {
        let started = Instant::now();
        work();
        started.elapsed().as_secs_f64()
    });
    median(runs.collect())
}

/// Seconds of each step of a run without training, the median of several runs.
fn stages(dir: &Path) -> BTreeMap<String, f64> {
    let samples = samples();
    let recipe = format!(
        "corpus: {{ inputs: [{0}/chat/train.jsonl] }}\n\
         pivot: {{ name: pivot, model: {0}/models/pivot }}\n\
         sources: [ {{ name: atlas, model: {0}/models/atlas }} ]\n",
        samples.display()
    );
    let path = dir.join("recipe.yml");
    fs::write(&path, recipe).unwrap();
    let mut seconds: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for run in 0..RUNS {
        let run = RunDir::new(dir.join(format!("run-{run}")));
        let recipe = Recipe::load(&path).unwrap();
        let models = recipe::open_models(&recipe).unwrap();
        let device = candle_core::Device::Cpu;
        let plan = recipe::plan(recipe, &models, run.clone(), device).unwrap();
        plan.run(&Selection::default()).unwrap();
        for entry in fs::read_dir(run.stages()).unwrap() {
            let text = fs::read_to_string(entry.unwrap().path()).unwrap();
            if let Ok(record) = serde_json::from_str::<Record>(&text) {
                seconds.entry(record.step).or_default().push(record.seconds);
            }
        }
    }
    seconds
        .into_iter()
        .map(|(step, all)| (step, median(all)))
        .collect()
}

/// A tokenizer of these parts.
fn tokenizer(normalizer: &Value, pre_tokenizer: &Value, model: &Value) -> Tokenizer {
    let spec = json!({
        "added_tokens": [], "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "post_processor": null, "decoder": null, "model": model,
    });
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tokenizer.json"), spec.to_string()).unwrap();
    Tokenizer::load(dir.path()).unwrap()
}

/// Texts in which normalisers and unknown words leave little to hold on to, with tokenizers in
/// the shape of BERT's, T5's and one that squeezes blanks.
fn hostile() {
    let bert = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
        "strip_accents": null, "lowercase": true});
    let wordpiece = json!({"type": "WordPiece", "unk_token": "[UNK]", "vocab": {"[UNK]": 0, "a": 1,
        "b": 2}, "continuing_subword_prefix": "##", "max_input_chars_per_word": 100});
    let squeezed = |content: &str| json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": content});
    let of = |parts: &[Value]| json!({"type": "Sequence", "normalizers": parts});
    let t5 = of(&[
        json!({"type": "Nmt"}),
        json!({"type": "NFKC"}),
        squeezed(" "),
    ]);
    let nfc = of(&[json!({"type": "NFC"}), squeezed("\u{2581}")]);
    let space = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always"});
    let unigram = json!({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0],
        ["\u{2581}", -2.0], ["\u{e9}", -3.0]]});
    let bpe = json!({"type": "BPE", "unk_token": "<unk>", "vocab": {"<unk>": 0, "\u{2581}": 1},
        "merges": []});
    println!("\n| text | tokenizer | bytes | seconds |\n|---|---|---:|---:|");
    for (name, text, shape, tokenizer) in [
        (
            "`\u{1f600} a b ` \u{d7} 18,000",
            "\u{1f600} a b ".repeat(18_000),
            "BERT, uncased",
            tokenizer(&bert, &json!({"type": "BertPreTokenizer"}), &wordpiece),
        ),
        (
            "`e\\u0301a\\u0308\\u200b ` \u{d7} 8,000",
            "e\u{301}a\u{308}\u{200b} ".repeat(8_000),
            "T5",
            tokenizer(&t5, &space, &unigram),
        ),
        (
            "blanks",
            " ".repeat(100_000),
            "NFC, blanks squeezed",
            tokenizer(&nfc, &space, &bpe),
        ),
    ] {
        let seconds = time(|| {
            std::hint::black_box(tokenizer.encode(&text).unwrap());
        });
        println!("| {name} | {shape} | {} | {seconds:.2} |", text.len());
    }
}

fn main() {
    // As in the program: candle's own pool only gets in the way of ours.
    // SAFETY: no other thread exists yet.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    fuselm::progress::set_quiet(true);

    let pivot = Tokenizer::load(&samples().join("models/pivot")).unwrap();
    let transcripts: Vec<text::Transcript> = text::read(&samples().join("chat/train.jsonl"), None)
        .unwrap()
        .map(|record| {
            text::transcript(&record.unwrap().chat, pivot.template())
                .unwrap()
                .transcript
        })
        .collect();
    let bytes: usize = transcripts
        .iter()
        .map(|transcript| transcript.text.len())
        .sum();
    let encode = || -> usize {
        let rows = transcripts.iter().map(|transcript| {
            pivot
                .encode_transcript(transcript, None, SpecialTokens::Text)
                .unwrap()
        });
        rows.map(|row| row.ids.len()).sum()
    };
    let tokens = encode();

    let dir = tempfile::tempdir().unwrap();
    println!("| stage | seconds | pivot tokens/s |\n|---|---:|---:|");
    // The rest works on vocabularies, not on tokens.
    let per_token = [
        "corpus samples",
        "corpus tokens",
        "score",
        "align",
        "project",
        "fuse",
    ];
    for (step, seconds) in stages(dir.path()) {
        if !per_token.iter().any(|name| step.starts_with(name)) {
            continue;
        }
        println!("| {step} | {seconds:.3} | {:.0} |", tokens as f64 / seconds);
    }

    let seconds = time(|| {
        std::hint::black_box(encode());
    });
    println!(
        "\ntokens with byte ends, one thread: {:.1} MB/s",
        bytes as f64 / seconds / 1e6
    );
    hostile();
}
