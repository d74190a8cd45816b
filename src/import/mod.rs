//! Import: distributions that other programs stored become `topk` and `sequence_metrics`.
//!
//! The samples of the file are those of `tokens`, in its order, in the model's vocabulary; the
//! token ids of each are compared, and the first difference is an error. A file without the BOS
//! that `tokens` begins with is understood: its first token then has no distribution.
//!
//! | format | is | what it does not say, and what is taken |
//! |---|---|---|
//! | `distillkit` | DistillKit's compressed Parquet: `input_ids`, `compressed_logprobs`, `bytepacked_indices`, and `compression_config.yaml` | the true token where it is not listed: at most as probable as the least listed, and as the tail |
//! | `fuseai` | FuseLLM's and FuseChat's data sets saved by `datasets`: `input_ids`, `per_step_logits`, `per_step_indices`, `metric_ce` | the normaliser: from `per_step_metric_ce` where it is there, else the list is taken for everything |
//! | `vllm` | JSONL of vLLM's `prompt_token_ids` and `prompt_logprobs`, one request a line | nothing |
//!
//! Metrics are computed from the true tokens' log-probabilities, for `fuseai` without
//! `per_step_metric_ce` from `metric_ce`.

mod columns;
mod distillkit;
mod fuseai;
#[cfg(test)]
mod tests;
mod vllm;

use std::path::{Path, PathBuf};

use crate::artifact::distribution::{Distribution, DistributionBuilder};
use crate::artifact::sequence_metrics::SequenceMetrics;
use crate::artifact::tokens::{SampleTokens, read_part};
use crate::artifact::{Artifact, Existing, Kind, Provenance, Writer, digest};
use crate::error::{Context, Error, Result};
use crate::progress::{Bar, check_interrupt};
use crate::text;
use crate::units::TokenId;
use crate::vocab::Vocabulary;

/// Rows collected before they are handed to the file.
const FLUSH_ROWS: usize = 8192;
/// A list may hold this much more than all probability before it is scaled.
const SLACK: f64 = 1e-3;

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
}

/// One sample as the other program stored it.
#[derive(Debug)]
struct Found {
    /// File and row, for messages.
    place: String,
    ids: Vec<TokenId>,
    /// By rising `next`.
    rows: Vec<FoundRow>,
    /// Mean negative log-likelihood of its tokens, where it is stored instead of theirs.
    ce: Option<f64>,
}

/// One distribution.
#[derive(Debug, Default)]
struct FoundRow {
    /// Index of the token that it is about.
    next: usize,
    ids: Vec<TokenId>,
    logprobs: Vec<f32>,
    /// Log of the probability outside the list, where the program says so.
    tail_logprob: Option<f32>,
    /// Log-probability of the token, where the program says so.
    target_logprob: Option<f32>,
    /// Whether the log-probabilities are approximations, which may be above 0.
    approximate: bool,
}

type Samples = Box<dyn Iterator<Item = Result<Found>>>;

/// Imports the distributions of one model, part by part.
///
/// # Errors
/// Files that are damaged or of another format; samples that are not those of `tokens`, with the
/// first difference; ids beyond the vocabulary; log-probabilities that are none.
///
/// # Memory
/// The tokens and transcripts of one part, a batch of the file, and 8,192 rows of output.
pub fn run(inputs: &ImportInputs, existing: Existing) -> Result<ImportSummary> {
    let tokens = Artifact::open(&inputs.tokens, Kind::Tokens)?;
    let transcripts = Artifact::open(&inputs.transcripts, Kind::Transcripts)?;
    tokens.check_same_samples(&transcripts)?;
    let vocabulary = Vocabulary::read(&inputs.vocab)?;
    tokens.check_vocabulary(&vocabulary.digest)?;
    let (files, mut samples) = match inputs.format {
        Format::Distillkit => distillkit::open(&inputs.from, inputs.config.as_deref())?,
        Format::Fuseai => fuseai::open(&inputs.from)?,
        Format::Vllm => vllm::open(&inputs.from)?,
    };
    let provenance = |kind: Kind| -> Result<Provenance> {
        let mut provenance = Provenance::new(kind)
            .vocabulary(&vocabulary.digest)
            .input("tokens", tokens.identity())
            .input("transcripts", transcripts.identity());
        for (index, file) in files.iter().enumerate() {
            provenance = provenance.input(format!("import {index}"), digest::file(file)?);
        }
        Ok(provenance)
    };
    let topk = Writer::create(&inputs.topk, provenance(Kind::Topk)?, existing)?;
    let metrics = provenance(Kind::SequenceMetrics)?;
    let metrics = Writer::create(&inputs.sequence_metrics, metrics, existing)?;
    let mut summary = ImportSummary::default();
    if topk.is_complete() && metrics.is_complete() {
        return Ok(summary);
    }
    let bar = Bar::new(
        format!("import {}", inputs.name),
        tokens.samples(),
        "samples",
    );
    for (index, part) in tokens.parts().iter().enumerate() {
        let transcripts = text::read_transcripts(&transcripts.parts()[index])?;
        let mut out = topk.part(part.info())?;
        let mut rows = DistributionBuilder::topk();
        let mut columns = SequenceMetrics::default();
        for (sample, transcript) in read_part(part)?.iter().zip(&transcripts) {
            check_interrupt()?;
            let found = samples.next().ok_or_else(|| {
                Error::file(
                    &inputs.from,
                    format!(
                        "has {} samples, `{}` has {}",
                        summary.samples,
                        inputs.tokens.display(),
                        tokens.samples()
                    ),
                )
                .remedy("import what was made from the same corpus, in its order")
            })??;
            let bytes = u32::try_from(transcript.transcript.content_bytes())
                .map_err(|_| Error::file(&inputs.transcripts, "a text is larger than 4 GiB"))?;
            let content = transcript.transcript.content_tokens(&sample.byte_end);
            let taken = take(
                &vocabulary,
                sample,
                &content,
                found,
                &mut rows,
                &mut summary,
            )?;
            columns.push(sample.sample_id, taken, bytes);
            if rows.rows() >= FLUSH_ROWS {
                out.write(&rows.finish()?)?;
            }
            bar.advance(1);
        }
        out.write(&rows.finish()?)?;
        summary.rows += out.rows();
        let mut metrics = metrics.part(part.info())?;
        metrics.write(&columns.finish()?)?;
        // Both or, after an interruption, neither: a part is done when both are there.
        if part.info().last && samples.next().is_some() {
            return Err(Error::file(
                &inputs.from,
                format!(
                    "has more than the {} samples of `{}`",
                    tokens.samples(),
                    inputs.tokens.display()
                ),
            )
            .remedy("import what was made from the same corpus, in its order"));
        }
        out.finish()?;
        metrics.finish()?;
    }
    Ok(summary)
}

/// Adds the rows of one sample, of whose tokens some are `content`; returns its negative
/// log-likelihood and content tokens.
fn take(
    vocabulary: &Vocabulary,
    sample: &SampleTokens,
    content: &[bool],
    found: Found,
    rows: &mut DistributionBuilder,
    summary: &mut ImportSummary,
) -> Result<(f64, u32)> {
    let shift = shift(vocabulary, sample, &found)?;
    summary.samples += 1;
    let (mut nll, mut tokens) = (0.0, 0);
    let mut given = found.rows.into_iter().peekable();
    for pos in sample.predicted() {
        let wrong = |problem: String| {
            let place = format!("{} token {}", found.place, pos + 1 - shift);
            Error::input(place, problem)
        };
        // BOS is nobody's next token, so `pos + 1` is at least 1.
        while given.next_if(|row| row.next + shift < pos + 1).is_some() {}
        let Some(row) = given.next_if(|row| row.next + shift == pos + 1) else {
            if pos + 1 == shift {
                summary.without += 1;
                continue;
            }
            return Err(wrong("has no distribution".to_owned()));
        };
        let target_id = sample.ids[pos + 1];
        let row = complete(row, target_id, vocabulary.len(), summary).map_err(wrong)?;
        let target_logprob = row.target_logprob.unwrap_or(f32::NEG_INFINITY);
        if content.get(pos + 1) == Some(&true) {
            nll -= f64::from(target_logprob);
            tokens += 1;
        }
        rows.push(
            sample.sample_id,
            Distribution {
                pos: pos as u32,
                target_id,
                target_logprob,
                tail_logprob: row.tail_logprob.unwrap_or(f32::NEG_INFINITY),
                ids: &row.ids,
                logprobs: &row.logprobs,
            },
        );
    }
    if let Some(ce) = found.ce {
        nll = ce * f64::from(tokens);
    }
    if nll.is_finite() {
        return Ok((nll, tokens));
    }
    Err(Error::input(
        found.place,
        "its log-likelihood is not a number",
    ))
}

/// How many tokens the file lacks at the beginning: none, or BOS.
fn shift(vocabulary: &Vocabulary, sample: &SampleTokens, found: &Found) -> Result<usize> {
    let zero_width = sample.byte_end.first() == Some(&0);
    if found.ids == sample.ids {
        return Ok(0);
    }
    if zero_width && Some(found.ids.as_slice()) == sample.ids.get(1..) {
        return Ok(1);
    }
    let without_bos = zero_width && found.ids.first() != sample.ids.first();
    let shift = usize::from(without_bos);
    let ours = sample.ids.get(shift..).unwrap_or_default();
    let at = (0..)
        .zip(&found.ids)
        .find(|(at, id)| ours.get(*at) != Some(*id))
        .map_or(found.ids.len(), |(at, _)| at);
    let show = |id: Option<&TokenId>| match id {
        None => "nothing more".to_owned(),
        Some(id) => match vocabulary.token(*id) {
            Some(token) => format!("{id} (`{}`)", token.display),
            None => format!("{id}, which the vocabulary lacks"),
        },
    };
    Err(Error::input(
        &found.place,
        format!(
            "its tokens are not those of sample {}: token {at} is {}, expected {}",
            sample.sample_id,
            show(found.ids.get(at)),
            show(ours.get(at)),
        ),
    )
    .remedy("it was made with another tokenizer, chat template or order of the corpus"))
}

/// Fills in what the file does not say, and checks the rest.
fn complete(
    mut row: FoundRow,
    target_id: TokenId,
    vocabulary: usize,
    summary: &mut ImportSummary,
) -> std::result::Result<FoundRow, String> {
    if row.ids.len() != row.logprobs.len() {
        let (ids, logprobs) = (row.ids.len(), row.logprobs.len());
        return Err(format!("{ids} ids for {logprobs} log-probabilities"));
    }
    if let Some(id) = row.ids.iter().find(|id| **id as usize >= vocabulary) {
        return Err(format!(
            "id {id} is beyond the vocabulary of {vocabulary} tokens"
        ));
    }
    let most = if row.approximate { f32::MAX } else { 0.01 };
    let bad = |x: &&f32| x.is_nan() || **x > most;
    if let Some(bad) = row.logprobs.iter().chain(&row.target_logprob).find(bad) {
        return Err(format!("{bad} is no log-probability"));
    }
    // Places that were not filled.
    let filled = row.logprobs.iter().map(|x| *x > f32::NEG_INFINITY);
    let filled: Vec<bool> = filled.collect();
    let mut keep = filled.iter();
    row.ids.retain(|_| *keep.next().unwrap_or(&true));
    row.logprobs.retain(|x| *x > f32::NEG_INFINITY);
    let listed: f64 = row.logprobs.iter().map(|x| f64::from(*x).exp()).sum();
    if listed > 1.0 + SLACK {
        summary.scaled += 1;
        let log = listed.ln() as f32;
        row.logprobs.iter_mut().for_each(|x| *x -= log);
    }
    let tail = *row
        .tail_logprob
        .get_or_insert((1.0 - listed).max(0.0).ln() as f32);
    let place = row.ids.iter().position(|id| *id == target_id);
    let own = place.map(|at| row.logprobs[at]);
    let target = row.target_logprob.or(own).unwrap_or_else(|| {
        summary.bounded += 1;
        let least = row.logprobs.iter().copied().fold(0.0, f32::min);
        match tail > f32::NEG_INFINITY {
            true => tail.min(least),
            false => least,
        }
    });
    row.target_logprob = Some(target);
    Ok(row)
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
