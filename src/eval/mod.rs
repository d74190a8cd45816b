//! Evaluation of a checkpoint: negative log-likelihood on held-out text and chat files.
//!
//! Each file is a task, each of its records an item. A chat is rendered with the model's own
//! template and only the assistant's content counts, so that models with different
//! vocabularies and templates are compared on the same bytes. Per item, `eval_items` holds
//! `nll` (nats), `tokens` and `bytes`; bits per byte and perplexity are sums over a task
//! (`eval_scoreboard`).
//!
//! An item longer than the model's context is read in windows that overlap by half, each token
//! being scored once, with at least half a context before it.

mod items;

use std::path::PathBuf;

use candle_core::{DType, Device};
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::artifact::parts::Todo;
use crate::artifact::sequence_metrics::COUNTS;
use crate::artifact::tokens::SampleTokens;
use crate::artifact::{Kind, Writing};
use crate::error::{Error, Result};
use crate::lora::ModelPath;
use crate::model::{LoadOptions, Mode, PredictOptions, Predictor, predict};
use crate::progress::{self, Bar};
use crate::stage::{self, Item, Reads, Source, Stage};
use crate::text::{self, ChatTemplate, Fields, Format, Owner, Reading, Tally};
use crate::units::bits_per_byte;
use crate::vocab::{SpecialTokens, Tokenizer, check_tokens};
use items::Portion;

/// What is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// Negative log-likelihood: perplexity and bits per byte.
    #[default]
    Perplexity,
}

/// One task: a named file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// What is measured.
    #[serde(default)]
    pub task: TaskKind,
    /// Name of the task on the scoreboard.
    pub name: String,
    /// Text or chat file: JSON lines, JSON or Parquet, plain or compressed with gzip or zstd.
    pub data: PathBuf,
    /// Shape of its records; told from the file if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Names of fields, where they are not the published ones.
    #[serde(default, skip_serializing_if = "Fields::is_empty")]
    pub fields: Fields,
}

impl Task {
    /// How its records are read.
    pub fn reading(&self) -> Reading {
        Reading {
            format: self.format,
            fields: self.fields.clone(),
        }
    }
}

/// The stage: the model that is evaluated, and on what.
#[derive(Clone, Debug)]
pub struct Eval {
    /// Name of the model on the scoreboard.
    pub name: String,
    /// Hugging Face model folder, or GGUF file, with an adapter or without.
    pub model: ModelPath,
    /// Folder of its tokenizer and chat template.
    pub tokenizer: PathBuf,
    /// The tasks; their names differ.
    pub tasks: Vec<Task>,
    /// Folder of the `eval_items` to write.
    pub out: PathBuf,
    /// Most tokens in one batch, padding included.
    pub batch_tokens: usize,
    /// Bytes for one pass over a model that stays on disk; see [`Predictor::open`].
    pub offload: Option<u64>,
    /// Floating-point type of weights and activations.
    pub dtype: DType,
    /// Device to compute on.
    pub device: Device,
    /// What `strftime_now` returns in chat templates.
    pub date: Option<NaiveDate>,
    /// What special tokens are that a content spells out.
    pub special_tokens: SpecialTokens,
}

/// Result of one task.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskResult {
    /// Name of the task.
    pub name: String,
    /// Items measured.
    pub items: u64,
    /// Sum of the negative log-likelihoods, in nats.
    pub nll: f64,
    /// Supervised content tokens.
    pub tokens: u64,
    /// Supervised content bytes.
    pub bytes: u64,
}

impl TaskResult {
    /// Nothing measured yet.
    fn none(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            items: 0,
            nll: 0.0,
            tokens: 0,
            bytes: 0,
        }
    }

    /// Bits per byte.
    pub fn bits_per_byte(&self) -> f64 {
        bits_per_byte(self.nll, self.bytes)
    }

    /// Perplexity per token of the model's own vocabulary.
    pub fn perplexity(&self) -> f64 {
        (self.nll / self.tokens as f64).exp()
    }
}

/// One record of a task, ready to be scored.
struct Scored {
    id: u64,
    tokens: SampleTokens,
    bytes: u64,
    nll: f64,
    content_tokens: u64,
}

impl Eval {
    /// Evaluates the model on every task, part by part; parts that are there are kept. Returns the sums
    /// of the tasks, by name, over the parts that are there, which are all unless only a shard is
    /// made. Items without an assistant's turn are left out, with a warning.
    ///
    /// # Errors
    /// A task whose file is missing, broken or has no usable item (before the model is loaded); two
    /// tasks of one name; a NaN or infinite logit.
    ///
    /// # Memory
    /// The model, the tokens of all tasks, and for each thread the activations of `batch_tokens`
    /// tokens and 64 MiB of logits.
    pub fn perform(&self, writing: impl Into<Writing>) -> Result<Vec<TaskResult>> {
        check_tasks(&self.tasks)?;
        let tokenizer = Tokenizer::load(&self.tokenizer)?;
        check_tokens(&self.model.base, tokenizer.vocabulary())?;
        let writer = stage::writer(self, Kind::EvalItems, &self.out, writing)?;
        let mut template = ChatTemplate::load(&self.tokenizer)?;
        if let (Some(template), Some(date)) = (&mut template, self.date) {
            template.set_date(date);
        }
        if writer.is_complete() {
            return items::results(&self.out, writer.identity());
        }
        let mut named: Vec<&Task> = self.tasks.iter().collect();
        named.sort_by(|a, b| a.name.cmp(&b.name));
        let mut tasks = Vec::new();
        for task in &named {
            let items = read_task(task, &tokenizer, template.as_ref(), self.special_tokens)?;
            tasks.push(items);
        }
        let lengths =
            |items: &Vec<Scored>| items.iter().map(|item| item.tokens.ids.len()).collect();
        let portions = items::portions(&tasks.iter().map(lengths).collect::<Vec<_>>());
        let mut todo = Todo::new(portions.iter().map(|portion| portion.info), &[&writer])?;
        if !todo.is_empty() {
            let predictor = self.predictor(&tokenizer)?;
            let bar = Bar::new(format!("eval {}", self.name), todo.samples(), "items");
            while let Some(ours) = todo.next(1)?.pop() {
                let Portion { task, items, info } = &portions[ours.info.index as usize];
                let items = &mut tasks[*task][items.clone()];
                score(&predictor, &tokenizer, self.batch_tokens, items, &bar)?;
                let mut part = writer.part(*info)?;
                part.write(&items::to_batch(&named[*task].name, items)?)?;
                part.finish()?;
            }
        }
        items::results(&self.out, writer.identity())
    }

    fn predictor(&self, tokenizer: &Tokenizer) -> Result<Predictor> {
        let load = LoadOptions {
            device: self.device.clone(),
            dtype: self.dtype,
            mode: Mode::Inference,
        };
        let predictor = Predictor::open(&self.model, &load, self.offload)?;
        tokenizer.fits(&self.name, predictor.config().vocab_size)?;
        Ok(predictor)
    }
}

impl Stage for Eval {
    fn name(&self) -> &'static str {
        "eval"
    }

    fn reads(&self) -> Result<Reads> {
        let mut reads = Reads::new()
            .model(Source::Whole(Item::model(&self.model)))
            .input("tokenizer", Item::Tokenizer(self.tokenizer.clone()));
        for task in &self.tasks {
            reads = reads.input(format!("task {}", task.name), Item::File(task.data.clone()));
        }
        Ok(reads)
    }

    fn writes(&self) -> Vec<Item> {
        vec![Item::artifact(Kind::EvalItems, &self.out)]
    }

    /// The type of the weights, which tokens count, and how records are read.
    fn changing(&self, _: Kind) -> Value {
        // Logits of narrow weights are not rounded any more.
        let logits = (self.dtype != DType::F32).then_some("f32");
        let mut used = serde_json::json!({
            "dtype": self.dtype.as_str(),
            "counts": COUNTS,
            "logits": logits,
            "special_tokens": self.special_tokens,
            "date": self.date.map(|date| date.to_string()),
            "formats": self.tasks.iter().map(|task| task.format).collect::<Vec<_>>(),
        });
        let fields = self.tasks.iter().map(|task| task.fields.changing());
        let fields: Vec<_> = fields.collect();
        if fields.iter().any(Option::is_some) {
            used["fields"] = serde_json::json!(fields);
        }
        used
    }

    fn is_by_part(&self) -> bool {
        true
    }

    fn run(&self, writing: Writing) -> Result<String> {
        let results = self.perform(writing)?;
        let shown = results
            .iter()
            .map(|result| format!("{} {:.4}", result.name, result.bits_per_byte()));
        Ok(format!(
            "bits per byte: {}",
            shown.collect::<Vec<_>>().join(", ")
        ))
    }
}

fn check_tasks(tasks: &[Task]) -> Result<()> {
    if tasks.is_empty() {
        return Err(Error::usage("no task to evaluate")
            .remedy("name at least one file, as `--data NAME=FILE` or under `eval` in a recipe"));
    }
    let mut names: Vec<&str> = tasks.iter().map(|task| task.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Error::usage(format!("two tasks are called `{}`", pair[0]))),
        None => Ok(()),
    }
}

fn read_task(
    task: &Task,
    tokenizer: &Tokenizer,
    template: Option<&ChatTemplate>,
    special_tokens: SpecialTokens,
) -> Result<Vec<Scored>> {
    let mut items = Vec::new();
    let (mut silent, mut unplaced) = (0, 0);
    let mut noticed = Tally::default();
    let mut records = text::read_as(&task.data, &task.reading())?;
    let mut format = None;
    for record in records.by_ref() {
        let mut record = record?;
        progress::check_interrupt()?;
        format.get_or_insert(record.format);
        noticed.add(record.format, std::mem::take(&mut record.notes));
        let transcribed = text::transcript(&record.chat, template)
            .map_err(|error| Error::input(&record.place, error.to_string()))?;
        unplaced += transcribed.unplaced.len() as u64;
        let transcript = transcribed.transcript;
        let bytes = transcript.content_bytes();
        if bytes == 0 {
            silent += 1;
            continue;
        }
        let row = tokenizer.encode_transcript(&transcript, None, special_tokens)?;
        // Only what covers the content is predicted: the bytes that count are its bytes.
        let content = transcript.content_tokens(&row.byte_end);
        items.push(Scored {
            id: record.source_row,
            tokens: SampleTokens {
                sample_id: record.source_row,
                ids: row.ids,
                byte_end: row.byte_end,
                supervised: content,
            },
            bytes,
            nll: 0.0,
            content_tokens: 0,
        });
    }
    for (name, rows) in records.unread_columns() {
        if let Some(format) = format {
            noticed.count(Owner::Record, name.to_owned(), format, rows);
        }
    }
    for line in noticed.lines() {
        progress::warn(format!("task `{}`: {line}", task.name));
    }
    if unplaced > 0 {
        progress::warn(format!(
            "task `{}`: {unplaced} assistant's turns are not measured: the template changes them, or what is around them",
            task.name
        ));
    }
    if silent > 0 {
        progress::warn(format!(
            "task `{}`: {silent} records have no assistant's turn and are left out",
            task.name
        ));
    }
    if items.is_empty() {
        return Err(
            Error::file(&task.data, "has no record that can be measured")
                .remedy("a chat needs an assistant's turn, a text must not be empty"),
        );
    }
    Ok(items)
}

/// Fills in `nll` and `content_tokens`.
fn score(
    predictor: &Predictor,
    tokenizer: &Tokenizer,
    batch_tokens: usize,
    items: &mut [Scored],
    bar: &Bar,
) -> Result<()> {
    let context = predictor.config().max_position_embeddings;
    let mut owners = Vec::new();
    let mut pieces = Vec::new();
    for (index, item) in items.iter().enumerate() {
        for piece in windows(&item.tokens, context) {
            owners.push(index);
            pieces.push(piece);
        }
    }
    let options = PredictOptions {
        vocab_len: tokenizer
            .vocabulary()
            .len()
            .min(predictor.config().vocab_size),
        k: 0,
        draws: None,
        batch_tokens,
    };
    predict(predictor, &pieces, &options, &|_| (), |first, found| {
        for (owner, found) in owners[first..].iter().zip(found) {
            let nll: f64 = found.target_logprob.iter().map(|x| -f64::from(*x)).sum();
            items[*owner].nll += nll;
            items[*owner].content_tokens += found.target_logprob.len() as u64;
        }
        Ok(())
    })?;
    bar.advance(items.len() as u64);
    Ok(())
}

/// Pieces of at most `context` tokens that overlap by half, each token supervised in one only.
fn windows(tokens: &SampleTokens, context: usize) -> Vec<SampleTokens> {
    let len = tokens.ids.len();
    if len <= context {
        return vec![tokens.clone()];
    }
    let step = (context / 2).max(1);
    let mut pieces = Vec::new();
    let mut scored = 0;
    let mut start = 0;
    while scored < len {
        let end = (start + context).min(len);
        let supervised = (start..end).map(|i| i >= scored && tokens.supervised[i]);
        pieces.push(SampleTokens {
            sample_id: tokens.sample_id,
            ids: tokens.ids[start..end].to_vec(),
            byte_end: tokens.byte_end[start..end].to_vec(),
            supervised: supervised.collect(),
        });
        scored = end;
        start += step;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_score_every_token_once_with_half_a_context_before() {
        let len = 23;
        let tokens = SampleTokens {
            sample_id: 0,
            ids: (0..len).collect(),
            byte_end: (0..len).collect(),
            supervised: (0..len).map(|i| i > 0).collect(),
        };
        assert_eq!(windows(&tokens, 23).len(), 1);
        let pieces = windows(&tokens, 8);
        let mut seen = vec![0; len as usize];
        for (n, piece) in pieces.iter().enumerate() {
            assert!(piece.ids.len() <= 8);
            for (i, id) in piece.ids.iter().enumerate() {
                if piece.supervised[i] {
                    seen[*id as usize] += 1;
                    assert!(n == 0 || i >= 4);
                }
            }
        }
        assert_eq!(seen[0], 0);
        assert!(seen[1..].iter().all(|&times| times == 1), "{seen:?}");
    }
}
