//! How fast checkpoints are merged, beside a plain copy and, where it is installed, mergekit.
//!
//! ```text
//! cargo bench --bench merge                               # fuselm and the copy
//! MERGEKIT=venv/bin/mergekit-yaml cargo bench --bench merge
//! ```
//!
//! Makes a Llama-shaped pivot and five targets of 348 M parameters in bf16 (4.2 GB, kept in
//! `target/merge-bench`), and times, with the files in the page cache, medians of five runs:
//!
//! * the limit: one thread reads all files once in pieces of 4 MiB and writes one model,
//! * the program `fuselm merge` with SCE (τ = 0.1), TIES (density 0.6) and linear,
//! * `$MERGEKIT` with the same configurations (`$MERGEKIT_RUNS` runs each, default 3).
//!
//! `cargo bench --bench merge -- large [LAYERS]` instead merges models of the size of Qwen1.5-72B
//! (see `merge/large.rs`).
//!
//! Anonymous memory is read every 5 ms while a program runs; all memory is what the system says
//! after it has ended.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

#[path = "merge/large.rs"]
mod large;
#[path = "merge/models.rs"]
mod models;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// As the program has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TARGETS: usize = 5;
const RUNS: usize = 5;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn weights(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|end| end == "safetensors"))
        .collect();
    files.sort();
    files
}

/// Seconds that it takes to read all models and write one.
fn copy(dir: &Path) -> f64 {
    let out = dir.join("copy.bin");
    let _ = fs::remove_file(&out);
    let started = Instant::now();
    let mut buffer = vec![0; 4 << 20];
    let mut out = File::create(out).unwrap();
    for model in 0..=TARGETS {
        for file in weights(&dir.join(models::name(model))) {
            let mut file = File::open(file).unwrap();
            loop {
                let read = file.read(&mut buffer).unwrap();
                if read == 0 {
                    break;
                }
                if model == 0 {
                    out.write_all(&buffer[..read]).unwrap();
                }
            }
        }
    }
    started.elapsed().as_secs_f64()
}

/// What a run of a program took.
struct Cost {
    seconds: f64,
    /// Most anonymous memory and most memory, in bytes.
    anonymous: f64,
    resident: f64,
}

/// A field of `/proc/<process>/status`, in bytes.
fn status(process: u32, field: &str) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024.0)
}

fn run(program: &str, arguments: &[&str], out: &Path) -> Cost {
    let _ = fs::remove_dir_all(out);
    let started = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut anonymous, mut resident) = (0f64, 0f64);
    let ended = loop {
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        anonymous = anonymous.max(status(child.id(), "RssAnon").unwrap_or(0.0));
        resident = resident.max(status(child.id(), "VmHWM").unwrap_or(0.0));
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(ended.success(), "{program} {arguments:?}");
    Cost {
        seconds: started.elapsed().as_secs_f64(),
        anonymous,
        resident,
    }
}

fn configuration(dir: &Path, method: &str) -> PathBuf {
    let path = |model: usize| dir.join(models::name(model)).display().to_string();
    let mut text = format!("merge_method: {method}\ndtype: bfloat16\n");
    if method != "linear" {
        text += &format!("base_model: {}\n", path(0));
    }
    text += match method {
        "sce" => "parameters: { select_topk: 0.1 }\n",
        "ties" => "parameters: { density: 0.6, weight: 0.2 }\n",
        _ => "parameters: { weight: 0.2 }\n",
    };
    text += "models:\n";
    // The mean is of all six models.
    for model in usize::from(method != "linear")..=TARGETS {
        text += &format!("  - model: {}\n", path(model));
    }
    let file = dir.join(format!("{method}.yml"));
    fs::write(&file, text).unwrap();
    file
}

fn row(name: &str, costs: &[Cost], limit: f64) -> f64 {
    let of = |value: fn(&Cost) -> f64| median(costs.iter().map(value).collect());
    let seconds = of(|cost| cost.seconds);
    println!(
        "| {name} | {seconds:.2} | {:.1} | {:.0} | {:.0} |",
        seconds / limit,
        of(|cost| cost.anonymous) / 1e6,
        of(|cost| cost.resident) / 1e6,
    );
    seconds
}

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    if arguments.first().is_some_and(|first| first == "large") {
        let layers = arguments.get(1).and_then(|layers| layers.parse().ok());
        return large::run(layers.unwrap_or(2));
    }
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("merge-bench");
    fs::create_dir_all(&dir).unwrap();
    models::write(&dir, models::SMALL, TARGETS);
    // The first two warm the page cache.
    let copies: Vec<f64> = (0..RUNS + 2).map(|_| copy(&dir)).skip(2).collect();
    let limit = median(copies);
    println!("| | seconds | times the copy | anonymous MB | all MB |");
    println!("|---|---|---|---|---|");
    println!("| read six, write one | {limit:.2} | 1.0 | | |");
    let out = dir.join("out");
    let out_name = out.display().to_string();
    for method in ["sce", "ties", "linear"] {
        let file = configuration(&dir, method).display().to_string();
        let ours: Vec<Cost> = (0..RUNS)
            .map(|_| {
                run(
                    env!("CARGO_BIN_EXE_fuselm"),
                    &["merge", &file, &out_name],
                    &out,
                )
            })
            .collect();
        let seconds = row(&format!("{method}, fuselm"), &ours, limit);
        let Ok(mergekit) = std::env::var("MERGEKIT") else {
            continue;
        };
        let runs = std::env::var("MERGEKIT_RUNS")
            .ok()
            .and_then(|runs| runs.parse().ok());
        let theirs: Vec<Cost> = (0..runs.unwrap_or(3))
            .map(|_| run(&mergekit, &[&file, &out_name], &out))
            .collect();
        let peer = row(&format!("{method}, mergekit"), &theirs, limit);
        println!("| {method}: ratio | {:.0} | | | |", peer / seconds);
    }
    let _ = fs::remove_dir_all(out);
    let _ = fs::remove_file(dir.join("copy.bin"));
}
