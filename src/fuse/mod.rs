//! Fusion functions: which distribution the pivot learns from at each position.
//!
//! The members are models with distributions in the pivot's vocabulary (their own `topk`, or
//! `projected`) and `sequence_metrics` from their *raw* distributions. By the rule
//!
//! * `mince`, the distributions of the model with the lowest metric are taken: for the whole
//!   sequence, or per position by the model's own negative log-likelihood of what follows the
//!   same prefix (`level: token`). Ties go to the pivot, then to the order of the members.
//! * `avgce`, the distributions are averaged with weights softmax(−metric); the union of their
//!   ids is cut to `top_k`, and absent ids count zero.
//!
//! Where a member has no row, its projection has left the position to the pivot; where its row
//! has an empty list, the position carries no fusion loss and gets no target.
//!
//! One call writes one `targets` artifact: one per source for `pairwise`, one for `joint`.

mod options;
mod rules;
#[cfg(test)]
mod tests;

pub use options::{FuseOptions, Level, Metric, Mode, PivotWins, Rule, Weights};

use std::path::PathBuf;

use arrow::datatypes::{Float64Type, UInt32Type, UInt64Type};
use arrow::record_batch::RecordBatch;
use serde::Serialize;
use serde_json::Value;

use crate::artifact::distribution::Distributions;
use crate::artifact::rows::{SampleCursor, numbers};
use crate::artifact::targets::TargetBuilder;
use crate::artifact::{Artifact, Kind, Part, Writer, Writing, check_name, parts};
use crate::error::{Error, Result};
use crate::progress::{Bar, check_interrupt};
use crate::stage::{self, Item, Reads, Size, Source, Stage, UP_TO_DATE};
use crate::units::{Count, bits_per_byte};
use rules::{Fuser, Problem};

/// Rows per batch written.
const BATCH_ROWS: usize = 32 * 1024;
/// What the column `winner` says of a weighted mean.
const MEAN: &str = "mean";

/// A model whose distributions are fused.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name, for the column `winner`.
    pub name: String,
    /// Its distributions in the pivot's vocabulary.
    pub distributions: PathBuf,
    /// What they are: [`Kind::Topk`] or [`Kind::Projected`].
    pub kind: Kind,
    /// Its `sequence_metrics`.
    pub metrics: PathBuf,
}

/// How often one member won.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Wins {
    /// The member.
    pub name: String,
    /// Samples in which it has the lowest metric.
    pub sequences: u64,
    /// Rows that hold its distribution.
    pub rows: u64,
}

/// What was fused. Parts that an earlier run finished are not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Samples.
    pub samples: u64,
    /// Rows written.
    pub rows: u64,
    /// Positions that carry no fusion loss.
    pub without: u64,
    /// Samples in which `ce` and `bpb` choose different members.
    pub metrics_disagree: u64,
    /// By member, in their order.
    pub wins: Vec<Wins>,
}

impl Summary {
    fn new(members: &[Member]) -> Self {
        let wins = members.iter().map(|member| Wins {
            name: member.name.clone(),
            ..Wins::default()
        });
        Self {
            wins: wins.collect(),
            ..Self::default()
        }
    }

    fn add(&mut self, other: &Summary) {
        self.samples += other.samples;
        self.rows += other.rows;
        self.without += other.without;
        self.metrics_disagree += other.metrics_disagree;
        for (sum, part) in self.wins.iter_mut().zip(&other.wins) {
            sum.sequences += part.sequences;
            sum.rows += part.rows;
        }
    }
}

/// The stage: the members, and what their fusion is written to. With `use_pivot` the first member
/// is the pivot.
#[derive(Clone, Debug)]
pub struct Fuse {
    /// The members, in order.
    pub members: Vec<Member>,
    /// Folder of the `targets` to write.
    pub out: PathBuf,
    /// How.
    pub options: FuseOptions,
}

impl Fuse {
    /// Writes `targets`.
    ///
    /// # Errors
    /// If the number of members does not fit the mode, artifacts are not about the same samples or
    /// vocabulary, members disagree about the next token, a figure is not a number (naming sample
    /// and position), or `out` holds another result (see [`Existing`](crate::artifact::Existing)).
    ///
    /// # Memory
    /// For each thread the rows of one sample of each member, 32 bytes for each sample of a part
    /// and member, and 32,768 rows of output.
    pub fn perform(&self, writing: impl Into<Writing>) -> Result<Summary> {
        self.options.validate()?;
        check_members(&self.members, &self.options)?;
        let opened = self.open()?;
        let writer = stage::writer(self, Kind::Targets, &self.out, writing)?;
        let first = &opened[0].0;
        let bar = Bar::new("fuse", first.samples(), "samples");
        let fusion = Fusion {
            members: &self.members,
            opened: &opened,
            options: &self.options,
        };
        let done = parts::each_missing(first.parts(), &writer, |part| {
            fusion.part(part, &writer, &bar)
        })?;
        let mut summary = Summary::new(&self.members);
        for part in &done {
            summary.add(part);
        }
        Ok(summary)
    }

    /// The distributions and metrics of each member, which belong together.
    fn open(&self) -> Result<Vec<(Artifact, Artifact)>> {
        let mut opened: Vec<(Artifact, Artifact)> = Vec::with_capacity(self.members.len());
        for member in &self.members {
            let distributions = Artifact::open(&member.distributions, member.kind)?;
            let metrics = Artifact::open(&member.metrics, Kind::SequenceMetrics)?;
            check_draws(&distributions, &self.options)?;
            let first = opened.first().map_or(&distributions, |(first, _)| first);
            if let Some(vocabulary) = &first.provenance().vocabulary {
                distributions.check_vocabulary(vocabulary)?;
            }
            distributions.check_same_samples(first)?;
            metrics.check_same_samples(first)?;
            opened.push((distributions, metrics));
        }
        Ok(opened)
    }
}

impl Stage for Fuse {
    fn name(&self) -> &'static str {
        "fuse"
    }

    fn reads(&self) -> Result<Reads> {
        let mut reads = Reads::new();
        for (index, member) in self.members.iter().enumerate() {
            let distributions = Item::artifact(member.kind, &member.distributions);
            if index == 0 {
                reads = reads.vocabulary(Source::VocabularyOf(distributions.clone()));
            }
            let metrics = Item::artifact(Kind::SequenceMetrics, &member.metrics);
            reads = reads
                .input(
                    format!("{index} {} distributions", member.name),
                    distributions,
                )
                .input(format!("{index} {} metrics", member.name), metrics);
        }
        Ok(reads)
    }

    fn writes(&self) -> Vec<Item> {
        vec![Item::artifact(Kind::Targets, &self.out)]
    }

    fn changing(&self, _: Kind) -> Value {
        self.options.changing()
    }

    fn size(&self) -> Size {
        match self.members.last() {
            Some(member) => Size::Like(Item::artifact(member.kind, &member.distributions)),
            None => Size::Small,
        }
    }

    fn is_by_part(&self) -> bool {
        true
    }

    fn run(&self, writing: Writing) -> Result<String> {
        let summary = self.perform(writing)?;
        if summary.samples == 0 {
            return Ok(UP_TO_DATE.to_owned());
        }
        let wins: Vec<String> = summary
            .wins
            .iter()
            .map(|win| format!("{} {}", win.name, Count(win.sequences)))
            .collect();
        Ok(format!(
            "{} targets; samples won: {}",
            Count(summary.rows),
            wins.join(", ")
        ))
    }
}

/// The rows of a sample, if the artifact has any.
fn rows_of<'a>(
    batch: Option<&'a RecordBatch>,
    artifact: &Artifact,
) -> Result<Option<Distributions<'a>>> {
    let rows = batch.map(Distributions::new).transpose()?;
    Ok(rows.map(|rows| rows.exact(artifact.exact_targets())))
}

/// Random draws stay as they are, or are not unbiased any more.
fn check_draws(distributions: &Artifact, options: &FuseOptions) -> Result<()> {
    if !distributions.holds_draws() {
        return Ok(());
    }
    let problem = match (options.rule, options.top_k) {
        (Rule::Avgce, _) => "it holds random draws, and a weighted mean is no share of draws",
        (_, Some(_)) => "it holds random draws, and `top_k` would cut them",
        _ => return Ok(()),
    };
    Err(Error::file(distributions.dir(), problem)
        .remedy("use `rule: mince` without `top_k`, or score with `mode: top`"))
}

fn check_members(members: &[Member], options: &FuseOptions) -> Result<()> {
    let sources = members.len().checked_sub(usize::from(options.use_pivot));
    let fits = match options.mode {
        Mode::Pairwise => sources == Some(1),
        Mode::Joint => sources.is_some_and(|sources| sources > 0),
    };
    if !fits {
        let expected = match options.mode {
            Mode::Pairwise => "exactly one source",
            Mode::Joint => "at least one source",
        };
        return Err(Error::usage(format!(
            "fusion of {} models, expected {expected}{}",
            members.len(),
            if options.use_pivot {
                " and the pivot before it"
            } else {
                ""
            }
        ))
        .remedy("use `mode: joint` for several sources"));
    }
    for (at, member) in members.iter().enumerate() {
        check_name("model", &member.name)?;
        if members[..at].iter().any(|other| other.name == member.name) {
            return Err(Error::usage(format!(
                "two models are called `{}`",
                member.name
            )));
        }
        if !matches!(member.kind, Kind::Topk | Kind::Projected) {
            return Err(Error::usage(format!(
                "model `{}` brings `{}`, expected `topk` or `projected`",
                member.name, member.kind
            )));
        }
    }
    Ok(())
}

/// The metrics of one sample under one model; infinite where it has none, so that it never wins.
#[derive(Clone, Copy, Debug)]
struct Metrics {
    bpb: f64,
    ce: f64,
}

impl Metrics {
    const NONE: Self = Self {
        bpb: f64::INFINITY,
        ce: f64::INFINITY,
    };

    fn by(self, metric: Metric) -> f64 {
        match metric {
            Metric::Bpb => self.bpb,
            Metric::Ce => self.ce,
        }
    }
}

struct Fusion<'a> {
    members: &'a [Member],
    opened: &'a [(Artifact, Artifact)],
    options: &'a FuseOptions,
}

impl Fusion<'_> {
    fn part(&self, part: &Part, writer: &Writer, bar: &Bar) -> Result<Summary> {
        let info = part.info();
        let index = info.index as usize;
        let mut cursors = Vec::with_capacity(self.members.len());
        let mut metrics = Vec::with_capacity(self.members.len());
        for (distributions, sequences) in self.opened {
            cursors.push(SampleCursor::new(&distributions.parts()[index])?);
            metrics.push(read_metrics(&sequences.parts()[index])?);
        }
        let mut summary = Summary::new(self.members);
        let mut out = writer.part(info)?;
        let mut rows = TargetBuilder::default();
        let mut fuser = Fuser::new(self.options);
        for (at, sample) in (info.first_sample..info.first_sample + info.samples).enumerate() {
            check_interrupt()?;
            let mut batches = Vec::with_capacity(cursors.len());
            for cursor in &mut cursors {
                batches.push(cursor.seek(sample)?);
            }
            let members = batches
                .iter()
                .zip(self.opened)
                .map(|(batch, (artifact, _))| rows_of(batch.as_ref(), artifact))
                .collect::<Result<Vec<_>>>()?;
            let metrics: Vec<Metrics> = metrics.iter().map(|of| of[at]).collect();
            self.count_wins(&metrics, &mut summary);
            let chosen: Vec<f64> = metrics
                .iter()
                .map(|of| of.by(self.options.metric))
                .collect();
            fuser
                .sample(&members, &chosen, &mut |target, winner, draws| {
                    let Some(target) = target else {
                        summary.without += 1;
                        return;
                    };
                    summary.rows += 1;
                    if let Some(wins) = winner.and_then(|at| summary.wins.get_mut(at)) {
                        wins.rows += 1;
                    }
                    let name = winner.map_or(MEAN, |at| self.members[at].name.as_str());
                    rows.push_drawn(sample, target, draws, name);
                })
                .map_err(|problem| self.describe(index, sample, &problem))?;
            if rows.rows() >= BATCH_ROWS {
                out.write(&rows.finish()?)?;
            }
            bar.advance(1);
        }
        out.write(&rows.finish()?)?;
        out.finish()?;
        Ok(summary)
    }

    fn count_wins(&self, metrics: &[Metrics], summary: &mut Summary) {
        let by = |metric: Metric| rules::lowest(metrics.iter().map(|of| of.by(metric)));
        summary.samples += 1;
        summary.metrics_disagree += u64::from(by(Metric::Bpb) != by(Metric::Ce));
        if let Some(wins) = summary.wins.get_mut(by(self.options.metric)) {
            wins.sequences += 1;
        }
    }

    fn describe(&self, part: usize, sample: u64, problem: &Problem) -> Error {
        let path = self.opened[problem.member].0.parts()[part].path().display();
        Error::input(
            format!("{path} sample {sample} position {}", problem.pos),
            problem.what,
        )
        .remedy("run the stage that makes it again")
    }
}

/// The metrics of each sample of a part, by its ordinal in the part.
fn read_metrics(part: &Part) -> Result<Vec<Metrics>> {
    let info = part.info();
    let samples = usize::try_from(info.samples)
        .ok()
        .filter(|samples| *samples as u64 <= part.rows().max(1 << 24))
        .ok_or_else(|| Error::file(part.path(), "its footer has an impossible sample count"))?;
    let mut metrics = vec![Metrics::NONE; samples];
    let mut before = None;
    for batch in part.batches()? {
        let batch = batch?;
        let sample_id = numbers::<UInt64Type>(&batch, "sample_id")?.values();
        let nll = numbers::<Float64Type>(&batch, "nll")?.values();
        let tokens = numbers::<UInt32Type>(&batch, "tokens")?.values();
        let bytes = numbers::<UInt32Type>(&batch, "bytes")?.values();
        for (row, sample) in sample_id.iter().enumerate() {
            let place = || format!("{} sample {sample}", part.path().display());
            if !nll[row].is_finite() {
                return Err(Error::input(
                    place(),
                    format!("`nll` is {}, expected a number", nll[row]),
                )
                .remedy("run `score` again"));
            }
            if before.is_some_and(|before| before >= *sample) {
                return Err(Error::input(
                    place(),
                    "rows are not sorted by sample_id, or come twice",
                )
                .remedy("remove the part and run `score` again"));
            }
            before = Some(*sample);
            let at = sample.checked_sub(info.first_sample);
            let slot = at.and_then(|at| metrics.get_mut(usize::try_from(at).ok()?));
            let Some(slot) = slot else {
                return Err(Error::input(
                    place(),
                    "the sample does not belong to this part",
                ));
            };
            if tokens[row] > 0 && bytes[row] > 0 {
                *slot = Metrics {
                    bpb: bits_per_byte(nll[row], bytes[row].into()),
                    ce: nll[row] / f64::from(tokens[row]),
                };
            }
        }
    }
    Ok(metrics)
}
