//! Samples for the trainer: read part by part by a thread of their own, in a shuffled order.
//!
//! ```text
//! tokens part ─┐
//!              ├─► samples in the epoch's order ─► steps ─► micro batches ─► bounded channel
//! targets part ┘
//! ```
//!
//! The samples of a step are sorted by length and packed into micro batches of at most
//! `micro_batch_tokens`, padded on the right (attention is causal, so padding changes nothing).
//! A sample is read up to its last supervised token only, and only positions whose next token is
//! supervised are given to the loss.
//!
//! # Memory
//! One part (9 bytes a token, 12 + 8k bytes a target), the samples of a step, and two packed steps.

use std::path::Path;
use std::sync::mpsc::SyncSender;

use arrow::record_batch::RecordBatch;
use rayon::prelude::*;

use super::TrainOptions;
use super::order::{Divider, Lengths, Position, part_order, sample_order};
use super::rows::{Rows, Tail, Target};
use crate::artifact::rows::BySample;
use crate::artifact::targets::Targets;
use crate::artifact::tokens::{self, SampleTokens};
use crate::artifact::{Artifact, Kind};
use crate::error::{Error, Result};
use crate::units::{SampleId, TokenId};

/// Sequences of similar length, padded to the longest.
#[derive(Debug)]
pub struct MicroBatch {
    /// Token ids (sequences × length), row by row.
    pub ids: Vec<TokenId>,
    /// Number of sequences.
    pub sequences: usize,
    /// Padded length.
    pub len: usize,
    /// The supervised positions.
    pub rows: Rows,
    /// Which samples the sequences are.
    pub samples: Vec<SampleId>,
}

/// All micro batches of one optimiser step.
#[derive(Debug)]
pub struct StepBatch {
    /// At least one; the longest sequences first.
    pub micro: Vec<MicroBatch>,
    /// Supervised tokens.
    pub supervised: usize,
    /// Positions that carry a target.
    pub targets: usize,
    /// Positions that the model reads, without padding.
    pub tokens: u64,
    /// The place after this step.
    pub position: Position,
    /// Whether the epoch ends with this step.
    pub ends_epoch: bool,
}

impl StepBatch {
    /// All samples of the step.
    pub fn samples(&self) -> Vec<SampleId> {
        let all = self.micro.iter().flat_map(|micro| &micro.samples);
        let mut all: Vec<SampleId> = all.copied().collect();
        all.sort_unstable();
        all
    }
}

/// What the trainer knows of the model while it reads samples.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows of the model's head.
    pub vocabulary: usize,
    /// The model's context, in tokens.
    pub context: usize,
}

/// The samples of a training or validation set.
#[derive(Debug)]
pub struct DataSet {
    tokens: Artifact,
    targets: Option<Artifact>,
    lengths: Lengths,
    limits: Limits,
}

impl DataSet {
    /// Opens `tokens`, and `targets` if given, and reads all tokens once to check them and to
    /// learn the lengths.
    ///
    /// # Errors
    /// Damaged artifacts; targets of another vocabulary or other samples; an id beyond the
    /// model's rows; a sample longer than its context; nothing that is supervised.
    pub fn open(tokens: &Path, targets: Option<&Path>, limits: Limits) -> Result<Self> {
        let tokens = Artifact::open(tokens, Kind::Tokens)?;
        let targets = targets
            .map(|dir| -> Result<Artifact> {
                let targets = Artifact::open(dir, Kind::Targets)?;
                targets.check_same_samples(&tokens)?;
                if let Some(digest) = &tokens.provenance().vocabulary {
                    targets.check_vocabulary(digest)?;
                }
                Ok(targets)
            })
            .transpose()?;
        let parts = tokens.parts().par_iter().map(|part| {
            let samples = tokens::read_part(part)?;
            let place = |sample: &SampleTokens| {
                format!("{} sample {}", part.path().display(), sample.sample_id)
            };
            let length = |sample: &SampleTokens| -> Result<u32> {
                let bad = sample
                    .ids
                    .iter()
                    .find(|id| **id as usize >= limits.vocabulary);
                if let Some(id) = bad {
                    return Err(Error::input(
                        place(sample),
                        format!(
                            "token {id} is outside the model's {} rows",
                            limits.vocabulary
                        ),
                    )
                    .remedy("the tokens were made with another tokenizer than the model's"));
                }
                let len = read_length(sample);
                if len > limits.context {
                    return Err(Error::input(
                        place(sample),
                        format!(
                            "{len} tokens do not fit the model's context of {}",
                            limits.context
                        ),
                    )
                    .remedy("lower `max_tokens` of `corpus`"));
                }
                u32::try_from(len).map_err(|_| Error::input(place(sample), "is too long"))
            };
            samples.iter().map(length).collect::<Result<Vec<u32>>>()
        });
        let lengths = Lengths {
            parts: parts.collect::<Result<_>>()?,
        };
        if lengths.tokens() == 0 {
            return Err(Error::file(
                tokens.dir(),
                "no token is supervised, there is nothing to learn",
            )
            .remedy("give chats with assistant turns, or plain text"));
        }
        Ok(Self {
            tokens,
            targets,
            lengths,
            limits,
        })
    }

    /// How long the samples are.
    pub fn lengths(&self) -> &Lengths {
        &self.lengths
    }

    /// The `tokens` artifact.
    pub fn tokens(&self) -> &Artifact {
        &self.tokens
    }

    /// The `targets` artifact.
    pub fn targets(&self) -> Option<&Artifact> {
        self.targets.as_ref()
    }

    /// Sends all steps from `start` on, until the epochs are over or nobody listens any more.
    /// An error is the last thing sent.
    pub fn send_steps(
        &self,
        options: &TrainOptions,
        micro_batch_tokens: usize,
        start: Position,
        to: &SyncSender<Result<StepBatch>>,
    ) {
        for epoch in start.epoch..options.epochs {
            let first = if epoch == start.epoch {
                start.ordinal
            } else {
                0
            };
            match self.send_epoch(options, micro_batch_tokens, epoch, first, to) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    let _ = to.send(Err(error));
                    return;
                }
            }
        }
    }

    /// Sends the steps of one epoch; false if nobody listens any more.
    fn send_epoch(
        &self,
        options: &TrainOptions,
        micro_batch_tokens: usize,
        epoch: u32,
        first: u64,
        to: &SyncSender<Result<StepBatch>>,
    ) -> Result<bool> {
        let mut divider = Divider::new(self.lengths.tokens(), options.batch_tokens);
        let samples = self.lengths.samples();
        let mut ordinal = 0;
        let mut step = Vec::new();
        for part in part_order(options.seed, epoch, self.lengths.parts.len()) {
            let index = part as usize;
            let lengths = &self.lengths.parts[index];
            let order = sample_order(options.seed, epoch, part, lengths);
            if ordinal + (order.len() as u64) <= first {
                // Done before the interruption: only the divider has to know.
                for sample in &order {
                    divider.closes_after(lengths[*sample as usize]);
                }
                ordinal += order.len() as u64;
                continue;
            }
            let mut loaded = self.load(index)?;
            for sample in order {
                let sample = sample as usize;
                let closes = divider.closes_after(lengths[sample]);
                ordinal += 1;
                if ordinal <= first {
                    continue;
                }
                step.push(loaded.take(sample));
                if closes {
                    let batch = pack(
                        std::mem::take(&mut step),
                        micro_batch_tokens,
                        options.tail,
                        self.limits.vocabulary,
                        Position { epoch, ordinal },
                        ordinal == samples,
                    );
                    let failed = batch.is_err();
                    if to.send(batch).is_err() || failed {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// All samples in their own order, as micro batches without targets: for validation.
    pub fn for_each_in_order(
        &self,
        micro_batch_tokens: usize,
        mut use_step: impl FnMut(StepBatch) -> Result<()>,
    ) -> Result<()> {
        /// Samples that are sorted by length together.
        const TOGETHER: usize = 256;
        for (index, lengths) in self.lengths.parts.iter().enumerate() {
            let mut loaded = self.load(index)?;
            let used: Vec<usize> = (0..lengths.len()).filter(|i| lengths[*i] > 0).collect();
            for group in used.chunks(TOGETHER) {
                use_step(pack(
                    group.iter().map(|sample| loaded.take(*sample)).collect(),
                    micro_batch_tokens,
                    Tail::default(),
                    self.limits.vocabulary,
                    Position::default(),
                    false,
                )?)?;
            }
        }
        Ok(())
    }

    fn load(&self, index: usize) -> Result<LoadedPart> {
        let samples = tokens::read_part(&self.tokens.parts()[index])?;
        let mut targets: Vec<Option<RecordBatch>> = vec![None; samples.len()];
        let mut place = String::new();
        if let Some(artifact) = &self.targets {
            let part = &artifact.parts()[index];
            place = part.path().display().to_string();
            let first = part.info().first_sample;
            for rows in BySample::new(part)? {
                let rows = rows?;
                let slot = rows
                    .sample_id
                    .checked_sub(first)
                    .and_then(|i| targets.get_mut(usize::try_from(i).ok()?));
                let Some(slot) = slot else {
                    return Err(Error::input(
                        format!("{place} sample {}", rows.sample_id),
                        "this sample does not belong to the part",
                    )
                    .remedy("run `fuse` again"));
                };
                *slot = Some(rows.rows);
            }
        }
        Ok(LoadedPart {
            samples,
            targets,
            place,
        })
    }
}

/// Positions that the model must read to predict every supervised token.
fn read_length(sample: &SampleTokens) -> usize {
    sample.supervised.iter().rposition(|s| *s).unwrap_or(0)
}

struct LoadedPart {
    samples: Vec<SampleTokens>,
    targets: Vec<Option<RecordBatch>>,
    place: String,
}

impl LoadedPart {
    /// Moves a sample out: each is used once an epoch.
    fn take(&mut self, index: usize) -> LoadedSample {
        LoadedSample {
            tokens: std::mem::take(&mut self.samples[index]),
            targets: self.targets[index].take(),
            place: self.place.clone(),
        }
    }
}

struct LoadedSample {
    tokens: SampleTokens,
    targets: Option<RecordBatch>,
    /// The file of the targets.
    place: String,
}

impl LoadedSample {
    fn len(&self) -> usize {
        read_length(&self.tokens)
    }

    /// Adds the supervised positions, the first of which is row `first` of the hidden states.
    fn push_rows(&self, first: usize, rows: &mut Rows, tail: Tail) -> Result<()> {
        let sample = self.tokens.sample_id;
        let wrong = |pos: usize, what: String| {
            let place = if self.place.is_empty() {
                "tokens"
            } else {
                &self.place
            };
            Error::input(format!("{place} sample {sample} pos {pos}"), what)
                .remedy("tokens and targets do not belong together; run `fuse` again")
        };
        let targets = self.targets.as_ref().map(Targets::new).transpose()?;
        let count = targets.as_ref().map_or(0, Targets::len);
        let mut next = 0;
        for pos in self.tokens.predicted() {
            let here = targets.as_ref().filter(|_| next < count);
            let target = here
                .map(|targets| targets.row(next))
                .filter(|row| row.pos as usize == pos);
            // Shares of random draws are used as they are.
            let tail = match here.is_some_and(|targets| targets.draws(next) > 0) {
                true => Tail::Ignore,
                false => tail,
            };
            if target.is_some() {
                next += 1;
            }
            let target = target.map(|row| Target {
                ids: row.ids,
                probs: row.probs,
                tail: row.tail,
            });
            rows.push((first + pos) as u32, self.tokens.ids[pos + 1], target, tail)
                .map_err(|what| wrong(pos, what))?;
        }
        // Rows in order of their positions were all used; one that was not has no place.
        if let Some(targets) = targets.filter(|_| next < count) {
            return Err(wrong(
                targets.row(next).pos as usize,
                "there is a target here, but the next token is not supervised".to_owned(),
            ));
        }
        Ok(())
    }
}

/// Sorts the samples of a step by length and packs them into micro batches.
fn pack(
    mut samples: Vec<LoadedSample>,
    micro_batch_tokens: usize,
    tail: Tail,
    vocabulary: usize,
    position: Position,
    ends_epoch: bool,
) -> Result<StepBatch> {
    samples.sort_by_key(|sample| std::cmp::Reverse(sample.len()));
    let mut step = StepBatch {
        micro: Vec::new(),
        supervised: 0,
        targets: 0,
        tokens: samples.iter().map(|sample| sample.len() as u64).sum(),
        position,
        ends_epoch,
    };
    let mut left = samples.as_slice();
    while let Some(longest) = left.first() {
        let len = longest.len();
        let count = (micro_batch_tokens / len.max(1)).clamp(1, left.len());
        // Two halves rather than a full one and a rest: they take the same time.
        let count = left.len().div_ceil(left.len().div_ceil(count));
        let (now, later) = left.split_at(count);
        let mut ids = vec![0; count * len];
        let mut rows = Rows::new(vocabulary);
        for (i, sample) in now.iter().enumerate() {
            ids[i * len..][..sample.len()].copy_from_slice(&sample.tokens.ids[..sample.len()]);
            sample.push_rows(i * len, &mut rows, tail)?;
        }
        step.supervised += rows.len();
        step.targets += rows.targets();
        step.micro.push(MicroBatch {
            ids,
            sequences: count,
            len,
            rows,
            samples: now.iter().map(|sample| sample.tokens.sample_id).collect(),
        });
        left = later;
    }
    Ok(step)
}
