//! Gives the readers of outside files what nobody should write, for as long as one likes.
//!
//! ```text
//! cargo run --release --example soak                                  # each target for 10 seconds
//! cargo run --release --example soak -- --seconds 600 --target gguf   # one of them for longer
//! cargo run --release --example soak -- --target gguf --input FILE    # what an earlier run kept
//! ```
//!
//! Real files are changed at random (`mutate`), and read as the program reads them (`targets`). A
//! reader may refuse them; it must not panic, take more than 20 seconds, or 2 GiB of memory. Inputs that
//! make it do so are kept in `--keep`; the one in work always is (`TARGET.current`), so that it is
//! still there when the process is killed. The same `--seed` gives the same inputs.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod mutate;
mod targets;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;

use mutate::Mutator;
use targets::{TARGETS, Target};

/// How long one input may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Most memory that reading may hold.
const MEMORY: u64 = 2 << 30;

/// Reads changed files until the time is over.
#[derive(Parser)]
struct Arguments {
    /// Only these targets; all if none is given
    #[arg(long = "target")]
    targets: Vec<String>,
    /// How long each is tried
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// At most so many inputs for each
    #[arg(long)]
    runs: Option<u64>,
    /// Where the changes begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder for inputs that a reader does not survive
    #[arg(long, default_value = "target/soak")]
    keep: PathBuf,
    /// Read this file once, instead of changed ones
    #[arg(long)]
    input: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    fuselm::progress::set_quiet(true);
    for name in &arguments.targets {
        let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        ensure!(
            known.contains(&name.as_str()),
            "no target `{name}`, there are {known:?}"
        );
    }
    fs::create_dir_all(&arguments.keep)?;
    watch_time();
    let mut found = 0;
    for target in TARGETS {
        let wanted = arguments.targets.is_empty()
            || arguments.targets.iter().any(|name| name == target.name);
        if wanted {
            found +=
                soak(&target, &arguments).with_context(|| format!("target {}", target.name))?;
        }
    }
    match found {
        0 => Ok(()),
        _ => bail!(
            "{found} inputs were not survived; they are in {}",
            arguments.keep.display()
        ),
    }
}

/// Tries one target; returns how many inputs it did not survive.
fn soak(target: &Target, arguments: &Arguments) -> Result<u64> {
    let scratch = tempfile::tempdir()?;
    let seeds = (target.seeds)(scratch.path())?;
    ensure!(!seeds.is_empty(), "no file to change");
    let current = arguments.keep.join(format!("{}.current", target.name));
    let mut mutator = Mutator::new(arguments.seed, seeds);
    let (started, mut runs, mut read, mut lost) = (Instant::now(), 0u64, 0u64, 0u64);
    let before = memory();
    let time = Duration::from_secs(arguments.seconds);
    while started.elapsed() < time && arguments.runs.is_none_or(|most| runs < most) {
        let input = match &arguments.input {
            Some(path) => fs::read(path)?,
            None => mutator.next(),
        };
        fs::write(&current, &input)?;
        BEGUN.store(now(), Ordering::SeqCst);
        let outcome = catch_unwind(AssertUnwindSafe(|| (target.read)(&input, scratch.path())));
        BEGUN.store(0, Ordering::SeqCst);
        runs += 1;
        let grown = memory().saturating_sub(before);
        let problem = match outcome {
            Err(_) => "panicked",
            Ok(_) if grown > MEMORY => "took too much memory",
            Ok(whole) => {
                read += u64::from(whole);
                ""
            }
        };
        if !problem.is_empty() {
            lost += 1;
            let kept = arguments.keep.join(format!("{}-{runs}", target.name));
            fs::copy(&current, &kept)?;
            eprintln!("{}: {problem}: {}", target.name, kept.display());
            ensure!(grown <= MEMORY, "what was read is not given back");
        }
        if arguments.input.is_some() {
            break;
        }
    }
    let _ = fs::remove_file(&current);
    println!(
        "{:<12} {runs:>9} inputs, {read:>9} read, {lost} not survived, {:.0} s",
        target.name,
        started.elapsed().as_secs_f64()
    );
    Ok(lost)
}

/// When the input in work was begun, in milliseconds; 0 between two.
static BEGUN: AtomicU64 = AtomicU64::new(0);

fn now() -> u64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| since.as_millis() as u64)
}

/// Ends the process where an input takes too long: nothing else can stop its thread.
fn watch_time() {
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let begun = BEGUN.load(Ordering::SeqCst);
            if begun > 0 && now().saturating_sub(begun) > PATIENCE.as_millis() as u64 {
                eprintln!(
                    "an input takes more than {} s: it is in *.current",
                    PATIENCE.as_secs()
                );
                std::process::exit(1);
            }
        }
    });
}

/// Most memory that the process has held, in bytes; 0 where the system does not say.
fn memory() -> u64 {
    let status = fs::read_to_string(Path::new("/proc/self/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
