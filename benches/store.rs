//! What storing distributions takes and costs: bytes a token, KL divergence, speed on one thread.
//!
//! ```text
//! cargo bench --bench store
//! ```
//!
//! *Synthetic* distributions, the same every time, over a vocabulary of 152 k: at each position
//! a ~ LogNormal(ln 1.5, 0.4); the log-probability of rank r is −a ln r + N(0, 0.3), normalised over
//! 2,000 ranks; the ids of the ranks are drawn without replacement from Zipf(1) over a fixed
//! permutation of the vocabulary; the true token is drawn from the distribution. *Real* ones are
//! those of stories3M on TinyStories, where `FUSELM_TEST_SHARED` (default `../shared`) has them.
//!
//! Bytes are those of the whole file: ids, log-probabilities, tail, true token and its
//! cross-entropy, position, footer. The divergence is that of the list as read from the list as
//! scored, both scaled to one. Speeds are by the processor time of the one thread that works.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use fuselm::vocab::{SpecialTokens, Tokenizer};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use fuselm::artifact::distribution::{Distribution, DistributionBuilder, Distributions};
use fuselm::artifact::tokens::SampleTokens;
use fuselm::artifact::{Artifact, Existing, Kind, PartInfo, Provenance, Writer};
use fuselm::model::{LoadOptions, Mode, PredictOptions, Predictions, Predictor, predict};
use fuselm::text;

const VOCABULARY: usize = 152_064;
const RANKS: usize = 2_000;
const POSITIONS: usize = 100_000;
/// Positions of a sample.
const SAMPLE: usize = 500;
/// Longest list that is kept.
const MOST: usize = 64;
/// Random draws of the rows in mode `sampled`.
const DRAWS: u16 = 32;
const RUNS: usize = 5;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// In (0, 1).
    fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// A position: its list at k = 64, and what else is stored.
struct Row {
    ids: Vec<u32>,
    logprobs: Vec<f32>,
    tail_logprob: f32,
    target_id: u32,
    target_logprob: f32,
}

impl Row {
    /// Log of the probability outside the first `k`.
    fn tail(&self, k: usize) -> f32 {
        let rest = self.logprobs[k..].iter().map(|x| f64::from(*x).exp());
        let tail = f64::from(self.tail_logprob).exp() + rest.sum::<f64>();
        tail.ln() as f32
    }
}

/// Where in a rising table of sums a number falls.
fn place(sums: &[f64], number: f64) -> usize {
    let scaled = number * sums[sums.len() - 1];
    sums.partition_point(|sum| *sum < scaled)
        .min(sums.len() - 1)
}

/// The list at each position, and the ids of `DRAWS` random draws from it.
fn synthetic() -> (Vec<Row>, Vec<Vec<u32>>) {
    let mut random = Random(5);
    let mut permutation: Vec<u32> = (0..VOCABULARY as u32).collect();
    for at in (1..VOCABULARY).rev() {
        permutation.swap(at, (random.next() % (at as u64 + 1)) as usize);
    }
    let mut total = 0.0;
    let zipf: Vec<f64> = (1..=VOCABULARY)
        .map(|rank| {
            total += 1.0 / rank as f64;
            total
        })
        .collect();
    let position = |_| {
        let a = (1.5f64.ln() + 0.4 * random.normal()).exp();
        let mut logprobs: Vec<f64> = (1..=RANKS)
            .map(|rank| -a * (rank as f64).ln() + 0.3 * random.normal())
            .collect();
        let all = logprobs.iter().map(|x| x.exp()).sum::<f64>().ln();
        logprobs.iter_mut().for_each(|x| *x -= all);
        let mut sum = 0.0;
        let sums: Vec<f64> = logprobs
            .iter()
            .map(|x| {
                sum += x.exp();
                sum
            })
            .collect();
        let target = place(&sums, random.uniform());
        let drawn: Vec<usize> = (0..DRAWS).map(|_| place(&sums, random.uniform())).collect();
        let mut order: Vec<usize> = (0..RANKS).collect();
        order.sort_by(|a, b| logprobs[*b].total_cmp(&logprobs[*a]));
        // Ranks are drawn in order, so those beyond the last one used need not be.
        let used = order[..MOST].iter().chain([&target]).chain(&drawn).max();
        let mut seen = HashSet::new();
        let mut ids = Vec::new();
        while ids.len() <= *used.unwrap() {
            let id = permutation[place(&zipf, random.uniform())];
            if seen.insert(id) {
                ids.push(id);
            }
        }
        let listed = &order[..MOST];
        let rest = order[MOST..].iter().map(|at| logprobs[*at].exp());
        let row = Row {
            ids: listed.iter().map(|at| ids[*at]).collect(),
            logprobs: listed.iter().map(|at| logprobs[*at] as f32).collect(),
            tail_logprob: rest.sum::<f64>().ln() as f32,
            target_id: ids[target],
            target_logprob: logprobs[target] as f32,
        };
        (row, drawn.iter().map(|at| ids[*at]).collect())
    };
    (0..POSITIONS).map(position).unzip()
}

/// What stories3M predicts on a part of its text.
fn real(shared: &Path) -> Option<Vec<Row>> {
    let folder = shared.join("assets/models/stories3M");
    let stories = shared.join("assets/text/domains/stories_val.jsonl");
    let tokenizer = Tokenizer::load(&folder).ok()?;
    let samples: Vec<SampleTokens> = text::read(&stories, None)
        .ok()?
        .take(150)
        .map(|record| {
            let chat = record.unwrap().chat;
            let transcript = text::transcript(&chat, tokenizer.template())
                .unwrap()
                .transcript;
            let tokens = tokenizer
                .encode_transcript(&transcript, None, SpecialTokens::Text)
                .unwrap();
            let kept = tokens.ids.len().min(256);
            SampleTokens {
                sample_id: 0,
                ids: tokens.ids[..kept].to_vec(),
                byte_end: tokens.byte_end[..kept].to_vec(),
                supervised: vec![true; kept],
            }
        })
        .collect();
    let load = LoadOptions {
        device: Device::Cpu,
        dtype: DType::F32,
        mode: Mode::Inference,
    };
    let model = Predictor::open(&folder, &load, None).ok()?;
    let options = PredictOptions {
        vocab_len: tokenizer.vocabulary().len(),
        k: MOST,
        draws: None,
        batch_tokens: 4096,
    };
    let mut found: Vec<Predictions> = Vec::new();
    predict(&model, &samples, &options, &|_| (), |_, predictions| {
        found.extend(predictions);
        Ok(())
    })
    .ok()?;
    let rows = found.iter().flat_map(|found| {
        (0..found.pos.len()).map(|row| Row {
            ids: found.ids[row * MOST..][..MOST].to_vec(),
            logprobs: found.logprobs[row * MOST..][..MOST].to_vec(),
            tail_logprob: found.tail_logprob[row],
            target_id: found.target_id[row],
            target_logprob: found.target_logprob[row],
        })
    });
    Some(rows.collect())
}

fn write(dir: &Path, push: impl Fn(&mut DistributionBuilder, u64, u32, usize), count: usize) {
    let provenance = Provenance::new(Kind::Topk).vocabulary("v");
    let writer = Writer::create(dir, provenance, Existing::Replace).unwrap();
    let mut part = writer
        .part(PartInfo {
            index: 0,
            first_sample: 0,
            samples: count.div_ceil(SAMPLE) as u64,
            last: true,
        })
        .unwrap();
    let mut rows = DistributionBuilder::topk();
    for at in 0..count {
        push(&mut rows, (at / SAMPLE) as u64, (at % SAMPLE) as u32, at);
        if rows.rows() == 8192 {
            part.write(&rows.finish().unwrap()).unwrap();
        }
    }
    part.write(&rows.finish().unwrap()).unwrap();
    part.finish().unwrap();
}

fn for_each_row(dir: &Path, mut see: impl FnMut(Distribution<'_>)) {
    let artifact = Artifact::open(dir, Kind::Topk).unwrap();
    for batch in artifact.parts()[0].batches().unwrap() {
        let batch = batch.unwrap();
        let rows = Distributions::new(&batch).unwrap();
        for row in 0..rows.len() {
            see(rows.row(row));
        }
    }
}

/// Divergence, in nats, of the list `found` from the first entries of `row`, both scaled to one.
fn divergence(row: &Row, found: &Distribution<'_>) -> f64 {
    let k = found.ids.len();
    let log_sum = |list: &[f32]| list.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
    let (p_all, q_all) = (log_sum(&row.logprobs[..k]), log_sum(found.logprobs));
    let terms = row.ids[..k].iter().zip(&row.logprobs).map(|(id, logprob)| {
        let at = found.ids.iter().position(|other| other == id).unwrap();
        let p = f64::from(*logprob) - p_all;
        let q = f64::from(found.logprobs[at]) - q_all;
        p.exp() * (p - q)
    });
    terms.sum()
}

/// Processor time of this thread, which other programs do not change much.
fn processor_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the result.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Bytes of the artifact in `dir`.
fn bytes(dir: &Path) -> u64 {
    Artifact::open(dir, Kind::Topk).unwrap().bytes()
}

fn measure(name: &str, rows: &[Row], k: usize) {
    let dir = tempfile::tempdir().unwrap();
    let tails: Vec<f32> = rows.iter().map(|row| row.tail(k)).collect();
    let push = |builder: &mut DistributionBuilder, sample, pos, at: usize| {
        let row = &rows[at];
        let distribution = Distribution {
            pos,
            target_id: row.target_id,
            target_logprob: row.target_logprob,
            tail_logprob: tails[at],
            ids: &row.ids[..k],
            logprobs: &row.logprobs[..k],
        };
        builder.push(sample, distribution);
    };
    let time = |work: &dyn Fn()| {
        let started = processor_seconds();
        work();
        rows.len() as f64 / (processor_seconds() - started) / 1e6
    };
    let written = (0..RUNS).map(|_| time(&|| write(dir.path(), push, rows.len())));
    let written = median(written.collect());
    let read = (0..RUNS).map(|_| {
        time(&|| {
            for_each_row(dir.path(), |row| {
                std::hint::black_box(row.ids);
            });
        })
    });
    let read = median(read.collect());
    let mut divergences = Vec::with_capacity(rows.len());
    for_each_row(dir.path(), |row| {
        divergences.push(divergence(&rows[divergences.len()], &row));
    });
    let mean = divergences.iter().sum::<f64>() / rows.len() as f64;
    divergences.sort_by(f64::total_cmp);
    let p99 = divergences[divergences.len() * 99 / 100];
    println!(
        "| {name} | {k} | {:.1} | {mean:.1e} | {p99:.1e} | {written:.2} | {read:.2} |",
        bytes(dir.path()) as f64 / rows.len() as f64
    );
}

/// Rows of random draws.
fn measure_sampled(rows: &[Row], drawn: &[Vec<u32>]) {
    let dir = tempfile::tempdir().unwrap();
    let counted: Vec<(Vec<u32>, Vec<f32>)> = drawn
        .iter()
        .map(|ids| {
            let mut ids = ids.clone();
            ids.sort_unstable();
            let runs = ids.chunk_by(|a, b| a == b);
            let share = |run: &[u32]| (run.len() as f32 / f32::from(DRAWS)).ln();
            runs.map(|run| (run[0], share(run))).unzip()
        })
        .collect();
    let push = |builder: &mut DistributionBuilder, sample, pos, at: usize| {
        let distribution = Distribution {
            pos,
            target_id: rows[at].target_id,
            target_logprob: rows[at].target_logprob,
            tail_logprob: f32::NEG_INFINITY,
            ids: &counted[at].0,
            logprobs: &counted[at].1,
        };
        builder.push_drawn(sample, distribution, DRAWS);
    };
    write(dir.path(), push, rows.len());
    let distinct: usize = counted.iter().map(|(ids, _)| ids.len()).sum();
    println!(
        "\n{DRAWS} random draws, synthetic: {:.1} distinct ids, {:.1} bytes a token",
        distinct as f64 / rows.len() as f64,
        bytes(dir.path()) as f64 / rows.len() as f64
    );
}

fn main() {
    // As in the program: candle's own pool only gets in the way of ours.
    // SAFETY: no other thread exists yet.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    fuselm::progress::set_quiet(true);
    let shared = std::env::var("FUSELM_TEST_SHARED").unwrap_or_else(|_| "../shared".to_owned());

    let (rows, drawn) = synthetic();
    println!(
        "| distributions | k | bytes/token | KL, mean | KL, p99 | written, M tokens/s | read, M tokens/s |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for k in [10, 32, 64] {
        measure("synthetic, 152 k ids", &rows, k);
    }
    if let Some(rows) = real(&PathBuf::from(shared)) {
        for k in [10, 32, 64] {
            measure("stories3M, 4 k ids", &rows, k);
        }
    }
    measure_sampled(&rows, &drawn);
}
