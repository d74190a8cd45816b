//! How fast alignment, vocabulary maps and projection are, on one core, and how much memory the
//! counting of aligned pairs takes.
//!
//! ```text
//! cargo bench --bench align                       # the table in the README
//! cargo bench --bench align -- projection         # only projection; a number after it: only that row
//! cargo bench --bench align -- count 200000000    # counts so many aligned pairs
//! ```
//!
//! Texts and tokenizers are those of `FUSELM_TEST_SHARED` (default `../shared`): Mistral's 32 k
//! tokens as the pivot, Qwen's 152 k as the source, samples of 2,048 pivot tokens. Where they
//! are absent, the data samples and their vocabularies stand in. The reverse pair is that of
//! `data-samples/reverse.yml`. Distributions are synthetic, 10 entries each: the true token, then
//! those that follow the same token elsewhere in the text, the most frequent first, as in lists of
//! a model; *random lists* are drawn by Zipf's law instead, which no memory of readings helps with.
//! Each figure is the median of five runs, in seconds of a core. The *store* is reading the
//! inputs and writing the output without projecting.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use fuselm::vocab::{SpecialTokens, Tokenizer};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use fuselm::align::{self, AlignInputs, AlignOptions, Sample, Spans, Warp, links};
use fuselm::artifact::alignment::{AlignmentBuilder, Link, LinkKind};
use fuselm::artifact::distribution::{Distribution, DistributionBuilder};
use fuselm::artifact::tokens::{SampleTokens, to_batch};
use fuselm::artifact::{Artifact, Existing, Kind, PartInfo, Provenance, Writer};
use fuselm::mapping::{self, MapInputs, MapOptions, Method};
use fuselm::project::{self, ProjectInputs, ProjectOptions, Short};
use fuselm::text::{self, SampleTranscript, Transcript, transcripts_to_batch};

const RUNS: usize = 5;

/// That of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tokens of a sample, by the pivot's tokenizer.
const LENGTH: usize = 2048;
/// Samples, at most: many enough that reading the maps counts for little, as in a real corpus.
const SAMPLES: usize = 512;
/// Entries of a distribution.
const K: usize = 10;

/// Seconds of a core that this process has used.
#[cfg(unix)]
fn core_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes one `timespec`, which is there.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Seconds on a clock, where there is no better.
#[cfg(not(unix))]
fn core_seconds() -> f64 {
    static STARTED: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    STARTED.get_or_init(Instant::now).elapsed().as_secs_f64()
}

/// Seconds of a core that `work` takes, the median of several runs. Other programs do not count,
/// so that the figures mean the same on a busy machine.
fn time(mut work: impl FnMut()) -> f64 {
    let mut runs: Vec<f64> = (0..RUNS)
        .map(|_| {
            let started = core_seconds();
            work();
            core_seconds() - started
        })
        .collect();
    runs.sort_by(f64::total_cmp);
    runs[RUNS / 2]
}

fn row(what: &str, tokens: usize, seconds: f64) {
    println!("| {what} | {:.2} M |", tokens as f64 / seconds / 1e6);
}

/// A generator that is the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    /// A rank below `limit`, the low ones more often: its logarithm is uniform.
    fn zipf(&mut self, limit: u32) -> u32 {
        let uniform = self.below(1 << 40) as f64 / (1u64 << 40) as f64;
        f64::from(limit).powf(uniform) as u32 - 1
    }
}

fn shared() -> PathBuf {
    let shared = std::env::var("FUSELM_TEST_SHARED").unwrap_or_else(|_| "../shared".to_owned());
    PathBuf::from(shared).join("assets")
}

fn data_samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data-samples")
}

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

/// Pivot and source, with all texts at hand one after the other.
fn inputs() -> (Tokenizer, Tokenizer, String, String) {
    let real = |name: &str| Tokenizer::load(&shared().join("tokenizers").join(name));
    let (pivot, source, files, what) = match (real("mistral-v1"), real("qwen2")) {
        (Ok(pivot), Ok(source)) => (
            pivot,
            source,
            files_in(&shared().join("text/domains")),
            "Mistral 32 k, Qwen 152 k",
        ),
        _ => {
            let model = |name: &str| Tokenizer::load(&data_samples().join("models").join(name));
            (
                model("pivot").unwrap(),
                model("atlas").unwrap(),
                files_in(&data_samples().join("chat")),
                "the data samples",
            )
        }
    };
    let all = files.iter().map(|file| contents(file)).collect();
    (pivot, source, all, what.to_owned())
}

/// The messages of a file, one after the other.
fn contents(file: &Path) -> String {
    let mut all = String::new();
    for record in text::read(file, None).unwrap() {
        for message in record.unwrap().chat.messages {
            all += &message.content();
            all.push('\n');
        }
    }
    all
}

/// Samples of `LENGTH` tokens by the pivot's tokenizer.
fn samples(pivot: &Tokenizer, text: &str) -> Vec<Transcript> {
    let mut samples = Vec::new();
    let mut rest = text;
    while samples.len() < SAMPLES && !rest.is_empty() {
        let mut end = rest.len().min(LENGTH * 8);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (head, tail) = rest.split_at(end);
        let whole = Transcript::plain(head).unwrap();
        let pieces = pivot
            .split_transcript(&whole, LENGTH, false, SpecialTokens::Text)
            .unwrap();
        // The last piece of several may be short.
        let pieces = pieces.unwrap();
        let full = pieces.len().saturating_sub(1).max(1);
        samples.extend(pieces.into_iter().take(full));
        rest = tail;
    }
    samples.truncate(SAMPLES);
    samples
}

fn tokens(tokenizer: &Tokenizer, pivot: &Tokenizer, samples: &[Transcript]) -> Vec<SampleTokens> {
    let rows = samples.iter().enumerate().map(|(id, transcript)| {
        let row = tokenizer
            .encode_transcript(transcript, Some(pivot), SpecialTokens::Text)
            .unwrap();
        SampleTokens {
            sample_id: id as u64,
            ids: row.ids,
            byte_end: row.byte_end,
            supervised: row.supervised,
        }
    });
    rows.collect()
}

fn write(
    dir: &Path,
    provenance: Provenance,
    batches: &[arrow::record_batch::RecordBatch],
    samples: u64,
) {
    let info = PartInfo {
        samples,
        ..PartInfo::ONLY
    };
    let mut part = Writer::create(dir, provenance, Existing::Replace)
        .unwrap()
        .part(info)
        .unwrap();
    for batch in batches {
        part.write(batch).unwrap();
    }
    part.finish().unwrap();
}

/// Which tokens stand beside the true one in a list.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lists {
    /// Those that follow the token before elsewhere in the text.
    Successors,
    /// Any.
    Random,
}

/// By token: the tokens that follow it, the most frequent first.
fn successors(samples: &[SampleTokens]) -> HashMap<u32, Vec<u32>> {
    let mut counts: HashMap<u32, HashMap<u32, usize>> = HashMap::new();
    for pair in samples.iter().flat_map(|sample| sample.ids.windows(2)) {
        let next = counts.entry(pair[0]).or_default();
        *next.entry(pair[1]).or_default() += 1;
    }
    let ranked = counts.into_iter().map(|(token, next)| {
        let mut next: Vec<(u32, usize)> = next.into_iter().collect();
        next.sort_by_key(|(id, count)| (std::cmp::Reverse(*count), *id));
        (token, next.into_iter().map(|(id, _)| id).take(K).collect())
    });
    ranked.collect()
}

/// Distributions of the source at every position: the true token first.
fn topk(
    source: &[SampleTokens],
    vocabulary: u32,
    lists: Lists,
) -> Vec<arrow::record_batch::RecordBatch> {
    let mut random = Random(42);
    let mut batches = Vec::new();
    let known = successors(source);
    for sample in source {
        let mut builder = DistributionBuilder::topk();
        for pos in sample.predicted() {
            let target = sample.ids[pos + 1];
            let mut ids = vec![target];
            if lists == Lists::Successors {
                let others = known[&sample.ids[pos]].iter().filter(|id| **id != target);
                ids.extend(others.take(K - 1));
            }
            while ids.len() < K {
                let rank = random.zipf(vocabulary);
                let id = (u64::from(rank) * 48_271 % u64::from(vocabulary)) as u32;
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
            let logprobs: Vec<f32> = (0..K).map(|rank| -0.7 - rank as f32).collect();
            builder.push(
                sample.sample_id,
                Distribution {
                    pos: pos as u32,
                    target_id: target,
                    target_logprob: logprobs[0],
                    tail_logprob: -1.57,
                    ids: &ids,
                    logprobs: &logprobs,
                },
            );
        }
        batches.push(builder.finish().unwrap());
    }
    batches
}

fn one_core(only: Only) {
    let (pivot, source, text, what) = inputs();
    let transcripts = samples(&pivot, &text);
    if only == Only::All {
        println!("{what}\n");
        alignment(&pivot, &source, &transcripts);
    }
    println!("| projection, k = 10, one core | with files | store | itself |");
    println!("|---|---:|---:|---:|");
    let model = |name: &str| Tokenizer::load(&data_samples().join("models").join(name)).unwrap();
    let (market, wide) = (model("market"), model("wide"));
    let chat = contents(&data_samples().join("chat/train.jsonl"));
    let chats = [samples(&market, &chat), samples(&wide, &chat)];
    let prefix = Choice::default();
    let first = Choice {
        short: Short::First,
        ..prefix
    };
    let random = Choice {
        lists: Lists::Random,
        ..prefix
    };
    let maps = [Method::Em, Method::Ms].map(|method| Choice { method, ..prefix });
    let mut cases = maps
        .map(|map| (&pivot, &source, &transcripts, map))
        .to_vec();
    for (pivot, source) in [(&pivot, &source), (&source, &pivot)] {
        for choice in [prefix, first, random] {
            cases.push((pivot, source, &transcripts, choice));
        }
    }
    cases.push((&market, &wide, &chats[0], prefix));
    cases.push((&wide, &market, &chats[1], prefix));
    for (at, (pivot, source, transcripts, choice)) in cases.into_iter().enumerate() {
        if !matches!(only, Only::Case(case) if case != at) {
            projection(pivot, source, transcripts, choice);
        }
    }
}

fn alignment(pivot: &Tokenizer, source: &Tokenizer, transcripts: &[Transcript]) {
    let ours = tokens(pivot, pivot, transcripts);
    let theirs = tokens(source, pivot, transcripts);
    let count: usize = ours.iter().map(|sample| sample.ids.len()).sum();
    println!("{} samples, {count} pivot tokens\n", ours.len());
    println!("| work, one core | pivot tokens/s |\n|---|---:|");
    let seconds = time(|| {
        for (ours, theirs) in ours.iter().zip(&theirs) {
            for link in links(&ours.byte_end, &theirs.byte_end) {
                std::hint::black_box(link);
            }
        }
    });
    row("alignment, `offsets`", count, seconds);
    for (band, name) in [
        (None, "alignment, `dtw`, the full table"),
        (Some(64), "alignment, `dtw`, `dtw_band: 64`"),
    ] {
        let options = AlignOptions {
            spans: Spans::Dtw,
            dtw_band: band,
            ..AlignOptions::default()
        };
        let mut warp = Warp::new(pivot.vocabulary(), source.vocabulary(), &options).unwrap();
        let seconds = time(|| {
            for (ours, theirs) in ours.iter().zip(&theirs) {
                std::hint::black_box(warp.links(&Sample::whole(ours), &Sample::whole(theirs)));
            }
        });
        row(name, count, seconds);
    }
    println!();
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Only {
    All,
    Projection,
    /// One row of its table.
    Case(usize),
}

/// What a projection is measured with.
#[derive(Clone, Copy)]
struct Choice {
    method: Method,
    short: Short,
    lists: Lists,
}

impl Default for Choice {
    fn default() -> Self {
        Self {
            method: Method::Prefix,
            short: Short::Pivot,
            lists: Lists::Successors,
        }
    }
}

/// Projection from artifacts to an artifact.
fn projection(pivot: &Tokenizer, source: &Tokenizer, transcripts: &[Transcript], choice: Choice) {
    let short = choice.short;
    let ours = tokens(pivot, pivot, transcripts);
    let theirs = tokens(source, pivot, transcripts);
    let count: usize = ours.iter().map(|sample| sample.ids.len()).sum();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (our_digest, their_digest) = (&pivot.vocabulary().digest, &source.vocabulary().digest);
    let of = |kind, digest: &str| Provenance::new(kind).vocabulary(digest);
    let n = ours.len() as u64;
    let pairs = [
        ("ours", our_digest, &ours),
        ("theirs", their_digest, &theirs),
    ];
    for (name, digest, samples) in pairs {
        let batch = to_batch(samples).unwrap();
        write(&at(name), of(Kind::Tokens, digest), &[batch], n);
        let vocabulary = if name == "ours" { pivot } else { source }.vocabulary();
        let rows = topk(samples, vocabulary.len() as u32, choice.lists);
        write(
            &at(&format!("topk-{name}")),
            of(Kind::Topk, digest).model("m"),
            &rows,
            n,
        );
    }
    let texts: Vec<SampleTranscript> = (0..)
        .zip(transcripts)
        .map(|(sample_id, transcript)| SampleTranscript {
            sample_id,
            transcript: transcript.clone(),
        })
        .collect();
    let texts = transcripts_to_batch(&texts).unwrap();
    write(
        &at("transcripts"),
        Provenance::new(Kind::Transcripts),
        &[texts],
        n,
    );
    let inputs = AlignInputs {
        pivot_tokens: &at("ours"),
        source_tokens: &at("theirs"),
        vocabularies: None,
        transcripts: None,
    };
    align::run(
        &inputs,
        &at("alignment"),
        &AlignOptions::default(),
        Existing::Replace,
    )
    .unwrap();
    let first_token = |bytes: &[u8]| pivot.first_token(bytes);
    let map_inputs = MapInputs {
        source: source.vocabulary(),
        pivot: pivot.vocabulary(),
        first_token: &first_token,
        alignment: Some(&at("alignment")),
    };
    let options = MapOptions {
        method: choice.method,
        width: 1,
    };
    mapping::run(&map_inputs, &at("map"), &options, Existing::Replace).unwrap();
    let options = ProjectOptions {
        short: Some(short),
        ..ProjectOptions::default()
    };
    let own = at("topk-ours");
    let inputs = ProjectInputs {
        topk: &at("topk-theirs"),
        alignment: &at("alignment"),
        token_map: &at("map"),
        pivot_tokens: &at("ours"),
        source_tokens: &at("theirs"),
        transcripts: &at("transcripts"),
        source: source.vocabulary(),
        pivot: pivot.vocabulary(),
        first_token: &first_token,
        pivot_topk: (short == Short::Pivot).then_some(own.as_path()),
    };
    let seconds = time(|| {
        let _ = fs::remove_dir_all(at("projected"));
        project::run(&inputs, &at("projected"), &options, Existing::Replace).unwrap();
    });
    let mut read = vec![
        (at("ours"), Kind::Tokens),
        (at("theirs"), Kind::Tokens),
        (at("topk-theirs"), Kind::Topk),
        (at("alignment"), Kind::Alignment),
        (at("transcripts"), Kind::Transcripts),
    ];
    if short == Short::Pivot {
        read.push((own, Kind::Topk));
    }
    let projected = batches(&at("projected"), Kind::Projected);
    let store = time(|| {
        for (dir, kind) in &read {
            std::hint::black_box(batches(dir, *kind));
        }
        let _ = fs::remove_dir_all(at("again"));
        write(&at("again"), of(Kind::Projected, our_digest), &projected, n);
    });
    let size = |tokenizer: &Tokenizer| match tokenizer.vocabulary().len() {
        size @ ..10_000 => format!("{:.1}", size as f64 / 1000.0),
        size => (size / 1000).to_string(),
    };
    let (to, from) = (size(pivot), size(source));
    let lists = match choice.lists {
        Lists::Successors => "",
        Lists::Random => ", random lists",
    };
    println!(
        "| {to} k tokens from {from} k: `{}`, short readings: `{}`{lists} | {:.2} M | {:.2} µs | {:.2} M |",
        format!("{:?}", choice.method).to_lowercase(),
        format!("{short:?}").to_lowercase(),
        count as f64 / seconds / 1e6,
        store / count as f64 * 1e6,
        count as f64 / (seconds - store) / 1e6,
    );
}

/// All rows of an artifact.
fn batches(dir: &Path, kind: Kind) -> Vec<arrow::record_batch::RecordBatch> {
    let artifact = Artifact::open(dir, kind).unwrap();
    let parts = artifact.parts().iter();
    parts
        .flat_map(|part| part.batches().unwrap().map(Result::unwrap))
        .collect()
}

/// The map by edit distance from a large vocabulary.
fn mined() {
    let real = |name: &str| Tokenizer::load(&shared().join("tokenizers").join(name));
    let (Ok(source), Ok(pivot)) = (real("llama-3"), real("llama-2")) else {
        return;
    };
    let inputs = MapInputs {
        source: source.vocabulary(),
        pivot: pivot.vocabulary(),
        first_token: &|bytes| pivot.first_token(bytes),
        alignment: None,
    };
    let options = MapOptions {
        method: Method::Mined,
        width: 1,
    };
    let started = core_seconds();
    mapping::map(&inputs, &options, Vec::new()).unwrap();
    println!(
        "\nmap by edit distance, Llama 3's 128 k to Llama 2's 32 k tokens: {:.1} seconds of a core",
        core_seconds() - started
    );
}

/// Writes an alignment of `pairs` rows, drawn by Zipf's law from vocabularies of 152 k and 32 k
/// tokens, and counts its pairs.
fn count(pairs: u64) {
    let dir = tempfile::tempdir().unwrap();
    let provenance = Provenance::new(Kind::Alignment).vocabulary("pivot");
    let writer = Writer::create(dir.path(), provenance, Existing::Replace).unwrap();
    let mut random = Random(7);
    let started = Instant::now();
    const PART: u64 = 10_000_000;
    let parts = pairs.div_ceil(PART);
    for index in 0..parts {
        let info = PartInfo {
            index: index as u32,
            first_sample: index,
            samples: 1,
            last: index + 1 == parts,
        };
        let mut part = writer.part(info).unwrap();
        let mut rows = AlignmentBuilder::default();
        for pos in 0..PART.min(pairs - index * PART) as u32 {
            let link = Link {
                source_begin: pos,
                source_end: pos + 1,
                source_pos: Some(pos),
                kind: LinkKind::OneToOne,
            };
            let source = random.zipf(151_646);
            // Half of a token's sightings are with its own partner.
            let pivot = match source % 2 {
                0 => source % 32_000,
                _ => random.zipf(32_000),
            };
            rows.push(index, pos, pivot, link, [source]);
            if rows.rows() == 32 * 1024 {
                part.write(&rows.finish().unwrap()).unwrap();
            }
        }
        part.write(&rows.finish().unwrap()).unwrap();
        part.finish().unwrap();
    }
    let bytes: u64 = files_in(dir.path())
        .iter()
        .map(|path| fs::metadata(path).unwrap().len())
        .sum();
    println!(
        "{pairs} pairs written in {:.0} s, {:.2} GB; peak memory so far {} MB",
        started.elapsed().as_secs_f64(),
        bytes as f64 / 1e9,
        peak_memory_mb()
    );
    for limit_mb in [256, 2048] {
        let started = Instant::now();
        let counts = fuselm::query::transform_token_map(dir.path(), limit_mb << 20, 0).unwrap();
        println!(
            "limit {limit_mb} MiB: {} distinct pairs in {:.0} s, peak memory {} MB",
            counts.len(),
            started.elapsed().as_secs_f64(),
            peak_memory_mb()
        );
    }
}

/// The most resident memory that this process has had.
fn peak_memory_mb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    let kb = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kb.unwrap_or(0) / 1000
}

fn main() {
    fuselm::progress::set_quiet(true);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = arguments.iter().position(|word| word == "count") {
        return count(arguments[at + 1].parse().unwrap());
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
    let only = match arguments.iter().position(|word| word == "projection") {
        None => Only::All,
        Some(at) => match arguments.get(at + 1).and_then(|case| case.parse().ok()) {
            Some(case) => Only::Case(case),
            None => Only::Projection,
        },
    };
    pool.build().unwrap().install(|| one_core(only));
    if only == Only::All {
        mined();
    }
}
