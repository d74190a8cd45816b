//! The real binary, run in a temporary folder with tiny models and a tiny corpus.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use candle_core::{DType, Device};
use fuselm::model::{Config, Decoder, LoadOptions, Mode};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How a command ended and what it wrote.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; -1 if a signal ended the process.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    fn new(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Fails the test unless the exit code is `code`.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Fails the test unless stderr has every one of `words`.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(
                self.stderr.contains(word),
                "no `{word}` in:\n{}",
                self.stderr
            );
        }
        self
    }

    /// The number before `what` on stderr, as in "3 steps done".
    #[track_caller]
    pub fn number_before(&self, what: &str) -> u64 {
        let before = self.stderr.split(what).next().unwrap_or_default();
        let number = before.split([' ', '\n']).rfind(|word| !word.is_empty());
        number
            .and_then(|word| word.parse().ok())
            .unwrap_or_else(|| panic!("no number before `{what}` in:\n{}", self.stderr))
    }
}

/// The program, at work in `dir`, with nothing of the user's around it.
pub fn fuselm(dir: &Path) -> Command {
    in_clean_environment(Command::new(env!("CARGO_BIN_EXE_fuselm")), dir)
}

/// A line for the shell that finds the program as `$FUSELM`.
pub fn shell(dir: &Path, line: &str) -> Finished {
    Finished::new(shell_command(dir, line).output().expect("a shell"))
}

/// The same, to be started.
pub fn shell_command(dir: &Path, line: &str) -> Command {
    let mut command = in_clean_environment(Command::new("sh"), dir);
    command.args(["-c", line]);
    command.env("FUSELM", env!("CARGO_BIN_EXE_fuselm"));
    command
}

fn in_clean_environment(mut command: Command, dir: &Path) -> Command {
    command
        .current_dir(dir)
        .env("FUSELM_CACHE", env!("CARGO_TARGET_TMPDIR"))
        .env("HF_HOME", env!("CARGO_TARGET_TMPDIR"))
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A temporary folder with all that a run needs:
///
/// ```text
/// models/{pivot,market,atlas}/   random weights, the tokenizers of data-samples
/// models/twin/                   another shape, the pivot's tokenizer
/// chat.jsonl, valid.jsonl        24 and 6 samples of data-samples
/// recipe.yml                     fuses the three into the pivot, in three steps each
/// ```
pub struct Workshop {
    dir: TempDir,
}

impl Workshop {
    pub fn new() -> Self {
        let workshop = Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
        };
        for (seed, (name, sample, layers)) in [
            ("pivot", "pivot", 2),
            ("market", "market", 2),
            ("atlas", "atlas", 3),
            ("twin", "pivot", 3),
        ]
        .into_iter()
        .enumerate()
        {
            let dir = workshop.path("models").join(name);
            tiny_model(&data_samples().join("models").join(sample), layers).save(&dir, seed as u64);
        }
        let chat = data_samples().join("chat");
        copy_lines(&chat.join("train.jsonl"), &workshop.path("chat.jsonl"), 24);
        copy_lines(
            &chat.join("sql-valid.jsonl"),
            &workshop.path("valid.jsonl"),
            6,
        );
        workshop.write("recipe.yml", RECIPE);
        workshop
    }

    /// The folder, or something in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("writing a file");
    }

    /// Replaces the only `old` in a text file.
    #[track_caller]
    pub fn edit(&self, name: &str, old: &str, new: &str) {
        let text = fs::read_to_string(self.path(name)).expect("reading a file");
        assert_eq!(text.matches(old).count(), 1, "`{old}` in {name}");
        self.write(name, &text.replace(old, new));
    }

    /// Sets a field of a model's `config.json`.
    pub fn configure(&self, model: &str, field: &str, value: Value) {
        let path = self.path("models").join(model).join("config.json");
        let mut config = read_json(&path);
        config[field] = value;
        fs::write(&path, config.to_string()).expect("writing config.json");
    }

    /// Runs the program in the folder; `arguments` are separated by blanks.
    pub fn fuselm(&self, arguments: &str) -> Finished {
        let output = self.command(arguments).output();
        Finished::new(output.expect("starting fuselm"))
    }

    /// The program in the folder, not started yet.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = fuselm(self.dir.path());
        command.args(arguments.split_whitespace());
        command
    }

    /// The rows of a statement over a run, by column.
    #[track_caller]
    pub fn query(&self, run: &str, statement: &str) -> Vec<Value> {
        let mut command = self.command(&format!("sql --run {run} --format json"));
        let output = command.arg(statement).output().expect("starting fuselm");
        let finished = Finished::new(output).exits(0);
        serde_json::from_str(&finished.stdout).expect("rows")
    }

    /// Fails the test if a file that is not finished lies anywhere in the folder.
    #[track_caller]
    pub fn has_no_leftovers(&self) {
        let left: Vec<PathBuf> = files(self.dir.path())
            .into_iter()
            .filter(|path| is_leftover(path))
            .collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

const RECIPE: &str = "\
run: run
seed: 7
corpus:
  inputs: [chat.jsonl]
  max_tokens: 256
  part_samples: 8
pivot: { name: pivot, model: models/pivot }
sources:
  - { name: market, model: models/market }
  - { name: atlas, model: models/atlas }
  - { name: twin, model: models/twin }
score: { top_k: 8 }
map: { method: ms }
fuse: { mode: pairwise, rule: mince }
train: { lambda: 0.5, lr: 1.0e-3, epochs: 1, max_steps: 3, batch_tokens: 512 }
baselines: [clm]
merge: { merge_method: sce, parameters: { select_topk: 0.5 } }
eval:
  - { task: perplexity, name: valid, data: valid.jsonl }
";

fn is_leftover(path: &Path) -> bool {
    path.components().any(|part| {
        let name = part.as_os_str().to_string_lossy();
        // The temporary folder itself is called `.tmp…`.
        let unfinished = [
            ".partial",
            ".old",
            ".state",
            ".merging",
            ".lease",
            "merge-journal",
        ];
        // Models register one after the other under a lock of this name, which stays.
        let locks = name.ends_with(".lock") && name != ".lock";
        locks || name.contains(".tmp-") || unfinished.iter().any(|word| name.contains(word))
    })
}

/// A model to be made: a configuration, and a folder with the tokenizer that it is for.
pub struct TinyModel {
    config: Config,
    tokenizer: PathBuf,
}

/// The configuration of `folder`, shrunk to 32 dimensions.
pub fn tiny_model(folder: &Path, layers: usize) -> TinyModel {
    let path = folder.join("config.json");
    let mut config = read_json(&path);
    for (field, value) in [
        ("hidden_size", 32),
        ("intermediate_size", 64),
        ("num_hidden_layers", layers),
        ("num_attention_heads", 2),
        ("num_key_value_heads", 1),
        ("head_dim", 16),
    ] {
        config[field] = json!(value);
    }
    // Large enough for the models to disagree about something.
    config["initializer_range"] = json!(0.2);
    let Value::Object(raw) = config else {
        panic!("{} is no object", path.display());
    };
    TinyModel {
        config: Config::from_json(raw, &path).expect("a valid configuration"),
        tokenizer: folder.to_path_buf(),
    }
}

impl TinyModel {
    /// The same with another number of dimensions, and four times as many inside.
    pub fn widened(mut self, dimensions: usize) -> Self {
        let mut raw = self.config.raw;
        raw.insert("hidden_size".to_owned(), json!(dimensions));
        raw.insert("intermediate_size".to_owned(), json!(4 * dimensions));
        self.config = Config::from_json(raw, &self.tokenizer).expect("a valid configuration");
        self
    }

    /// Draws weights and writes the model's folder.
    pub fn save(self, dir: &Path, seed: u64) {
        let options = LoadOptions {
            device: Device::Cpu,
            dtype: DType::F32,
            mode: Mode::Inference,
        };
        Decoder::random(self.config, &options, seed)
            .and_then(|decoder| decoder.save(dir, &self.tokenizer, DType::F32))
            .expect("writing a model");
    }
}

/// The folder `data-samples` of the repository.
pub fn data_samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data-samples")
}

/// The shared test material, or nothing (and a line that says so) where it is absent.
pub fn shared() -> Option<PathBuf> {
    let named = std::env::var_os("FUSELM_TEST_SHARED").map(PathBuf::from);
    let dir = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    if dir.join("assets").is_dir() {
        return dir.canonicalize().ok();
    }
    eprintln!("skipped: no test material in {}", dir.display());
    None
}

/// Copies the first `count` lines of a file.
pub fn copy_lines(from: &Path, to: &Path, count: usize) {
    let text = fs::read_to_string(from).expect("reading a file");
    let lines: String = text.split_inclusive('\n').take(count).collect();
    fs::write(to, lines).expect("writing a file");
}

pub fn read_json(path: &Path) -> Value {
    let text = fs::read_to_string(path).expect("reading a JSON file");
    serde_json::from_str(&text).expect("valid JSON")
}

/// The parts of the artifacts below `dir`, sorted.
pub fn parts(dir: &Path) -> Vec<PathBuf> {
    let is_part = |path: &PathBuf| path.extension().is_some_and(|end| end == "parquet");
    files(dir).into_iter().filter(is_part).collect()
}

/// Every file below `dir`, sorted.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("reading a folder") {
            let path = entry.expect("reading a folder").path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path),
            }
        }
    }
    found.sort();
    found
}
