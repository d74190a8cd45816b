//! Import: distributions that other programs stored become `topk` and `sequence_metrics`.
//!
//! The samples of the file are those of `tokens`, in the model's vocabulary and in any order: each
//! is known by its tokens (`samples`). One that is missing or superfluous is an error. A file may
//! lack the BOS that a sample begins with (its first token then has no distribution), and may have
//! one end token more or less.
//!
//! | format | is | what it does not say, and what is taken |
//! |---|---|---|
//! | `distillkit` | DistillKit's compressed Parquet: `input_ids`, `compressed_logprobs`, `bytepacked_indices`, and `compression_config.yaml` | the true token where it is not listed: at most as probable as the least listed, and as the tail |
//! | `fuseai` | FuseLLM's and FuseChat's data sets saved by `datasets`: `input_ids`, `per_step_logits`, `per_step_indices`, `metric_ce` | the normaliser: from `per_step_metric_ce` where it is there, else the list is taken for everything |
//! | `vllm` | JSONL of vLLM's `prompt_token_ids` and `prompt_logprobs`, one request a line | nothing |
//!
//! Metrics are computed from the true tokens' log-probabilities, for `fuseai` without
//! `per_step_metric_ce` from `metric_ce`.
//!
//! What cannot be a distribution is an error that names sample and token (`rows`): lists of more
//! than all probability, ids that come twice, a true token that is more probable than the rest
//! allows. Ids beyond the vocabulary, but not beyond the rows that the model's head may have, stand
//! for nothing and join the tail.

mod columns;
mod distillkit;
mod found;
mod fuseai;
mod rows;
mod samples;
mod spool;
#[cfg(test)]
mod tests;
mod vllm;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::artifact::distribution::{Distribution, DistributionBuilder};
use crate::artifact::parts::Todo;
use crate::artifact::sequence_metrics::{COUNTS, SequenceMetrics};
use crate::artifact::tokens::{SampleTokens, read_part};
use crate::artifact::{Artifact, Kind, Part, PartInfo, Writing};
use crate::error::{Context, Error, Result};
use crate::progress::{Bar, check_interrupt, note, warn};
use crate::stage::{self, Item, Reads, Source, Stage, UP_TO_DATE};
use crate::text;
use crate::units::Count;
use crate::vocab::Vocabulary;
use found::Opened;
use rows::Limits;
use samples::{Arrival, End, Lookup};
use spool::Spool;

/// Rows collected before they are handed to the file.
const FLUSH_ROWS: usize = 8192;

/// Heads are filled up to a multiple of 64, 128 or more rows, whatever their configuration says of
/// it; of no more than this.
const FILLED: usize = 1024;

/// Who wrote the distributions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// DistillKit's compressed Parquet.
    Distillkit,
    /// FuseLLM's and FuseChat's saved data sets.
    Fuseai,
    /// JSONL of vLLM's prompt log-probabilities.
    Vllm,
}

impl Format {
    /// Whether the probability of the true token is in the file where it is not among the best.
    fn has_exact_targets(self) -> bool {
        self == Format::Vllm
    }
}

/// The stage: what is imported, and where it goes.
#[derive(Clone, Debug)]
pub struct Import {
    /// Name of the model whose distributions they are, for messages.
    pub name: String,
    /// File or folder of the other program.
    pub from: PathBuf,
    /// Who wrote it.
    pub format: Format,
    /// DistillKit's configuration, if it is not beside its files.
    pub config: Option<PathBuf>,
    /// Rows of the model's head, if known: there may be more than tokens.
    pub head: Option<usize>,
    /// `tokens` in the model's vocabulary.
    pub tokens: PathBuf,
    /// `transcripts` that the tokens were made from.
    pub transcripts: PathBuf,
    /// `vocab` of the model.
    pub vocab: PathBuf,
    /// Folder of the `topk` to write.
    pub topk: PathBuf,
    /// Folder of the `sequence_metrics` to write.
    pub sequence_metrics: PathBuf,
}

/// What was imported.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportSummary {
    /// Samples.
    pub samples: u64,
    /// Rows of `topk` written.
    pub rows: u64,
    /// Supervised tokens without a distribution: the first of samples without BOS.
    pub without: u64,
    /// Rows whose list held more than all probability, and was scaled to one.
    pub scaled: u64,
    /// Rows whose list lacks the true token and whose program does not say how probable it is.
    pub bounded: u64,
    /// Rows with ids beyond the vocabulary, whose probability joined the tail.
    pub padded: u64,
    /// Samples that have one end token more than in the corpus.
    pub end_more: u64,
    /// Samples that have one less.
    pub end_less: u64,
    /// Samples with an end token more whose program stores the mean over all tokens alone.
    pub mean_with_end: u64,
    /// Whether the samples are in another order than in the corpus.
    pub reordered: bool,
}

impl ImportSummary {
    /// Says what of the file was not as in the corpus.
    fn tell(&self) {
        if self.reordered {
            note(
                "the samples are in another order than in the corpus: they were found by their tokens",
            );
        }
        for (count, what) in [
            (
                self.end_more,
                "samples have one end token more than in the corpus, which is left out",
            ),
            (
                self.end_less,
                "samples have one end token less than in the corpus, which then has no distribution unless the file has one for what follows",
            ),
            (
                self.without,
                "first tokens have no distribution, there was no BOS before them",
            ),
            (
                self.padded,
                "lists have ids of rows that fill up the model's head; their probability joined the tail",
            ),
            (
                self.scaled,
                "lists held more than all probability and were scaled to one",
            ),
            (
                self.bounded,
                "true tokens are not listed; they count with the most that they can have, so metrics are too good",
            ),
        ] {
            if count > 0 {
                note(format!("{} {what}", Count(count)));
            }
        }
        if self.mean_with_end > 0 {
            warn(format!(
                "{} samples have an end token more, and only the mean over all tokens: their nll counts it as one of theirs",
                Count(self.mean_with_end)
            ));
        }
    }
}

impl Import {
    /// What the other program stored, opened.
    fn opened(&self) -> Result<Opened> {
        match self.format {
            Format::Distillkit => distillkit::open(&self.from, self.config.as_deref()),
            Format::Fuseai => fuseai::open(&self.from),
            Format::Vllm => vllm::open(&self.from),
        }
    }

    /// Imports the distributions of one model, part by part. A shard reads all of the file as well.
    ///
    /// # Errors
    /// Files that are damaged or of another format; samples that are not those of `tokens`, with the
    /// first difference; ids beyond the model's head; lists that are no distributions.
    ///
    /// # Memory
    /// The tokens and transcripts of one part, a batch of the file, 8,192 rows of output, 150 bytes
    /// for each sample, and 200 for each that comes before its turn, whose rows are kept on disk.
    pub fn perform(&self, writing: impl Into<Writing>) -> Result<ImportSummary> {
        let tokens = Artifact::open(&self.tokens, Kind::Tokens)?;
        let transcripts = Artifact::open(&self.transcripts, Kind::Transcripts)?;
        tokens.check_same_samples(&transcripts)?;
        let vocabulary = Vocabulary::read(&self.vocab)?;
        tokens.check_vocabulary(&vocabulary.digest)?;
        let opened = self.opened()?;
        let writing = writing.into();
        let topk = stage::writer(self, Kind::Topk, &self.topk, writing)?;
        let metrics = &self.sequence_metrics;
        let metrics = stage::writer(self, Kind::SequenceMetrics, metrics, writing)?;
        let mut summary = ImportSummary::default();
        let mut todo = Todo::new(tokens.parts().iter().map(Part::info), &[&topk, &metrics])?;
        if todo.is_empty() {
            return Ok(summary);
        }
        let filled = (vocabulary.len() / FILLED + 1) * FILLED;
        let known = [self.head, opened.head];
        let limits = Limits {
            vocabulary: vocabulary.len(),
            head: known.into_iter().flatten().fold(filled, usize::max),
        };
        let (from, spool) = (self.from.clone(), Spool::new(&self.topk));
        let mut lookup = Lookup::new(from, &tokens, &vocabulary, opened.samples, spool)?;
        let first = tokens.parts()[0].info().first_sample;
        // The samples of a part, from 0.
        let samples_of = |info: PartInfo| {
            let begin = (info.first_sample - first) as usize;
            begin..begin + info.samples as usize
        };
        for info in tokens.parts().iter().map(Part::info) {
            if !todo.has(info.index) {
                lookup.leave_out(samples_of(info));
            }
        }
        let bar = Bar::new(format!("import {}", self.name), todo.samples(), "samples");
        while let Some(ours) = todo.next(1)?.pop() {
            let info = ours.info;
            let at = info.index as usize;
            let transcripts = text::read_transcripts(&transcripts.parts()[at])?;
            let mut out = topk.part(info)?;
            let mut rows = DistributionBuilder::topk();
            let mut columns = SequenceMetrics::default();
            for ((sample, transcript), index) in read_part(&tokens.parts()[at])?
                .iter()
                .zip(&transcripts)
                .zip(samples_of(info))
            {
                check_interrupt()?;
                let bytes = u32::try_from(transcript.transcript.content_bytes())
                    .map_err(|_| Error::file(&self.transcripts, "a text is larger than 4 GiB"))?;
                let content = transcript.transcript.content_tokens(&sample.byte_end);
                let arrival = lookup.take(index, sample)?;
                let taken = take(limits, sample, &content, arrival, &mut rows, &mut summary)?;
                let bytes = bytes.saturating_sub(taken.left_out);
                columns.push(sample.sample_id, (taken.nll, taken.tokens), bytes);
                if rows.rows() >= FLUSH_ROWS {
                    out.write(&rows.finish()?)?;
                }
                bar.advance(1);
            }
            out.write(&rows.finish()?)?;
            summary.rows += out.rows();
            let mut metrics = metrics.part(info)?;
            metrics.write(&columns.finish()?)?;
            if info.last {
                lookup.finish()?;
            }
            // Both or, after an interruption, neither: a part is done when both are there.
            out.finish()?;
            metrics.finish()?;
        }
        summary.reordered = lookup.reordered();
        Ok(summary)
    }
}

impl Stage for Import {
    fn name(&self) -> &'static str {
        "import"
    }

    fn reads(&self) -> Result<Reads> {
        let vocab = Item::artifact(Kind::Vocab, &self.vocab);
        let mut reads = Reads::new()
            .vocabulary(Source::VocabularyOf(vocab))
            .input("tokens", Item::artifact(Kind::Tokens, &self.tokens))
            .input(
                "transcripts",
                Item::artifact(Kind::Transcripts, &self.transcripts),
            );
        for (index, file) in self.opened()?.files.into_iter().enumerate() {
            reads = reads.input(format!("import {index}"), Item::File(file));
        }
        Ok(reads)
    }

    fn writes(&self) -> Vec<Item> {
        vec![
            Item::artifact(Kind::Topk, &self.topk),
            Item::artifact(Kind::SequenceMetrics, &self.sequence_metrics),
        ]
    }

    fn changing(&self, kind: Kind) -> Value {
        let mut used = serde_json::json!({});
        if kind == Kind::SequenceMetrics {
            used["counts"] = COUNTS.into();
        }
        if !self.format.has_exact_targets() {
            // Then a true token that is not listed has a bound, not a probability.
            used["exact_target"] = false.into();
        }
        used
    }

    fn is_by_part(&self) -> bool {
        true
    }

    fn run(&self, writing: Writing) -> Result<String> {
        let summary = self.perform(writing)?;
        if summary.samples == 0 {
            return Ok(UP_TO_DATE.to_owned());
        }
        summary.tell();
        Ok(format!(
            "{} samples, {} distributions",
            Count(summary.samples),
            Count(summary.rows)
        ))
    }
}

/// The figures of a sample.
struct Taken {
    nll: f64,
    /// Content tokens.
    tokens: u32,
    /// Content bytes of tokens without a distribution: what is not predicted is not counted.
    left_out: u32,
}

/// Adds the rows of one sample, of whose tokens some are `content`.
fn take(
    limits: Limits,
    sample: &SampleTokens,
    content: &[bool],
    arrival: Arrival,
    rows: &mut DistributionBuilder,
    summary: &mut ImportSummary,
) -> Result<Taken> {
    let Arrival { shift, end, .. } = arrival;
    summary.samples += 1;
    summary.end_more += u64::from(end == End::More);
    summary.end_less += u64::from(end == End::Less);
    let (mut nll, mut tokens, mut left_out) = (0.0, 0, 0);
    let mut given = arrival.rows.into_iter().peekable();
    for pos in sample.predicted() {
        let wrong = |problem: String| {
            let (token, id) = (pos + 1 - shift, sample.sample_id);
            let place = format!("{} token {token} (sample {id})", arrival.place);
            Error::input(place, problem)
        };
        // BOS is nobody's next token, so `pos + 1` is at least 1.
        while given.next_if(|row| row.next + shift < pos + 1).is_some() {}
        let Some(row) = given.next_if(|row| row.next + shift == pos + 1) else {
            if pos + 1 == shift {
                summary.without += 1;
                if content.get(pos + 1) == Some(&true) {
                    left_out += sample.byte_end[pos + 1] - sample.byte_start(pos + 1);
                }
                continue;
            }
            // The end token that the file lacks.
            if end == End::Less && pos + 2 == sample.ids.len() {
                continue;
            }
            return Err(wrong("has no distribution".to_owned()));
        };
        let target_id = sample.ids[pos + 1];
        let row = rows::complete(row, target_id, limits, summary).map_err(wrong)?;
        if content.get(pos + 1) == Some(&true) {
            nll -= f64::from(row.target_logprob);
            tokens += 1;
        }
        rows.push(
            sample.sample_id,
            Distribution {
                pos: pos as u32,
                target_id,
                target_logprob: row.target_logprob,
                tail_logprob: row.tail_logprob,
                ids: &row.ids,
                logprobs: &row.logprobs,
            },
        );
    }
    if let Some(ce) = arrival.ce {
        nll = ce * f64::from(tokens);
        summary.mean_with_end += u64::from(end == End::More);
    }
    if nll.is_finite() {
        return Ok(Taken {
            nll,
            tokens,
            left_out,
        });
    }
    Err(Error::input(
        format!("{} (sample {})", arrival.place, sample.sample_id),
        "its log-likelihood is not a number",
    ))
}

/// The files in `dir` whose names end with `suffix`, by the numbers and letters of their names;
/// `from` itself if it is a file.
fn files(from: &Path, suffix: &str) -> Result<Vec<PathBuf>> {
    if from.is_file() {
        return Ok(vec![from.to_path_buf()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(from).at(from)? {
        let path = entry.at(from)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(suffix) {
            // `data_10` comes after `data_9`.
            let digits: String = name.chars().filter(char::is_ascii_digit).collect();
            found.push((digits.len(), digits, path));
        }
    }
    found.sort();
    if found.is_empty() {
        return Err(Error::file(from, format!("has no file `*{suffix}`")));
    }
    Ok(found.into_iter().map(|(_, _, path)| path).collect())
}
