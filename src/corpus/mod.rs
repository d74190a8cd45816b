//! Chat and text files to samples, transcripts and tokens.
//!
//! ```text
//! files ─► records ─► transcript (the pivot's template) ─► pieces of at most `max_tokens`
//!                                                             │
//!                         samples, transcripts, tokens ◄──────┘   one row each, part by part
//! ```
//!
//! [`run`] reads the files twice: once to find whatever is wrong with them (a broken line, a
//! piece too long for some model) before anything is written, once to write. [`tokenise()`] then
//! makes the tokens of every other vocabulary from the transcripts, and [`transcribe`] the
//! transcripts of other templates.

#[cfg(test)]
mod case_tests;
mod options;
mod rows;
mod survey;
#[cfg(test)]
mod tests;
mod tokenise;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use options::{BadRecords, CorpusOptions, TemplateMode, TooLong};
pub use tokenise::{TokenSummary, tokenise, tokens_changing, transcribe};

use crate::artifact::{Artifact, Existing, Kind, PartInfo, Provenance, RunDir, Writer, tokens};
use crate::error::{Error, Result};
use crate::files::digest;
use crate::progress::{Bar, note, warn};
use crate::text::{BadReason, SampleTranscript, Tally, Unplaced, transcripts_to_batch};
use crate::units::Count;
use crate::vocab::Tokenizer;
use survey::{Piece, Survey};

/// A model as this stage sees it.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// Its name, for messages.
    pub name: &'a str,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// The most tokens that it reads, BOS included (`max_position_embeddings`); none if there
    /// is no limit.
    pub context: Option<usize>,
    /// The rows of its embedding (`vocab_size`).
    pub rows: usize,
}

/// The folders that [`run`] writes.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// The artifact `samples`.
    pub samples: PathBuf,
    /// The artifact `transcripts`, by the pivot's template.
    pub transcripts: PathBuf,
    /// The artifact `tokens`, in the pivot's vocabulary.
    pub tokens: PathBuf,
}

impl Outputs {
    /// The folders of a run whose template and vocabulary have these names.
    pub fn in_run(run: &RunDir, template: &str, vocab: &str) -> Self {
        Self {
            samples: run.artifact(Kind::Samples, &[]),
            transcripts: run.artifact(Kind::Transcripts, &[template]),
            tokens: run.artifact(Kind::Tokens, &[vocab, template]),
        }
    }
}

/// What [`run`] did. Where everything was there already (`up_to_date`), only the samples are
/// known.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Records read.
    pub records: u64,
    /// Samples made of them, pieces counted one by one.
    pub samples: u64,
    /// Records that were longer than `max_tokens` and were split.
    pub split: u64,
    /// Records without an assistant's turn (or text), which were left out.
    pub skipped_silent: u64,
    /// Pieces that were too long for a model, which were left out.
    pub skipped_too_long: u64,
    /// Assistant's turns that are not learnt, by reason.
    pub unplaced: BTreeMap<Unplaced, u64>,
    /// Records of no use that were left out (`bad_records: skip`), by reason.
    pub bad_records: BTreeMap<BadReason, u64>,
    /// Fields that are not read, and roles that are not known.
    pub noticed: Tally,
    /// Bytes of all transcripts.
    pub bytes: u64,
    /// The pivot's tokens, BOS included, of the parts that were written now.
    pub tokens: u64,
    /// How many of them are supervised.
    pub supervised: u64,
    /// Whether nothing was to be done.
    pub up_to_date: bool,
}

/// Makes `samples`, `transcripts` and the pivot's `tokens` from the input files.
///
/// `others` are the models that read the same text: their contexts are respected, and their
/// tokenizers must fit their models. They do not change where a sample is split.
///
/// Does nothing where the same is already there, and goes on where an earlier call stopped.
///
/// # Errors
/// Before anything is written: invalid options, missing, unreadable or broken files (with line),
/// a tokenizer that does not fit its model, a chat for a pivot without a template, a piece too
/// long for some model (`too_long: error`), a sample without an assistant's turn or with a field or
/// role that is not known (`strict`), no sample at all. Then: artifacts of another corpus in the way, a full disk.
///
/// # Memory
/// One part: the text of `part_samples` samples and its tokens (9 bytes each).
pub fn run(
    options: &CorpusOptions,
    pivot: &Model<'_>,
    others: &[Model<'_>],
    outputs: &Outputs,
    existing: Existing,
) -> Result<Summary> {
    options.validate()?;
    for model in std::iter::once(pivot).chain(others) {
        model.tokenizer.fits(model.name, model.rows)?;
        model.tokenizer.first_id().map_err(|error| match error {
            Error::Input {
                problem, remedy, ..
            } => Error::Input {
                subject: format!("tokenizer of model `{}`", model.name),
                problem,
                remedy,
            },
            other => other,
        })?;
    }
    let samples = samples_provenance(options, pivot, others)?;
    let transcripts = Provenance::new(Kind::Transcripts).input("samples", samples.identity());
    let tokens = tokenise::provenance(
        &transcripts.identity(),
        pivot.tokenizer,
        None,
        options.special_tokens,
    );
    let writers = Writers {
        samples: Writer::create(&outputs.samples, samples, existing)?,
        transcripts: Writer::create(&outputs.transcripts, transcripts, existing)?,
        tokens: Writer::create(&outputs.tokens, tokens, existing)?,
    };
    if writers.all().iter().all(|writer| writer.is_complete()) {
        let artifact = Artifact::open(&outputs.samples, Kind::Samples)?;
        return Ok(Summary {
            samples: artifact.samples(),
            up_to_date: true,
            ..Summary::default()
        });
    }

    let survey = Survey::new(options, pivot, others)?;
    let mut summary = survey.walk(true, |_| Ok(()))?;
    report(&summary);
    if summary.samples == 0 {
        let first = options
            .inputs
            .first()
            .map(|path| path.display().to_string());
        return Err(Error::input(
            first.unwrap_or_default(),
            format!(
                "no sample in {} records of {} files ({} with no assistant's turn, {} too long, {} of no use)",
                Count(summary.records),
                options.inputs.len(),
                Count(summary.skipped_silent),
                Count(summary.skipped_too_long),
                Count(summary.bad_records.values().sum())
            ),
        )
        .remedy("check `inputs`, `format` and `max_tokens`"));
    }
    let mut parts = Parts {
        writers,
        survey: &survey,
        bar: Bar::new("corpus", summary.samples, "samples"),
        pieces: Vec::new(),
        index: 0,
        first: 0,
        total: summary.samples,
        tokens: TokenSummary::default(),
    };
    let again = survey.walk(false, |piece| parts.push(piece))?;
    parts.flush()?;
    if again.samples != summary.samples {
        return Err(
            Error::input("corpus", "an input file changed while it was read")
                .remedy("run the command again"),
        );
    }
    summary.tokens = parts.tokens.tokens;
    summary.supervised = parts.tokens.supervised;
    Ok(summary)
}

/// Everything that determines the samples.
fn samples_provenance(
    options: &CorpusOptions,
    pivot: &Model<'_>,
    others: &[Model<'_>],
) -> Result<Provenance> {
    let template = pivot.tokenizer.template();
    let mut results = serde_json::json!({
        "format": options.format,
        "template": options.template,
        "pivot_template": template.map(crate::text::ChatTemplate::digest),
        "date": options.date,
        "max_tokens": options.max_tokens,
        "part_samples": options.part_samples,
        "split": options.split,
        "special_tokens": options.special_tokens,
    });
    if let Some(fields) = options.fields.changing() {
        results["fields"] = fields;
    }
    if options.bad_records == BadRecords::Skip {
        results["bad_records"] = serde_json::json!({ "strict": options.strict });
        if options.template == TemplateMode::Native {
            // What one of these templates refuses is left out.
            let mut templates: Vec<_> = others
                .iter()
                .map(|model| {
                    model
                        .tokenizer
                        .template()
                        .map(crate::text::ChatTemplate::digest)
                })
                .collect();
            templates.sort_unstable();
            templates.dedup();
            results["bad_records"]["templates"] = templates.into();
        }
    }
    if options.too_long == TooLong::Skip {
        // Only then can a model's context change the samples.
        let mut contexts: Vec<(&str, Option<usize>)> = std::iter::once(pivot)
            .chain(others)
            .map(|model| (model.tokenizer.vocabulary().digest.as_str(), model.context))
            .collect();
        contexts.sort_unstable();
        contexts.dedup();
        results["too_long"] = serde_json::json!(contexts);
    }
    let mut provenance = Provenance::new(Kind::Samples)
        .options(results)
        .input("pivot_vocabulary", &pivot.tokenizer.vocabulary().digest);
    for (index, path) in options.inputs.iter().enumerate() {
        provenance = provenance.input(format!("input {index}"), digest::file(path)?);
    }
    Ok(provenance)
}

fn report(summary: &Summary) {
    for line in summary.noticed.lines() {
        warn(format!("corpus: {line}"));
    }
    for (reason, count) in &summary.bad_records {
        warn(format!(
            "{} of {} records are left out: {reason}",
            Count(*count),
            Count(summary.records)
        ));
    }
    if summary.skipped_silent > 0 {
        warn(format!(
            "{} of {} records have no assistant's turn and are left out",
            Count(summary.skipped_silent),
            Count(summary.records)
        ));
    }
    for (reason, count) in &summary.unplaced {
        warn(format!(
            "{} assistant's turns are not learnt: {reason}",
            Count(*count)
        ));
    }
    if summary.skipped_too_long > 0 {
        warn(format!(
            "{} pieces are too long for a model and are left out",
            Count(summary.skipped_too_long)
        ));
    }
    if summary.split > 0 {
        note(format!(
            "{} of {} records are longer than `max_tokens` and are split",
            Count(summary.split),
            Count(summary.records)
        ));
    }
}

struct Writers {
    samples: Writer,
    transcripts: Writer,
    tokens: Writer,
}

impl Writers {
    fn all(&self) -> [&Writer; 3] {
        [&self.samples, &self.transcripts, &self.tokens]
    }
}

/// Gathers pieces into parts and writes those that are not there.
struct Parts<'a> {
    writers: Writers,
    survey: &'a Survey<'a>,
    bar: Bar,
    pieces: Vec<Piece>,
    index: u32,
    first: u64,
    total: u64,
    tokens: TokenSummary,
}

impl Parts<'_> {
    fn push(&mut self, piece: Piece) -> Result<()> {
        self.pieces.push(piece);
        if self.pieces.len() as u64 >= self.survey.options.part_samples {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let mut pieces = std::mem::take(&mut self.pieces);
        let samples = pieces.len() as u64;
        if samples == 0 {
            return Ok(());
        }
        let info = PartInfo {
            index: self.index,
            first_sample: self.first,
            samples,
            last: self.first + samples == self.total,
        };
        if !self.writers.samples.is_done(info.index) {
            let batch = rows::to_batch(&pieces, self.first, &self.survey.options.split)?;
            let mut part = self.writers.samples.part(info)?;
            part.write(&batch)?;
            part.finish()?;
        }
        let transcripts: Vec<SampleTranscript> = (self.first..)
            .zip(&mut pieces)
            .map(|(sample_id, piece)| SampleTranscript {
                sample_id,
                transcript: std::mem::take(&mut piece.transcript),
            })
            .collect();
        if !self.writers.transcripts.is_done(info.index) {
            let mut part = self.writers.transcripts.part(info)?;
            part.write(&transcripts_to_batch(&transcripts)?)?;
            part.finish()?;
        }
        if self.writers.tokens.is_done(info.index) {
            self.bar.advance(samples);
        } else {
            let tokenizer = self.survey.pivot.tokenizer;
            let encoded = tokenise::encode(
                &transcripts,
                tokenizer,
                None,
                self.survey.options.special_tokens,
                &self.bar,
            )?;
            self.tokens.add(&encoded);
            let mut part = self.writers.tokens.part(info)?;
            part.write(&tokens::to_batch(&encoded)?)?;
            part.finish()?;
        }
        self.index += 1;
        self.first += samples;
        Ok(())
    }
}
