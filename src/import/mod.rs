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

use crate::artifact::distribution::{Distribution, DistributionBuilder};
use crate::artifact::sequence_metrics::{COUNTS, SequenceMetrics};
use crate::artifact::tokens::{SampleTokens, read_part};
use crate::artifact::{Artifact, Existing, Kind, Provenance, Writer};
use crate::error::{Context, Error, Result};
use crate::files::digest;
use crate::progress::{Bar, check_interrupt};
use crate::text;
use crate::vocab::Vocabulary;
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

/// What is imported, and where it goes.
#[derive(Clone, Debug)]
pub struct ImportInputs {
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

/// Imports the distributions of one model, part by part.
///
/// # Errors
/// Files that are damaged or of another format; samples that are not those of `tokens`, with the
/// first difference; ids beyond the model's head; lists that are no distributions.
///
/// # Memory
/// The tokens and transcripts of one part, a batch of the file, 8,192 rows of output, 150 bytes for
/// each sample, and 200 for each that comes before its turn, whose rows are kept on disk.
pub fn run(inputs: &ImportInputs, existing: Existing) -> Result<ImportSummary> {
    let tokens = Artifact::open(&inputs.tokens, Kind::Tokens)?;
    let transcripts = Artifact::open(&inputs.transcripts, Kind::Transcripts)?;
    tokens.check_same_samples(&transcripts)?;
    let vocabulary = Vocabulary::read(&inputs.vocab)?;
    tokens.check_vocabulary(&vocabulary.digest)?;
    let opened = match inputs.format {
        Format::Distillkit => distillkit::open(&inputs.from, inputs.config.as_deref())?,
        Format::Fuseai => fuseai::open(&inputs.from)?,
        Format::Vllm => vllm::open(&inputs.from)?,
    };
    let provenance = |kind: Kind| -> Result<Provenance> {
        let mut provenance = Provenance::new(kind)
            .vocabulary(&vocabulary.digest)
            .input("tokens", tokens.identity())
            .input("transcripts", transcripts.identity());
        for (index, file) in opened.files.iter().enumerate() {
            provenance = provenance.input(format!("import {index}"), digest::file(file)?);
        }
        let mut used = serde_json::json!({});
        if kind == Kind::SequenceMetrics {
            used["counts"] = COUNTS.into();
        }
        if !inputs.format.has_exact_targets() {
            // Then a true token that is not listed has a bound, not a probability.
            used["exact_target"] = false.into();
        }
        provenance = provenance.options(used);
        Ok(provenance)
    };
    let topk = Writer::create(&inputs.topk, provenance(Kind::Topk)?, existing)?;
    let metrics = provenance(Kind::SequenceMetrics)?;
    let metrics = Writer::create(&inputs.sequence_metrics, metrics, existing)?;
    let mut summary = ImportSummary::default();
    if topk.is_complete() && metrics.is_complete() {
        return Ok(summary);
    }
    let filled = (vocabulary.len() / FILLED + 1) * FILLED;
    let known = [inputs.head, opened.head];
    let limits = Limits {
        vocabulary: vocabulary.len(),
        head: known.into_iter().flatten().fold(filled, usize::max),
    };
    let (from, spool) = (inputs.from.clone(), Spool::new(&inputs.topk));
    let mut lookup = Lookup::new(from, &tokens, &vocabulary, opened.samples, spool)?;
    let bar = Bar::new(
        format!("import {}", inputs.name),
        tokens.samples(),
        "samples",
    );
    let mut index = 0..;
    for (at, part) in tokens.parts().iter().enumerate() {
        let transcripts = text::read_transcripts(&transcripts.parts()[at])?;
        let mut out = topk.part(part.info())?;
        let mut rows = DistributionBuilder::topk();
        let mut columns = SequenceMetrics::default();
        for ((sample, transcript), index) in
            read_part(part)?.iter().zip(&transcripts).zip(&mut index)
        {
            check_interrupt()?;
            let bytes = u32::try_from(transcript.transcript.content_bytes())
                .map_err(|_| Error::file(&inputs.transcripts, "a text is larger than 4 GiB"))?;
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
        let mut metrics = metrics.part(part.info())?;
        metrics.write(&columns.finish()?)?;
        if part.info().last {
            lookup.finish()?;
        }
        // Both or, after an interruption, neither: a part is done when both are there.
        out.finish()?;
        metrics.finish()?;
    }
    summary.reordered = lookup.reordered();
    Ok(summary)
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
