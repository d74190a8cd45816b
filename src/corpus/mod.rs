//! Chat and text files to samples, transcripts and tokens.
//!
//! ```text
//! files ─► records ─► transcript (the pivot's template) ─► pieces of at most `max_tokens`
//!                                                             │
//!                                 samples, transcripts ◄──────┘   one row each, part by part
//! ```
//!
//! [`Corpus`] reads the files twice: once to find whatever is wrong with them (a broken line, a
//! piece too long for some model) before anything is written, once to write. [`Tokenise`] then
//! makes the tokens of each vocabulary from the transcripts, [`Transcribe`] the transcripts of other
//! templates, and [`WriteVocab`] the vocabularies themselves.

#[cfg(test)]
mod case_tests;
mod inputs;
mod options;
mod rows;
mod survey;
#[cfg(test)]
mod tests;
mod tokenise;
mod transcribe;
mod write_vocab;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use inputs::files_of;
pub use options::{BadRecords, CorpusOptions, TemplateMode, TooLong};
pub use tokenise::{TokenSummary, Tokenise};
pub use transcribe::Transcribe;
pub use write_vocab::WriteVocab;

use serde_json::Value;

use crate::artifact::{Artifact, Existing, Kind, PartInfo, Provenance, Writer, Writing};
use crate::error::{Error, Result};
use crate::progress::{Bar, note, warn};
use crate::stage::{self, Item, Reads, Size, Source, Stage, UP_TO_DATE};
use crate::text::{
    BadReason, ChatTemplate, SampleTranscript, Tally, Unplaced, transcripts_to_batch,
};
use crate::units::{Bytes, Count};
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

/// The stage: files, the models that read them, and where the samples go.
#[derive(Clone, Debug)]
pub struct Corpus<'a> {
    /// What is read, and how.
    pub options: CorpusOptions,
    /// The models that read the same text, the pivot first: it decides where a sample is split.
    /// The contexts of the others are respected, and their tokenizers must fit their models.
    pub models: Vec<Model<'a>>,
    /// Folder of the `samples` to write.
    pub samples: PathBuf,
    /// Folder of the `transcripts` to write, by the pivot's template.
    pub transcripts: PathBuf,
}

/// What [`Corpus::perform`] did. Where everything was there already (`up_to_date`), only the samples are
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
    /// Whether nothing was to be done.
    pub up_to_date: bool,
}

impl Corpus<'_> {
    /// The pivot and the others.
    ///
    /// # Errors
    /// There is no model.
    fn split_models(&self) -> Result<(&Model<'_>, &[Model<'_>])> {
        let none = || Error::usage("a corpus needs a model, whose template makes the transcripts");
        self.models.split_first().ok_or_else(none)
    }

    /// Makes `samples` and `transcripts` from the input files.
    ///
    /// Does nothing where the same is already there, and goes on where an earlier call stopped.
    ///
    /// # Errors
    /// Before anything is written: invalid options, missing, unreadable or broken files (with line),
    /// a tokenizer that does not fit its model, a chat for a pivot without a template, a piece too
    /// long for some model (`too_long: error`), a sample without an assistant's turn or with a field
    /// or role that is not known (`strict`), no sample at all. Then: artifacts of another corpus in
    /// the way, a full disk.
    ///
    /// # Memory
    /// One part: the text of `part_samples` samples.
    pub fn perform(&self, existing: Existing) -> Result<Summary> {
        self.options.validate()?;
        let (pivot, others) = self.split_models()?;
        for model in &self.models {
            model.check()?;
        }
        let samples = stage::provenance(self, Kind::Samples)?;
        // They are written at once: what the samples hold is not known yet, but what it depends on.
        let transcripts = Provenance::new(Kind::Transcripts).input("samples", samples.identity());
        let writers = Writers {
            samples: Writer::create(&self.samples, samples, existing)?,
            transcripts: Writer::create(&self.transcripts, transcripts, existing)?,
        };
        if writers.all().iter().all(|writer| writer.is_complete()) {
            let artifact = Artifact::open(&self.samples, Kind::Samples)?;
            return Ok(Summary {
                samples: artifact.samples(),
                up_to_date: true,
                ..Summary::default()
            });
        }
        let survey = Survey::new(&self.options, pivot, others)?;
        let summary = survey.walk(true, |_| Ok(()))?;
        report(&summary);
        if summary.samples == 0 {
            return Err(self.no_sample(&summary));
        }
        let mut parts = Parts {
            writers,
            options: &self.options,
            bar: Bar::new("corpus", summary.samples, "samples"),
            pieces: Vec::new(),
            index: 0,
            first: 0,
            total: summary.samples,
        };
        let again = survey.walk(false, |piece| parts.push(piece))?;
        parts.flush()?;
        if again.samples != summary.samples {
            return Err(
                Error::input("corpus", "an input file changed while it was read")
                    .remedy("run the command again"),
            );
        }
        Ok(summary)
    }

    fn no_sample(&self, summary: &Summary) -> Error {
        let first = self.options.inputs.first();
        Error::input(
            first.map(|path| path.display().to_string()).unwrap_or_default(),
            format!(
                "no sample in {} records of {} files ({} with no assistant's turn, {} too long, {} of no use)",
                Count(summary.records),
                self.options.inputs.len(),
                Count(summary.skipped_silent),
                Count(summary.skipped_too_long),
                Count(summary.bad_records.values().sum())
            ),
        )
        .remedy("check `inputs`, `format` and `max_tokens`")
    }
}

impl Stage for Corpus<'_> {
    fn name(&self) -> &'static str {
        "corpus"
    }

    fn reads(&self) -> Result<Reads> {
        let (pivot, _) = self.split_models()?;
        let digest = pivot.tokenizer.vocabulary().digest.clone();
        let mut reads = Reads::new().fact("pivot_vocabulary", Source::Known(digest));
        for (index, path) in self.options.inputs.iter().enumerate() {
            reads = reads.input(format!("input {index}"), Item::File(path.clone()));
        }
        Ok(reads)
    }

    fn writes(&self) -> Vec<Item> {
        vec![
            Item::artifact(Kind::Samples, &self.samples),
            Item::artifact(Kind::Transcripts, &self.transcripts),
        ]
    }

    fn changing(&self, _: Kind) -> Value {
        changing(&self.options, &self.models)
    }

    fn size(&self) -> Size {
        Size::PerToken(2)
    }

    fn run(&self, Writing { existing, .. }: Writing) -> Result<String> {
        let summary = self.perform(existing)?;
        Ok(match summary.up_to_date {
            true => UP_TO_DATE.to_owned(),
            false => format!(
                "{} samples from {} records, {}",
                Count(summary.samples),
                Count(summary.records),
                Bytes(summary.bytes)
            ),
        })
    }
}

impl Model<'_> {
    /// Digest of its chat template.
    fn template(&self) -> Option<String> {
        self.tokenizer.template().map(ChatTemplate::digest)
    }

    /// Fails unless its tokenizer fits it, and has a first token.
    fn check(&self) -> Result<()> {
        self.tokenizer.fits(self.name, self.rows)?;
        let first = self.tokenizer.first_id();
        first
            .map(drop)
            .map_err(|error| error.within(format!("model `{}`", self.name)))
    }
}

/// The options that change samples and transcripts, and what of the models does.
fn changing(options: &CorpusOptions, models: &[Model<'_>]) -> Value {
    let mut used = serde_json::json!({
        "format": options.format,
        "template": options.template,
        "pivot_template": models.first().and_then(Model::template),
        "date": options.date,
        "max_tokens": options.max_tokens,
        "part_samples": options.part_samples,
        "split": options.split,
        "special_tokens": options.special_tokens,
    });
    if let Some(fields) = options.fields.changing() {
        used["fields"] = fields;
    }
    if options.bad_records == BadRecords::Skip {
        used["bad_records"] = serde_json::json!({ "strict": options.strict });
        if options.template == TemplateMode::Native {
            // What one of these templates refuses is left out.
            let mut templates: Vec<_> = models.iter().skip(1).map(Model::template).collect();
            templates.sort_unstable();
            templates.dedup();
            used["bad_records"]["templates"] = templates.into();
        }
    }
    if options.too_long == TooLong::Skip {
        // Only then can a model's context change the samples.
        let mut contexts: Vec<(&str, Option<usize>)> = models
            .iter()
            .map(|model| (model.tokenizer.vocabulary().digest.as_str(), model.context))
            .collect();
        contexts.sort_unstable();
        contexts.dedup();
        used["too_long"] = serde_json::json!(contexts);
    }
    used
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
}

impl Writers {
    fn all(&self) -> [&Writer; 2] {
        [&self.samples, &self.transcripts]
    }
}

/// Gathers pieces into parts and writes those that are not there.
struct Parts<'a> {
    writers: Writers,
    options: &'a CorpusOptions,
    bar: Bar,
    pieces: Vec<Piece>,
    index: u32,
    first: u64,
    total: u64,
}

impl Parts<'_> {
    fn push(&mut self, piece: Piece) -> Result<()> {
        self.pieces.push(piece);
        if self.pieces.len() as u64 >= self.options.part_samples {
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
            let batch = rows::to_batch(&pieces, self.first, &self.options.split)?;
            let mut part = self.writers.samples.part(info)?;
            part.write(&batch)?;
            part.finish()?;
        }
        if !self.writers.transcripts.is_done(info.index) {
            let transcripts: Vec<SampleTranscript> = (self.first..)
                .zip(&mut pieces)
                .map(|(sample_id, piece)| SampleTranscript {
                    sample_id,
                    transcript: std::mem::take(&mut piece.transcript),
                })
                .collect();
            let mut part = self.writers.transcripts.part(info)?;
            part.write(&transcripts_to_batch(&transcripts)?)?;
            part.finish()?;
        }
        self.bar.advance(samples);
        self.index += 1;
        self.first += samples;
        Ok(())
    }
}
