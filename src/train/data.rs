//! Samples for the trainer: read part by part by a thread of their own, in a shuffled order.
//!
//! ```text
//! tokens part ─┐
//!              ├─► samples in the epoch's order ─► steps ─► micro batches ─► bounded channel
//! targets part ┘
//! ```
//!
//! The samples of a step are sorted by length and put into micro batches of at most
//! `micro_batch_tokens`, padded on the right (attention is causal, so padding changes nothing). With
//! `packing`, rows hold several samples, each of which attends to itself only.
//! A sample is read up to its last supervised token only, and only positions whose next token is
//! supervised are given to the loss.
//!
//! # Memory
//! One part (9 bytes a token, 12 + 8k bytes a target), the samples of a step, and two packed steps.

use std::collections::BTreeSet;
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

/// Rows of similar length, padded to the longest. A row is a sample, or several where packed.
#[derive(Debug)]
pub struct MicroBatch {
    /// Token ids (sequences × length), row by row.
    pub ids: Vec<TokenId>,
    /// Number of rows.
    pub sequences: usize,
    /// Padded length.
    pub len: usize,
    /// Where rows hold several samples: for each id, the place in its row at which its sample
    /// begins.
    pub starts: Option<Vec<u32>>,
    /// The supervised positions.
    pub rows: Rows,
    /// The samples in the rows.
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
    /// The same with padding.
    pub padded: u64,
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
                    .remedy(format!(
                        "set `max_tokens` of `corpus` to {}",
                        limits.context
                    )));
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
        for epoch in start.epoch..options.most_epochs() {
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
                    let batch = self.pack(
                        std::mem::take(&mut step),
                        Layout::new(options, micro_batch_tokens),
                        options.tail,
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
        options: &TrainOptions,
        micro_batch_tokens: usize,
        mut use_step: impl FnMut(StepBatch) -> Result<()>,
    ) -> Result<()> {
        /// Samples that are sorted by length together.
        const TOGETHER: usize = 256;
        for (index, lengths) in self.lengths.parts.iter().enumerate() {
            let mut loaded = self.load(index)?;
            let used: Vec<usize> = (0..lengths.len()).filter(|i| lengths[*i] > 0).collect();
            for group in used.chunks(TOGETHER) {
                use_step(self.pack(
                    group.iter().map(|sample| loaded.take(*sample)).collect(),
                    Layout::new(options, micro_batch_tokens),
                    Tail::default(),
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

/// How samples are put into micro batches.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Most tokens of a micro batch, padding included; a longer row is a micro batch of its own.
    micro_batch_tokens: usize,
    /// Rows are filled with samples up to so many tokens; 0 gives each sample its own.
    row: usize,
}

impl Layout {
    /// Tokens of a row where samples are packed, unless the longest sample needs more: enough to be
    /// filled well, and few enough for devices that compute whole score matrices.
    const ROW: usize = 1024;

    fn new(options: &TrainOptions, micro_batch_tokens: usize) -> Self {
        Self {
            micro_batch_tokens,
            row: match options.packing {
                true => Self::ROW.min(micro_batch_tokens),
                false => 0,
            },
        }
    }

    /// Rows as lists of indices into `lengths`, which fall; the longest row first.
    fn rows(&self, lengths: &[usize]) -> Vec<Vec<usize>> {
        let capacity = match self.row {
            0 => 0,
            row => row.max(lengths.first().copied().unwrap_or(0)),
        };
        let mut rows: Vec<(usize, Vec<usize>)> = Vec::new();
        // (room, row): best fit, of equals the first.
        let mut open = BTreeSet::new();
        for (index, &len) in lengths.iter().enumerate() {
            let (room, row) = match open.range((len, 0)..).next().copied() {
                Some(found) => {
                    open.remove(&found);
                    found
                }
                None => {
                    rows.push((0, Vec::new()));
                    (capacity, rows.len() - 1)
                }
            };
            rows[row].0 += len;
            rows[row].1.push(index);
            if room > len {
                open.insert((room - len, row));
            }
        }
        rows.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
        rows.into_iter().map(|(_, samples)| samples).collect()
    }
}

impl DataSet {
    /// Puts the samples of a step into micro batches.
    fn pack(
        &self,
        mut samples: Vec<LoadedSample>,
        layout: Layout,
        tail: Tail,
        position: Position,
        ends_epoch: bool,
    ) -> Result<StepBatch> {
        samples.sort_by_key(|sample| std::cmp::Reverse(sample.len()));
        let lengths: Vec<usize> = samples.iter().map(LoadedSample::len).collect();
        let rows = layout.rows(&lengths);
        let mut step = StepBatch {
            micro: Vec::new(),
            supervised: 0,
            targets: 0,
            tokens: lengths.iter().map(|len| *len as u64).sum(),
            padded: 0,
            position,
            ends_epoch,
        };
        let mut left = rows.as_slice();
        while let Some(longest) = left.first() {
            let len: usize = longest.iter().map(|sample| lengths[*sample]).sum();
            let count = (layout.micro_batch_tokens / len.max(1)).clamp(1, left.len());
            // Two halves rather than a full one and a rest: they take the same time.
            let count = left.len().div_ceil(left.len().div_ceil(count));
            let (now, later) = left.split_at(count);
            let micro = self.micro_batch(&samples, now, len, tail)?;
            step.supervised += micro.rows.len();
            step.targets += micro.rows.targets();
            step.padded += micro.ids.len() as u64;
            step.micro.push(micro);
            left = later;
        }
        Ok(step)
    }

    /// The micro batch of `rows`, padded to `len`.
    fn micro_batch(
        &self,
        samples: &[LoadedSample],
        rows: &[Vec<usize>],
        len: usize,
        tail: Tail,
    ) -> Result<MicroBatch> {
        let mut micro = MicroBatch {
            ids: vec![0; rows.len() * len],
            sequences: rows.len(),
            len,
            starts: None,
            rows: Rows::new(self.limits.vocabulary),
            samples: Vec::new(),
        };
        // Padding is of no sample; its tokens see themselves only.
        let mut starts: Vec<u32> = (0..len as u32).collect::<Vec<_>>().repeat(rows.len());
        for (row, of_row) in rows.iter().enumerate() {
            let mut begin = 0;
            for sample in of_row.iter().map(|index| &samples[*index]) {
                let place = row * len + begin..row * len + begin + sample.len();
                micro.ids[place.clone()].copy_from_slice(&sample.tokens.ids[..sample.len()]);
                starts[place.clone()].fill(begin as u32);
                sample.push_rows(place.start, &mut micro.rows, tail)?;
                micro.samples.push(sample.tokens.sample_id);
                begin += sample.len();
            }
        }
        if rows.iter().any(|row| row.len() > 1) {
            micro.starts = Some(starts);
        }
        Ok(micro)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_filled_by_best_fit() {
        let layout = |row| Layout {
            micro_batch_tokens: 20,
            row,
        };
        let lengths = [9, 6, 4, 3, 1, 1];
        assert_eq!(layout(0).rows(&lengths), [[0], [1], [2], [3], [4], [5]]);
        // 6 + 4 fill a row of 10; 1 goes to the 9, the row with the least room.
        let rows = [vec![0, 4], vec![1, 2], vec![3, 5]];
        assert_eq!(layout(10).rows(&lengths), rows);
        // The longest sample makes rows longer.
        assert_eq!(
            layout(5).rows(&lengths),
            [vec![0], vec![1, 3], vec![2, 4, 5]]
        );
        assert!(layout(5).rows(&[]).is_empty());
    }
}
