//! From the records of the input files to the pieces that become samples.
//!
//! The same walk is made twice: first to find everything that is wrong, and how many samples
//! there will be, before anything is written; then to write.

use std::path::Path;

use rayon::prelude::*;

use super::options::{CorpusOptions, TemplateMode, TooLong};
use super::{Model, Summary};
use crate::error::{Error, Result};
use crate::progress::check_interrupt;
use crate::text::{self, ChatTemplate, Message, Record, Transcript};

/// Records that are worked on at a time.
const CHUNK: usize = 512;

/// A sample, but for its id.
pub(super) struct Piece {
    pub(super) source_file: String,
    pub(super) source_row: u64,
    pub(super) piece: u32,
    pub(super) messages: Vec<Message>,
    pub(super) transcript: Transcript,
}

/// The pivot, the other models, and the templates with the date set.
pub(super) struct Survey<'a> {
    pub(super) options: &'a CorpusOptions,
    pub(super) pivot: &'a Model<'a>,
    pub(super) others: &'a [Model<'a>],
    templates: Vec<Option<ChatTemplate>>,
}

/// What became of one record.
struct Outcome {
    pieces: Vec<Piece>,
    split: bool,
    silent: u64,
    too_long: u64,
}

impl<'a> Survey<'a> {
    pub(super) fn new(
        options: &'a CorpusOptions,
        pivot: &'a Model<'a>,
        others: &'a [Model<'a>],
    ) -> Result<Self> {
        let date = options.date()?;
        let templates = std::iter::once(pivot)
            .chain(others)
            .map(|model| {
                let mut template = model.tokenizer.template().cloned();
                if let Some(template) = &mut template {
                    template.set_date(date);
                }
                template
            })
            .collect();
        Ok(Self {
            options,
            pivot,
            others,
            templates,
        })
    }

    /// Walks over all inputs and hands every piece to `take`, in order. The summary counts
    /// what there was. `thorough` checks each piece against every model's context; otherwise
    /// that is done only where the option drops such pieces.
    pub(super) fn walk(
        &self,
        thorough: bool,
        mut take: impl FnMut(Piece) -> Result<()>,
    ) -> Result<Summary> {
        let mut summary = Summary::default();
        for path in &self.options.inputs {
            let mut records = text::read(path, self.options.format)?;
            loop {
                let chunk = records
                    .by_ref()
                    .take(CHUNK)
                    .collect::<Result<Vec<Record>>>()?;
                if chunk.is_empty() {
                    break;
                }
                check_interrupt()?;
                let outcomes: Vec<Result<Outcome>> = chunk
                    .into_par_iter()
                    .map(|record| self.pieces(path, record, thorough))
                    .collect();
                for outcome in outcomes {
                    let outcome = outcome?;
                    summary.records += 1;
                    summary.split += u64::from(outcome.split);
                    summary.skipped_silent += outcome.silent;
                    summary.skipped_too_long += outcome.too_long;
                    summary.samples += outcome.pieces.len() as u64;
                    for piece in outcome.pieces {
                        summary.bytes += piece.transcript.text.len() as u64;
                        take(piece)?;
                    }
                }
            }
        }
        Ok(summary)
    }

    fn pieces(&self, path: &Path, record: Record, thorough: bool) -> Result<Outcome> {
        let mut outcome = Outcome {
            pieces: Vec::new(),
            split: false,
            silent: 0,
            too_long: 0,
        };
        let whole = self.transcript(0, self.pivot, &record.messages, &record.place)?;
        if !whole.is_supervised() {
            if self.options.strict {
                let what = if record.is_text() {
                    "an empty text"
                } else {
                    "no assistant turn"
                };
                return Err(Error::input(&record.place, what)
                    .remedy("remove it, or leave out `strict` to skip such samples"));
            }
            outcome.silent = 1;
            return Ok(outcome);
        }
        let native = self.options.template == TemplateMode::Native;
        let whole_turns = native && !record.is_text();
        let most = self.options.max_tokens;
        let pieces = self
            .pivot
            .tokenizer
            .split_transcript(&whole, most, whole_turns)?;
        let Some(pieces) = pieces else {
            return self.refuse(
                outcome,
                Error::input(
                    &record.place,
                    format!("a turn of more than {most} tokens, and `template: native` splits only between turns"),
                )
                .remedy("raise `max_tokens`, use `template: pivot`, or `too_long: skip`"),
            );
        };
        outcome.split = pieces.len() > 1;
        let source_file = path.display().to_string();
        for (index, transcript) in (0u32..).zip(pieces) {
            if !transcript.is_supervised() {
                continue;
            }
            let messages = if outcome.split {
                transcript.messages()
            } else {
                record.messages.clone()
            };
            let check = thorough || self.options.too_long == TooLong::Skip;
            if check && let Some(error) = self.misfit(&record, index, &messages, &transcript)? {
                outcome = self.refuse(outcome, error)?;
                continue;
            }
            outcome.pieces.push(Piece {
                source_file: source_file.clone(),
                source_row: record.source_row,
                piece: index,
                messages,
                transcript,
            });
        }
        Ok(outcome)
    }

    fn refuse(&self, mut outcome: Outcome, error: Error) -> Result<Outcome> {
        match self.options.too_long {
            TooLong::Error => Err(error),
            TooLong::Skip => {
                outcome.too_long += 1;
                Ok(outcome)
            }
        }
    }

    /// Why a piece is too long for some model, if it is.
    fn misfit(
        &self,
        record: &Record,
        piece: u32,
        messages: &[Message],
        transcript: &Transcript,
    ) -> Result<Option<Error>> {
        for (index, model) in std::iter::once(self.pivot).chain(self.others).enumerate() {
            let Some(context) = model.context else {
                continue;
            };
            let own;
            let (transcript, pivot) = if self.options.template == TemplateMode::Native && index > 0
            {
                own = self.transcript(index, model, messages, &record.place)?;
                (&own, None)
            } else {
                (transcript, (index > 0).then_some(self.pivot.tokenizer))
            };
            // Exchanged special tokens keep their bytes; each segment may gain a prefix.
            if 2 * transcript.text.len() + 2 <= context {
                continue;
            }
            let tokens = model
                .tokenizer
                .encode_transcript(transcript, pivot)?
                .ids
                .len();
            if tokens > context {
                let place = match piece {
                    0 => record.place.clone(),
                    piece => format!("{} piece {piece}", record.place),
                };
                return Ok(Some(
                    Error::input(
                        place,
                        format!(
                            "{tokens} tokens for model `{}`, whose context is {context}",
                            model.name
                        ),
                    )
                    .remedy("lower `max_tokens` (it counts the pivot's tokens), or set `too_long: skip`"),
                ));
            }
        }
        Ok(None)
    }

    fn transcript(
        &self,
        index: usize,
        model: &Model<'_>,
        messages: &[Message],
        place: &str,
    ) -> Result<Transcript> {
        let template = self.templates.get(index).and_then(Option::as_ref);
        text::transcript(messages, template).map_err(|error| match error {
            Error::Input {
                problem, remedy, ..
            } => Error::Input {
                subject: format!("{place} for model `{}`", model.name),
                problem,
                remedy,
            },
            other => other,
        })
    }
}
