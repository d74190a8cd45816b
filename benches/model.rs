//! Tokens per second of scoring and training on the CPU, beside PyTorch and beside the matrix
//! products alone.
//!
//! ```text
//! cargo bench --bench model -- --size 135m --threads 2 --python python3 --rounds 5
//! ```
//!
//! A Llama of 8 M parameters, or with `--size 135m` the shape of SmolLM2-135M, with random weights;
//! `--model FOLDER` takes a real one (PyTorch has its shape). Batches of 8 × 256 tokens, f32. Scoring
//! is the forward pass and the 10 best log-probabilities of all positions; training is forward,
//! backward, clipping and AdamW. The products are those with the parameters, by the same library
//! with the same threads and micro batches, and nothing else: no program can be faster with them. Rounds
//! alternate, so that other load on the machine meets all; medians. Without `--python` there is no
//! PyTorch; `--only score|train` leaves the other out; `--profile score|train` repeats ours alone;
//! `--checkpointing true` trains with gradient checkpointing.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use candle_core::{DType, Device, Storage, Var};
use fuselm::artifact::tokens::SampleTokens;
use fuselm::model::{Config, Decoder, LoadOptions, Mode, PredictOptions, Predictor, predict};
use fuselm::train::batching::Batching;
use fuselm::train::data::MicroBatch;
use fuselm::train::gradient::micro_gradient;
use fuselm::train::gradients::Gradients;
use fuselm::train::loss::Weights;
use fuselm::train::optim::{AdamW, Group, Settings};
use fuselm::train::rows::Rows;
use fuselm::train::workers::Workers;
use fuselm::train::{Checkpointing, Tail, TrainOptions};
use rayon::prelude::*;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH: usize = 8;
const LEN: usize = 256;
const BATCHES: usize = 2;

/// A `config.json` by the name of a size.
fn shape(size: &str) -> serde_json::Value {
    match size {
        "8m" => serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": 4096, "hidden_size": 256,
            "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 8,
            "num_key_value_heads": 4, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false,
        }),
        "135m" => serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": 49152, "hidden_size": 576,
            "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
            "num_key_value_heads": 3, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
            "rope_theta": 100000.0, "hidden_act": "silu", "tie_word_embeddings": true,
        }),
        other => panic!("no size `{other}`: 8m or 135m"),
    }
}

/// The model of the bench.
struct Model {
    config: Config,
    /// Where its weights are; else they are random.
    folder: Option<PathBuf>,
}

impl Model {
    fn new(flags: &BTreeMap<String, String>) -> Self {
        if let Some(folder) = flags.get("--model") {
            let folder = PathBuf::from(folder);
            return Self {
                config: Config::load(&folder).unwrap(),
                folder: Some(folder),
            };
        }
        let config = shape(flags.get("--size").map_or("8m", String::as_str));
        let config = config.as_object().unwrap().clone();
        Self {
            config: Config::from_json(config, Path::new("config.json")).unwrap(),
            folder: None,
        }
    }

    fn decoder(&self, mode: Mode) -> Decoder {
        let options = LoadOptions {
            device: Device::Cpu,
            dtype: DType::F32,
            mode,
        };
        match &self.folder {
            Some(folder) => Decoder::load(folder.as_path(), &options).unwrap(),
            None => Decoder::random(self.config.clone(), &options, 1).unwrap(),
        }
    }

    fn vocabulary(&self) -> usize {
        self.config.vocab_size
    }

    /// What the PyTorch side is told.
    fn describe(&self) -> String {
        let c = &self.config;
        serde_json::json!({
            "vocabulary": c.vocab_size, "hidden": c.hidden_size, "inner": c.intermediate_size,
            "layers": c.num_hidden_layers, "heads": c.num_attention_heads,
            "groups": c.num_key_value_heads, "head_dim": c.head_dim,
            "tied": c.tie_word_embeddings, "batch": BATCH, "len": LEN, "batches": BATCHES,
        })
        .to_string()
    }

    /// As the trainer divides a step.
    fn batching(&self, checkpointing: bool) -> Batching {
        let options = TrainOptions {
            gradient_checkpointing: match checkpointing {
                true => Checkpointing::On,
                false => Checkpointing::Auto,
            },
            ..TrainOptions::default()
        };
        let trained = self.config.parameters();
        Batching::new(&self.config, trained, LEN, &options, &Device::Cpu)
    }

    fn samples(&self) -> Vec<SampleTokens> {
        let id = |index: usize, i: usize| (index * 7919 + i * i * 31 + i * 17) % self.vocabulary();
        let sample = |index: usize| SampleTokens {
            sample_id: index as u64,
            ids: (0..LEN).map(|i| id(index, i) as u32).collect(),
            byte_end: vec![0; LEN],
            supervised: (0..LEN).map(|i| i > 0).collect(),
        };
        (0..BATCH * BATCHES).map(sample).collect()
    }
}

fn score(model: &Predictor, samples: &[SampleTokens]) {
    let options = PredictOptions {
        vocab_len: model.config().vocab_size,
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
    batching: Batching,
    workers: Workers,
    gradients: Gradients,
    optimiser: AdamW,
    steps: Vec<Vec<MicroBatch>>,
}

impl Training {
    fn new(model: &Model, samples: &[SampleTokens], threads: usize, checkpointing: bool) -> Self {
        let (decoder, batching) = (model.decoder(Mode::Training), model.batching(checkpointing));
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
            let mut rows = Rows::new(model.vocabulary());
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
        let per_micro = (batching.tokens / LEN).clamp(1, BATCH);
        Self {
            workers: Workers::new(threads.min(BATCH / per_micro)).unwrap(),
            gradients: Gradients::zeros(decoder.params(), &Device::Cpu),
            optimiser: AdamW::new(decoder.params(), groups, settings).unwrap(),
            steps: samples
                .chunks(BATCH)
                .map(|batch| batch.chunks(per_micro).map(micro).collect())
                .collect(),
            batching,
            decoder,
        }
    }

    fn run(&mut self) {
        let (decoder, gradients) = (&self.decoder, &mut self.gradients);
        let checkpointing = self.batching.checkpointing;
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

    /// The products of [`Training::run`] alone.
    fn products(&self) {
        for step in &self.steps {
            let compute = |i: usize| {
                let micro: &MicroBatch = &step[i];
                products(&self.decoder, micro.sequences * micro.len, true);
                Ok(())
            };
            let count = step.len();
            self.workers
                .in_order(count, compute, |_, ()| Ok(()))
                .unwrap();
        }
    }
}

/// The products of scoring alone.
fn score_products(decoder: &Decoder) {
    (0..BATCHES)
        .into_par_iter()
        .for_each(|_| products(decoder, BATCH * LEN, false));
}

/// Products of `rows` hidden states with every matrix, with `backward` also those of the gradients.
fn products(decoder: &Decoder, rows: usize, backward: bool) {
    /// Rows at a time of the head, whose results are large.
    const HEAD_ROWS: usize = 256;
    let (config, params) = (decoder.config(), decoder.params());
    let (head, embedding) = (config.head_name(), config.embedding_name());
    let matrices: Vec<(&Var, usize, [usize; 2])> = params
        .iter()
        .filter(|(name, _)| *name == head || *name != embedding)
        .filter_map(|(name, weight)| {
            let at_once = if name == head { HEAD_ROWS } else { rows };
            let (out, inner) = weight.dims2().ok()?;
            Some((weight, at_once, [out, inner]))
        })
        .collect();
    // Made once for all matrices: memory is not what is measured.
    let room = |size: fn(usize, [usize; 2]) -> usize| {
        let sizes = matrices.iter().map(|(_, rows, dims)| size(*rows, *dims));
        vec![0.5f32; sizes.max().unwrap_or(0)]
    };
    let (x, y) = (
        room(|rows, dims| rows * dims[1]),
        room(|rows, dims| rows * dims[0]),
    );
    let (mut dx, mut dy) = (x.clone(), y.clone());
    let mut dweights = match backward {
        true => room(|_, dims| dims[0] * dims[1]),
        false => Vec::new(),
    };
    for (weight, at_once, [out, inner]) in matrices {
        let (storage, _) = weight.storage_and_layout();
        let Storage::Cpu(weights) = &*storage else {
            continue;
        };
        let weights = weights.as_slice::<f32>().unwrap();
        for _ in 0..rows.div_ceil(at_once) {
            // With row and column strides.
            let forward = (weights, [1, inner]);
            multiply((&x, [inner, 1]), forward, [at_once, inner, out], &mut dy);
            if backward {
                let weights = (weights, [inner, 1]);
                multiply((&y, [out, 1]), weights, [at_once, out, inner], &mut dx);
                let turned = (&y[..], [1, out]);
                multiply(
                    turned,
                    (&x, [inner, 1]),
                    [out, at_once, inner],
                    &mut dweights,
                );
            }
        }
    }
}

/// (m, k) times (k, n), by all threads.
fn multiply(
    (a, [a_row, a_column]): (&[f32], [usize; 2]),
    (b, [b_row, b_column]): (&[f32], [usize; 2]),
    [m, k, n]: [usize; 3],
    out: &mut [f32],
) {
    let parallelism = match rayon::current_num_threads() {
        1 => gemm::Parallelism::None,
        _ => gemm::Parallelism::Rayon(0),
    };
    assert!(a.len() >= m * k && b.len() >= k * n && out.len() >= m * n);
    let signed = |stride: usize| stride as isize;
    // SAFETY: the matrices lie within their slices.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            signed(n),
            false,
            a.as_ptr(),
            signed(a_column),
            signed(a_row),
            b.as_ptr(),
            signed(b_column),
            signed(b_row),
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
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
    fn start(python: &str, threads: usize, model: &Model) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/bench_torch.py");
        let mut child = Command::new(python)
            .arg(script)
            .arg(threads.to_string())
            .arg(model.describe())
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
    // As in the program: freed memory is kept, and candle's own pool only gets in the way of ours.
    let _kept = fuselm::memory::keep_freed(std::time::Duration::from_secs(30));
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

    let (model, checkpointing) = (Model::new(&flags), flags.contains_key("--checkpointing"));
    let samples = model.samples();
    let tasks: Vec<&str> = match flags.get("--only").or(flags.get("--profile")) {
        Some(task) => vec![task],
        None => vec!["score", "train"],
    };
    let inference = Predictor::Memory(Box::new(model.decoder(Mode::Inference)));
    let mut training = Training::new(&model, &samples, threads, checkpointing);
    if let Some(task) = flags.get("--profile") {
        for _ in 0..rounds {
            match task.as_str() {
                "score" => score(&inference, &samples),
                _ => training.run(),
            }
        }
        return;
    }
    let python = flags.get("--python");
    let mut torch = python.map(|python| Torch::start(python, threads, &model));
    let mut seconds: BTreeMap<(&str, &str), Vec<(f64, f64)>> = BTreeMap::new();
    // One round to warm up.
    for round in 0..=rounds {
        for &task in &tasks {
            let mut add = |who: &'static str, time: (f64, f64)| {
                let all = seconds.entry((task, who)).or_default();
                if round > 0 {
                    all.push(time);
                }
            };
            match task {
                "score" => {
                    add("ours", time(|| score(&inference, &samples)));
                    add("products", time(|| score_products(&training.decoder)));
                }
                _ => {
                    add("ours", time(|| training.run()));
                    add("products", time(|| training.products()));
                }
            }
            if let Some(torch) = &mut torch {
                if model.folder.is_none() && model.config.hidden_size < 512 {
                    add("torch eager", torch.time(task, "eager"));
                }
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
