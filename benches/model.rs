//! Tokens per second of scoring and training on the CPU, beside PyTorch.
//!
//! ```text
//! cargo bench --bench model -- --threads 1 --python python3 --rounds 7
//! ```
//!
//! A Llama of 8 M parameters (random weights), batches of 8 × 256 tokens. Scoring is the forward
//! pass and the 10 best log-probabilities of all positions; training is forward, backward,
//! clipping and AdamW. Rounds of the programs alternate, so that other load on the machine meets all
//! of them; medians. Without `--python` only ours runs; `--profile score|train` repeats that alone;
//! `--checkpointing true` trains with gradient checkpointing.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use candle_core::{DType, Device};
use fuselm::artifact::tokens::SampleTokens;
use fuselm::model::{Config, Decoder, LoadOptions, Mode, PredictOptions, Predictor, predict};
use fuselm::train::Tail;
use fuselm::train::data::MicroBatch;
use fuselm::train::gradient::micro_gradient;
use fuselm::train::gradients::Gradients;
use fuselm::train::loss::Weights;
use fuselm::train::optim::{AdamW, Group, Settings};
use fuselm::train::rows::Rows;
use fuselm::train::workers::Workers;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const VOCABULARY: usize = 4096;
const BATCH: usize = 8;
const LEN: usize = 256;
const BATCHES: usize = 2;
/// Tokens of a micro batch, as the trainer chooses them.
const MICRO: usize = 1024;

fn decoder(mode: Mode) -> Decoder {
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": VOCABULARY, "hidden_size": 256,
        "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 8,
        "num_key_value_heads": 4, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "tie_word_embeddings": false,
    });
    let config = config.as_object().unwrap().clone();
    let config = Config::from_json(config, Path::new("config.json")).unwrap();
    let options = LoadOptions {
        device: Device::Cpu,
        dtype: DType::F32,
        mode,
    };
    Decoder::random(config, &options, 1).unwrap()
}

fn sample(index: usize) -> SampleTokens {
    let ids = (0..LEN).map(|i| ((index * 7919 + i * i * 31 + i * 17) % VOCABULARY) as u32);
    SampleTokens {
        sample_id: index as u64,
        ids: ids.collect(),
        byte_end: vec![0; LEN],
        supervised: (0..LEN).map(|i| i > 0).collect(),
    }
}

fn score(model: &Predictor, samples: &[SampleTokens]) {
    let options = PredictOptions {
        vocab_len: VOCABULARY,
        k: 10,
        draws: None,
        batch_tokens: BATCH * LEN,
    };
    predict(model, samples, &options, &|_| (), |_, found| {
        assert!(found.iter().all(|found| found.pos.len() == LEN - 1));
        Ok(())
    })
    .unwrap();
}

struct Training {
    decoder: Decoder,
    workers: Workers,
    gradients: Gradients,
    optimiser: AdamW,
    steps: Vec<Vec<MicroBatch>>,
}

impl Training {
    fn new(threads: usize, samples: &[SampleTokens]) -> Self {
        let decoder = decoder(Mode::Training);
        let settings = Settings {
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            clip: 1.0,
        };
        let alike = Group {
            lr_scale: 1.0,
            weight_decay: 0.0,
        };
        let groups = vec![alike; decoder.params().len()];
        let micro = |samples: &[SampleTokens]| {
            let mut rows = Rows::new(VOCABULARY);
            for (i, sample) in samples.iter().enumerate() {
                for pos in sample.predicted() {
                    let index = (i * LEN + pos) as u32;
                    rows.push(index, sample.ids[pos + 1], None, Tail::default())
                        .unwrap();
                }
            }
            MicroBatch {
                ids: samples
                    .iter()
                    .flat_map(|sample| sample.ids.clone())
                    .collect(),
                sequences: samples.len(),
                len: LEN,
                rows,
                samples: samples.iter().map(|sample| sample.sample_id).collect(),
                starts: None,
            }
        };
        Self {
            workers: Workers::new(threads).unwrap(),
            gradients: Gradients::zeros(decoder.params(), &Device::Cpu),
            optimiser: AdamW::new(decoder.params(), groups, settings).unwrap(),
            steps: samples
                .chunks(BATCH)
                .map(|batch| batch.chunks(MICRO / LEN).map(micro).collect())
                .collect(),
            decoder,
        }
    }

    fn run(&mut self, checkpointing: bool) {
        let (decoder, gradients) = (&self.decoder, &mut self.gradients);
        for step in &self.steps {
            let supervised = step.iter().map(|micro| micro.rows.len()).sum();
            let weights = Weights::new(1.0, supervised, 0);
            gradients.clear();
            self.workers
                .in_order(
                    step.len(),
                    |i| micro_gradient(decoder, &step[i], weights, 0, checkpointing),
                    |_, micro| gradients.add(&micro.params),
                )
                .unwrap();
            self.optimiser
                .step(decoder.params(), gradients, 1e-4)
                .unwrap();
        }
    }
}

/// User and system seconds of this process.
fn cpu_seconds() -> f64 {
    // SAFETY: `usage` is a plain struct that the call fills.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// Wall and CPU seconds of `work`.
fn time(work: impl FnOnce()) -> (f64, f64) {
    let (started, cpu) = (Instant::now(), cpu_seconds());
    work();
    (started.elapsed().as_secs_f64(), cpu_seconds() - cpu)
}

struct Torch {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Torch {
    fn start(python: &str, threads: usize) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/bench_torch.py");
        let mut child = Command::new(python)
            .arg(script)
            .arg(threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut torch = Self { child, answers };
        println!("{}", torch.answer());
        torch
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn time(&mut self, task: &str, attention: &str) -> (f64, f64) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{task} {attention}").unwrap();
        let answer = self.answer();
        let (wall, cpu) = answer.split_once(' ').unwrap();
        (wall.parse().unwrap(), cpu.parse().unwrap())
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    // As in the program: candle's own pool only gets in the way of ours.
    // SAFETY: no other thread exists yet.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    let mut flags = BTreeMap::new();
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(flag) = args.next() {
        flags.insert(flag, args.next().unwrap());
    }
    let number =
        |flag: &str, default: usize| flags.get(flag).map_or(default, |n| n.parse().unwrap());
    let (threads, rounds) = (number("--threads", 1), number("--rounds", 7));
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .unwrap();

    let checkpointing = flags.contains_key("--checkpointing");
    let samples: Vec<SampleTokens> = (0..BATCH * BATCHES).map(sample).collect();
    let inference = Predictor::Memory(Box::new(decoder(Mode::Inference)));
    let mut training = Training::new(threads, &samples);
    if let Some(task) = flags.get("--profile") {
        for _ in 0..rounds {
            match task.as_str() {
                "score" => score(&inference, &samples),
                _ => training.run(checkpointing),
            }
        }
        return;
    }
    let mut torch = flags
        .get("--python")
        .map(|python| Torch::start(python, threads));
    let mut seconds: BTreeMap<(&str, &str), Vec<(f64, f64)>> = BTreeMap::new();
    // One round to warm up.
    for round in 0..=rounds {
        for task in ["score", "train"] {
            let mut add = |who: &'static str, time: (f64, f64)| {
                let all = seconds.entry((task, who)).or_default();
                if round > 0 {
                    all.push(time);
                }
            };
            match task {
                "score" => add("ours", time(|| score(&inference, &samples))),
                _ => add("ours", time(|| training.run(checkpointing))),
            }
            if let Some(torch) = &mut torch {
                add("torch eager", torch.time(task, "eager"));
                add("torch sdpa", torch.time(task, "sdpa"));
            }
        }
    }
    println!("| {threads} threads | | tokens/s | tokens/CPU-s | ours / it, tokens/s |");
    println!("|---|---|---:|---:|---:|");
    let tokens = (BATCHES * BATCH * LEN) as f64;
    for ((task, who), times) in &seconds {
        let ours = &seconds[&(*task, "ours")];
        let wall = median(times.iter().map(|time| tokens / time.0));
        let cpu = median(times.iter().map(|time| tokens / time.1));
        let ratio = median(times.iter().zip(ours).map(|(it, ours)| it.0 / ours.0));
        println!("| {task} | {who} | {wall:.0} | {cpu:.0} | {ratio:.2} |");
    }
    if let Some(mut torch) = torch {
        drop(torch.child.stdin.take());
        torch.child.wait().unwrap();
    }
}
