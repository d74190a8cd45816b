//! From the records of the input files to the pieces that become samples.
//!
//! The same walk is made twice: first to find everything that is wrong, and how many samples
//! there will be, before anything is written; then to write.

use std::ops::Range;
use std::path::Path;

use rayon::prelude::*;

use super::options::{BadRecords, CorpusOptions, TemplateMode, TooLong};
use super::{Model, Summary};
use crate::error::{Error, Result};
use crate::progress::{check_interrupt, warn};
use crate::text::{
    self, Bad, BadReason, Chat, ChatTemplate, Format, Notes, Owner, RawRecord, Reading, Record,
    Transcribed, Transcript, Unplaced,
};

/// Records that are worked on at a time.
const CHUNK: usize = 512;

/// Bad records that are named, where they are left out.
const MOST_NAMED: u64 = 10;

/// A sample, but for its id.
pub(super) struct Piece {
    pub(super) source_file: String,
    pub(super) source_row: u64,
    pub(super) piece: u32,
    pub(super) chat: Chat,
    pub(super) transcript: Transcript,
}

/// The pivot, the other models, and the templates with the date set.
pub(super) struct Survey<'a> {
    pub(super) options: &'a CorpusOptions,
    pub(super) pivot: &'a Model<'a>,
    pub(super) others: &'a [Model<'a>],
    reading: Reading,
    templates: Vec<Option<ChatTemplate>>,
}

/// What became of one record.
struct Outcome {
    format: Format,
    notes: Notes,
    pieces: Vec<Piece>,
    split: bool,
    silent: u64,
    too_long: u64,
    unplaced: Vec<Unplaced>,
}

/// Why a record has no outcome.
enum Stop {
    /// It is of no use, but those after it may be.
    Bad(Bad),
    /// Nothing can go on.
    All(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::All(error)
    }
}

impl Stop {
    fn bad(reason: BadReason, error: Error) -> Self {
        match error {
            Error::Input { .. } => Self::Bad(Bad { reason, error }),
            other => Self::All(other),
        }
    }
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
            reading: options.reading(),
            templates,
        })
    }

    /// Walks over all inputs and hands every piece to `take`, in order. The summary counts
    /// what there was. The `first` walk checks each piece against every model's context (otherwise
    /// that is done only where it decides what is left out), and says what is wrong.
    pub(super) fn walk(
        &self,
        first: bool,
        mut take: impl FnMut(Piece) -> Result<()>,
    ) -> Result<Summary> {
        let mut summary = Summary::default();
        for path in &self.options.inputs {
            let mut records = text::read_as(path, &self.reading)?;
            let columns = records.unread_columns();
            let columns: Vec<_> = columns
                .map(|(name, rows)| (name.to_owned(), rows))
                .collect();
            let mut format = self.reading.format;
            loop {
                let chunk = records.chunk(CHUNK)?;
                if chunk.is_empty() {
                    break;
                }
                check_interrupt()?;
                let outcomes: Vec<Result<Outcome, Stop>> = chunk
                    .into_par_iter()
                    .map(|record| self.outcome(path, record, first))
                    .collect();
                for outcome in outcomes {
                    summary.records += 1;
                    match outcome {
                        Ok(outcome) => {
                            format.get_or_insert(outcome.format);
                            summary.add(outcome, &mut take)?;
                        }
                        Err(Stop::All(error)) => return Err(error),
                        Err(Stop::Bad(bad)) => self.leave_out(bad, first, &mut summary)?,
                    }
                }
            }
            if let Some(format) = format {
                self.count_columns(path, columns, format, &mut summary)?;
            }
        }
        Ok(summary)
    }

    /// Counts a bad record, or fails with it.
    fn leave_out(&self, bad: Bad, first: bool, summary: &mut Summary) -> Result<()> {
        if self.options.bad_records == BadRecords::Error {
            return Err(bad.error);
        }
        let named: u64 = summary.bad_records.values().sum();
        if first && named < MOST_NAMED {
            warn(format!("left out: {}", bad.error));
        }
        *summary.bad_records.entry(bad.reason).or_default() += 1;
        Ok(())
    }

    /// Counts the columns of a Parquet file that are not even decoded.
    fn count_columns(
        &self,
        path: &Path,
        columns: Vec<(String, u64)>,
        format: Format,
        summary: &mut Summary,
    ) -> Result<()> {
        for (name, rows) in columns {
            if self.options.strict && self.options.bad_records == BadRecords::Error {
                let problem = format!(
                    "has the column `{name}`, which shape \"{}\" does not read",
                    format.name()
                );
                return Err(Error::file(path, problem).remedy(text::UNREAD_REMEDY));
            }
            summary.noticed.count(Owner::Record, name, format, rows);
        }
        Ok(())
    }

    fn outcome(&self, path: &Path, record: RawRecord, first: bool) -> Result<Outcome, Stop> {
        let mut record = record.read(&self.reading).map_err(Stop::Bad)?;
        let strict = |problem: String, remedy: &str| {
            let error = Error::input(&record.place, problem).remedy(remedy);
            Stop::bad(BadReason::Strict, error)
        };
        if self.options.strict
            && let Some((problem, remedy)) = record.notes.complaint(record.format)
        {
            return Err(strict(problem, remedy));
        }
        let notes = std::mem::take(&mut record.notes);
        let mut outcome = self.pieces(path, record, first)?;
        outcome.notes = notes;
        Ok(outcome)
    }

    fn pieces(&self, path: &Path, record: Record, first: bool) -> Result<Outcome, Stop> {
        let mut outcome = Outcome {
            format: record.format,
            notes: Notes::default(),
            pieces: Vec::new(),
            split: false,
            silent: 0,
            too_long: 0,
            unplaced: Vec::new(),
        };
        let Transcribed {
            transcript: whole,
            begins,
            unplaced,
        } = self
            .transcript(0, self.pivot, &record.chat, &record.place)
            .map_err(|error| Stop::bad(BadReason::Template, error))?;
        outcome.unplaced = unplaced;
        if !whole.is_supervised() {
            if self.options.strict {
                let what = match outcome.unplaced.first() {
                    _ if record.is_text() => "an empty text".to_owned(),
                    Some(reason) => format!("no assistant's turn that can be learnt: {reason}"),
                    None => "no assistant's turn".to_owned(),
                };
                let error = Error::input(&record.place, what)
                    .remedy("remove it, or leave out `strict` to skip such samples");
                return Err(Stop::bad(BadReason::Strict, error));
            }
            outcome.silent = 1;
            return Ok(outcome);
        }
        let native = self.options.template == TemplateMode::Native;
        let whole_turns = native && !record.is_text();
        let most = self.options.max_tokens;
        let pieces = self.pivot.tokenizer.split_transcript(
            &whole,
            most,
            whole_turns,
            self.options.special_tokens,
        )?;
        let Some(pieces) = pieces else {
            let error = Error::input(
                &record.place,
                format!("a turn of more than {most} tokens, and `template: native` splits only between turns"),
            )
            .remedy("raise `max_tokens`, use `template: pivot`, or `too_long: skip`");
            return Ok(self.refuse(outcome, error)?);
        };
        outcome.split = pieces.len() > 1;
        let source_file = path.display().to_string();
        let mut at = 0;
        for (index, transcript) in (0u32..).zip(pieces) {
            let bytes = at..at + transcript.text.len();
            at = bytes.end;
            if !transcript.is_supervised() {
                continue;
            }
            let chat = match outcome.split {
                false => record.chat.clone(),
                // Other templates render whole messages again.
                true if native => part_of(&record.chat, &begins, bytes),
                true => Chat::new(transcript.messages()),
            };
            // What another template refuses is left out in both walks.
            let skips = native && self.options.bad_records == BadRecords::Skip;
            let check = first || skips || self.options.too_long == TooLong::Skip;
            if check && let Some(error) = self.misfit(&record, index, &chat, &transcript)? {
                outcome = self.refuse(outcome, error)?;
                continue;
            }
            outcome.pieces.push(Piece {
                source_file: source_file.clone(),
                source_row: record.source_row,
                piece: index,
                chat,
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
        chat: &Chat,
        whole: &Transcript,
    ) -> Result<Option<Error>, Stop> {
        for (index, model) in std::iter::once(self.pivot).chain(self.others).enumerate() {
            let Some(context) = model.context else {
                continue;
            };
            let own;
            let (transcript, pivot) = if self.options.template == TemplateMode::Native && index > 0
            {
                own = self
                    .transcript(index, model, chat, &record.place)
                    .map_err(|error| Stop::bad(BadReason::Template, error))?;
                (&own.transcript, None)
            } else {
                (whole, (index > 0).then_some(self.pivot.tokenizer))
            };
            // Exchanged special tokens keep their bytes; each segment may gain a prefix.
            if 2 * transcript.text.len() + 2 <= context {
                continue;
            }
            let tokens = model
                .tokenizer
                .encode_transcript(transcript, pivot, self.options.special_tokens)?
                .ids
                .len();
            if tokens > context {
                let fitting = match index {
                    0 => context,
                    _ => {
                        let tokenizer = self.pivot.tokenizer;
                        let special = self.options.special_tokens;
                        let pivots = tokenizer.encode_transcript(whole, None, special)?.ids;
                        // A tenth less: tokens are not spread evenly.
                        pivots.len() * context / tokens * 9 / 10
                    }
                };
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
                    .remedy(format!(
                        "set `max_tokens: {fitting}` (it counts the pivot's tokens), or `too_long: skip`"
                    )),
                ));
            }
        }
        Ok(None)
    }

    fn transcript(
        &self,
        index: usize,
        model: &Model<'_>,
        chat: &Chat,
        place: &str,
    ) -> Result<Transcribed> {
        let template = self.templates.get(index).and_then(Option::as_ref);
        text::transcript(chat, template)
            .map_err(|error| error.within(format!("{place} for model `{}`", model.name)))
    }
}

impl Summary {
    /// Adds what became of a record, and hands its pieces to `take`.
    fn add(&mut self, outcome: Outcome, take: &mut dyn FnMut(Piece) -> Result<()>) -> Result<()> {
        self.split += u64::from(outcome.split);
        self.skipped_silent += outcome.silent;
        self.skipped_too_long += outcome.too_long;
        for reason in outcome.unplaced {
            *self.unplaced.entry(reason).or_default() += 1;
        }
        self.noticed.add(outcome.format, outcome.notes);
        self.samples += outcome.pieces.len() as u64;
        for piece in outcome.pieces {
            self.bytes += piece.transcript.text.len() as u64;
            take(piece)?;
        }
        Ok(())
    }
}

/// The messages that begin in these bytes of a transcript; one that is not in it goes with the one
/// before it.
fn part_of(chat: &Chat, begins: &[Option<usize>], bytes: Range<usize>) -> Chat {
    let mut at = 0;
    let mut inside = begins.iter().map(|begin| {
        at = begin.unwrap_or(at);
        bytes.contains(&at)
    });
    let mut messages = chat.messages.clone();
    messages.retain(|_| inside.next() == Some(true));
    Chat {
        messages,
        ..chat.clone()
    }
}
