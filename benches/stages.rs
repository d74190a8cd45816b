//! How fast the stages are, on the data samples: medians of five runs.
//!
//! ```text
//! cargo bench --bench stages
//! ```
//!
//! The first table times whole stages, files included, as a run records them. The second times
//! what they spend their time on: tokenising with byte ends, aligning by offsets, and the
//! vocabulary map by edit distance (between Llama 3's 128 k and Llama 2's 32 k tokens where
//! `FUSELM_TEST_SHARED`, default `../shared`, has their tokenizers).

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use fuselm::align::links;
use fuselm::artifact::RunDir;
use fuselm::mapping::{MapInputs, MapOptions, Method, map};
use fuselm::recipe::{self, Recipe, Record};
use fuselm::text;
use fuselm::vocab::Tokenizer;

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
        let plan = recipe::plan(recipe, run.clone(), candle_core::Device::Cpu).unwrap();
        plan.run(None).unwrap();
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

fn main() {
    // As in the program: candle's own pool only gets in the way of ours.
    // SAFETY: no other thread exists yet.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    fuselm::progress::set_quiet(true);

    let pivot = Tokenizer::load(&samples().join("models/pivot")).unwrap();
    let atlas = Tokenizer::load(&samples().join("models/atlas")).unwrap();
    let transcripts: Vec<text::Transcript> = text::read(&samples().join("chat/train.jsonl"), None)
        .unwrap()
        .map(|record| text::transcript(&record.unwrap().messages, pivot.template()).unwrap())
        .collect();
    let bytes: usize = transcripts
        .iter()
        .map(|transcript| transcript.text.len())
        .sum();
    let encode = |tokenizer: &Tokenizer| -> Vec<Vec<u32>> {
        let rows = transcripts.iter().map(|transcript| {
            tokenizer
                .encode_transcript(transcript, Some(&pivot))
                .unwrap()
                .byte_end
        });
        rows.collect()
    };
    let (ours, theirs) = (encode(&pivot), encode(&atlas));
    let tokens: usize = ours.iter().map(Vec::len).sum();

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

    println!("\n| work, one thread | rate |\n|---|---:|");
    let seconds = time(|| drop(encode(&pivot)));
    println!(
        "| tokens with byte ends | {:.1} MB/s |",
        bytes as f64 / seconds / 1e6
    );
    let seconds = time(|| {
        for (ours, theirs) in ours.iter().zip(&theirs) {
            for link in links(ours, theirs) {
                std::hint::black_box(link);
            }
        }
    });
    println!(
        "| alignment by offsets | {:.1} M tokens/s |",
        tokens as f64 / seconds / 1e6
    );

    let shared = std::env::var("FUSELM_TEST_SHARED").unwrap_or_else(|_| "../shared".to_owned());
    let large =
        |name: &str| Tokenizer::load(&Path::new(&shared).join("assets/tokenizers").join(name));
    let (source, target, what) = match (large("llama-3"), large("llama-2")) {
        (Ok(source), Ok(target)) => (source, target, "Llama 3 to Llama 2"),
        _ => (atlas, pivot, "atlas to pivot"),
    };
    let inputs = MapInputs {
        source: source.vocabulary(),
        pivot: target.vocabulary(),
        first_token: &|bytes| target.first_token(bytes),
        alignment: None,
    };
    let options = MapOptions {
        method: Method::Mined,
        width: 1,
    };
    let started = Instant::now();
    map(&inputs, &options, Vec::new()).unwrap();
    println!(
        "\nmap by edit distance, {what}, all threads, once: {:.1} s",
        started.elapsed().as_secs_f64()
    );
}
