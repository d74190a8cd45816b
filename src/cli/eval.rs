//! `fuselm eval`.

use std::path::PathBuf;

use chrono::NaiveDate;
use clap::Args;
use fuselm::artifact::{Existing, Kind, RunDir, check_name};
use fuselm::checkpoint::tokenizer_dir;
use fuselm::error::{Error, Result};
use fuselm::eval::{Eval, Task, TaskKind, TaskResult};
use fuselm::lora;
use fuselm::model;
use fuselm::stage::Exclusive;
use fuselm::text::{Format, Reading};
use fuselm::vocab::SpecialTokens;

use super::paths::RunArg;
use super::{FieldArgs, Global, WritingArgs, print};

/// Bits per byte and perplexity of a checkpoint on text and chat files.
#[derive(Args)]
#[command(
    after_help = "Example:\n  fuselm eval --model models/math --data valid=data-samples/chat/sql-valid.jsonl"
)]
pub struct Command {
    #[command(flatten)]
    run: RunArg,
    /// Model folder, GGUF file or hub id; with a LoRA adapter: `MODEL+ADAPTER`
    #[arg(long)]
    model: String,
    /// Name of the model on the scoreboard [default: the folder's name, `BASE-ADAPTER` for two]
    #[arg(long)]
    name: Option<String>,
    /// A task: a text or chat file, with a name for it
    #[arg(long = "data", value_name = "[NAME=]FILE", required = true)]
    data: Vec<String>,
    /// The shape of every record; without it, each record shows its own
    #[arg(long, value_enum)]
    format: Option<Format>,
    #[command(flatten)]
    fields: FieldArgs,
    /// Type of weights and activations: f32, f16, bf16
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// Most tokens in one batch, padding included
    #[arg(long, default_value_t = 8192)]
    batch_tokens: usize,
    /// Leave the model on disk and read it layer by layer
    #[arg(long)]
    offload: bool,
    /// What `strftime_now` returns in chat templates, as YYYY-MM-DD
    #[arg(long)]
    date: Option<NaiveDate>,
    /// What special tokens are that a content spells out: `text`, or `tokens`, as transformers reads
    /// them.
    #[arg(long, value_enum, default_value_t = SpecialTokens::Text)]
    special_tokens: SpecialTokens,
    /// `eval_items` to write [default: none, unless a run is given]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the results as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    writing: WritingArgs,
}

fn task(argument: &str, reading: &Reading) -> Result<Task> {
    // A folder may have a `=` in its name, as `lang=en/valid.jsonl` has.
    let is_file = std::path::Path::new(argument).is_file();
    let (name, file) = match argument.split_once('=') {
        Some((name, file)) if !is_file => (name.to_owned(), file),
        _ => {
            let stem = std::path::Path::new(argument).file_stem();
            (
                stem.unwrap_or_default().to_string_lossy().into_owned(),
                argument,
            )
        }
    };
    check_name("task", &name)?;
    Ok(Task {
        task: TaskKind::Perplexity,
        name,
        data: PathBuf::from(file),
        format: reading.format,
        fields: reading.fields.clone(),
    })
}

pub fn run(command: &Command, global: &Global) -> Result<()> {
    if let Some(run) = &command.run.run {
        RunDir::open(run)?;
    }
    let model = lora::locate(&command.model)?;
    let name = match &command.name {
        Some(name) => name.clone(),
        None => model.name(),
    };
    check_name("model", &name)?;
    let reading = Reading {
        format: command.format,
        fields: command.fields.fields()?,
    };
    let temporary = tempfile_dir();
    let kept = command.out.is_some() || command.run.run.is_some();
    if !kept && !command.writing.shard.shard().is_all() {
        return Err(
            Error::usage("the results of a shard are not complete, and nobody keeps them")
                .remedy("name the folder that all shards write to, with `--out` or `--run`"),
        );
    }
    let out = match kept {
        true => command
            .run
            .artifact("out", &command.out, Kind::EvalItems, &[&name])?,
        false => temporary.clone(),
    };
    let eval = Eval {
        name: name.clone(),
        tokenizer: tokenizer_dir(&model.base, None)?,
        model,
        tasks: command
            .data
            .iter()
            .map(|argument| task(argument, &reading))
            .collect::<Result<_>>()?,
        out,
        batch_tokens: command.batch_tokens,
        offload: command.offload.then_some(model::DEFAULT_OFFLOAD),
        dtype: model::dtype(&command.dtype)?,
        device: model::device(&global.device)?,
        date: command.date,
        special_tokens: command.special_tokens,
    };
    let writing = match kept {
        true => command.writing.writing(),
        false => Existing::Replace.into(),
    };
    let results = Exclusive::of(&eval, writing.shard).and_then(|_held| eval.perform(writing));
    if !kept {
        let _ = std::fs::remove_dir_all(&temporary);
    }
    print(&match command.json {
        true => json(&name, &results?)?,
        false => table(&results?),
    })
}

/// A folder for results that nobody keeps.
fn tempfile_dir() -> PathBuf {
    std::env::temp_dir().join(format!("fuselm-eval-{}", std::process::id()))
}

fn table(results: &[TaskResult]) -> String {
    let width = results
        .iter()
        .map(|r| r.name.len())
        .max()
        .unwrap_or(0)
        .max(4);
    let mut text = format!(
        "{:width$}  {:>8}  {:>10}  {:>8}  {:>10}\n",
        "task", "bpb", "perplexity", "items", "bytes"
    );
    for result in results {
        text += &format!(
            "{:width$}  {:>8.4}  {:>10.3}  {:>8}  {:>10}\n",
            result.name,
            result.bits_per_byte(),
            result.perplexity(),
            result.items,
            result.bytes
        );
    }
    text
}

fn json(model: &str, results: &[TaskResult]) -> Result<String> {
    let rows: Vec<serde_json::Value> = results
        .iter()
        .map(|result| {
            serde_json::json!({
                "model": model,
                "task": result.name,
                "bpb": result.bits_per_byte(),
                "ppl": result.perplexity(),
                "items": result.items,
                "bytes": result.bytes,
            })
        })
        .collect();
    super::json(&rows)
}
