//! What training costs as the data grows: 1, 10 and 50 million tokens with targets, the same steps
//! of the same tiny model.
//!
//! ```sh
//! cargo bench --bench data_size
//! ```
//!
//! Each size is trained in a process of its own, so that its peak memory is its own. Needs about 4 GB
//! of disk in the folder for temporary files; Linux only (peak memory is read from /proc).

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use fuselm::artifact::targets::{Target, TargetBuilder};
use fuselm::artifact::tokens::{SampleTokens, to_batch};
use fuselm::artifact::{Existing, Kind, PartInfo, Provenance, Writer};
use fuselm::train::{Init, Train, TrainOptions};

const VOCABULARY: u32 = 256;
/// Tokens of a sample.
const LENGTH: u64 = 256;
/// Samples of a part, as `corpus` makes them.
const PART: u64 = 4096;
const STEPS: u64 = 40;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("train"), Some(dir)) => train(Path::new(&dir)),
        _ => all_sizes(),
    }
}

fn all_sizes() -> Result<(), Box<dyn Error>> {
    println!("| tokens | start | microseconds a token | waiting | peak memory |");
    println!("|---|---|---|---|---|");
    for millions in [1, 10, 50] {
        let dir = std::env::temp_dir().join(format!("fuselm-data-size-{}", std::process::id()));
        write(&dir, millions * 1_000_000 / LENGTH)?;
        let program = std::env::current_exe()?;
        let output = Command::new(program).arg("train").arg(&dir).output()?;
        std::fs::remove_dir_all(&dir)?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        let row = String::from_utf8(output.stdout)?;
        println!("| {millions} M {row}", row = row.trim_end());
    }
    Ok(())
}

/// Random tokens, with two probable tokens at each.
fn write(dir: &Path, samples: u64) -> Result<(), Box<dyn Error>> {
    let provenance = |kind| Provenance::new(kind).vocabulary("bench");
    let plain = Provenance::new(Kind::Tokens);
    let tokens = Writer::create(&dir.join("tokens"), plain, Existing::Replace)?;
    let targets = Writer::create(
        &dir.join("targets"),
        provenance(Kind::Targets),
        Existing::Replace,
    )?;
    let mut state = 1u64;
    for (index, first) in (0..samples).step_by(PART as usize).enumerate() {
        let count = PART.min(samples - first);
        let info = PartInfo {
            index: index as u32,
            first_sample: first,
            samples: count,
            last: first + count == samples,
        };
        let mut rows = TargetBuilder::default();
        let mut part = Vec::new();
        for id in first..first + count {
            let mut next = || {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 33) as u32 % VOCABULARY
            };
            let ids: Vec<u32> = (0..=LENGTH).map(|_| next()).collect();
            for (pos, pair) in ids.windows(2).enumerate() {
                let row = Target {
                    pos: pos as u32,
                    ids: &[pair[1], (pair[1] + 1) % VOCABULARY],
                    probs: &[0.75, 0.25],
                    tail: 0.0,
                };
                rows.push(id, row, "bench");
            }
            part.push(SampleTokens {
                sample_id: id,
                byte_end: (0..ids.len() as u32).collect(),
                supervised: (0..ids.len()).map(|i| i > 0).collect(),
                ids,
            });
        }
        let mut out = tokens.part(info)?;
        out.write(&to_batch(&part)?)?;
        out.finish()?;
        let mut out = targets.part(info)?;
        out.write(&rows.finish()?)?;
        out.finish()?;
    }
    Ok(())
}

fn train(dir: &Path) -> Result<(), Box<dyn Error>> {
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY,
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 512, "tie_word_embeddings": true,
    });
    let base = dir.join("base");
    std::fs::create_dir_all(&base)?;
    let options = TrainOptions {
        batch_tokens: 16_384,
        epochs: 1,
        max_steps: Some(STEPS),
        ..TrainOptions::default()
    };
    let train = Train {
        pivot: Init::Random {
            config: config.as_object().cloned().unwrap_or_default(),
            tokenizer: base,
        },
        tokens: dir.join("tokens"),
        targets: Some(dir.join("targets")),
        valid_tokens: None,
        out: dir.join("out"),
        steps_out: dir.join("steps"),
        name: "bench".to_owned(),
        device: candle_core::Device::Cpu,
        options,
    };
    fuselm::progress::set_quiet(true);
    let started = Instant::now();
    let summary = train.perform(Existing::Replace)?;
    let total = started.elapsed().as_secs_f64();
    let steps = summary.tokens as f64 / summary.tokens_per_second;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap_or("unknown");
    println!(
        "| {:.2} s | {:.2} | {:.2} % | {} |",
        total - steps,
        1e6 / summary.tokens_per_second,
        100.0 * summary.waiting,
        peak.trim()
    );
    Ok(())
}
