//! Rows of `topk` and `projected`: top-k distributions.
//!
//! In memory they are floats by falling probability; [`encoding`](super::encoding) says how they
//! are stored, and what that costs.
//!
//! A row may hold random draws instead of the most probable tokens (`score` in mode `sampled`):
//! the ids that were drawn, each with the logarithm of its share of the draws. Those shares are
//! an unbiased estimate of the whole distribution, so the tail is empty; such rows must not be
//! cut, renormalised or mapped to other ids and cut.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, BooleanBuilder, Float32Array, Float32Builder, ListBuilder,
    StringDictionaryBuilder, UInt16Builder, UInt32Builder, UInt64Builder,
};
use arrow::datatypes::{DataType, Float32Type, Int32Type, UInt16Type, UInt32Type, UInt64Type};
use arrow::record_batch::RecordBatch;

use super::Kind;
use super::kind::list_element;
use super::rows::{Labels, Lists, booleans, numbers};
use crate::error::{Context, Result};
use crate::units::{SampleId, TokenId};

/// About how many bytes a stored row with `k` entries takes (bench `store`: 26 to 37 with 10, 131
/// to 187 with 64, the more the larger the vocabulary).
pub const fn stored_bytes(k: usize) -> u64 {
    7 + 3 * k as u64
}

/// The distribution of the token after `pos`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distribution<'a> {
    /// Position; the distribution is that of token `pos + 1`.
    pub pos: u32,
    /// The token that follows in the transcript.
    pub target_id: TokenId,
    /// Its log-probability, in nats, under the full distribution.
    pub target_logprob: f32,
    /// Log of the probability outside the list, in nats; negative infinity if there is none.
    pub tail_logprob: f32,
    /// The most probable tokens, by falling probability.
    pub ids: &'a [TokenId],
    /// Their log-probabilities, in nats, parallel to `ids`.
    pub logprobs: &'a [f32],
}

/// Where a projected distribution comes from (see `project`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Projection {
    /// The source token ends at the same byte: both models have read the same prefix.
    SameEnd,
    /// So it is, and several source distributions say what follows: the next pivot token is longer
    /// than the source's.
    Followed,
    /// The position lies within a source token.
    Conditioned,
    /// The weighted mean over several linked source tokens.
    Averaged,
    /// Certainty about the token that follows.
    OneHot,
    /// The position carries no fusion loss.
    Skipped,
    /// The source has no row there.
    Missing,
}

impl Projection {
    /// Every value, in the order in which they are tried.
    pub const ALL: [Projection; 7] = [
        Projection::SameEnd,
        Projection::Followed,
        Projection::Conditioned,
        Projection::Averaged,
        Projection::OneHot,
        Projection::Skipped,
        Projection::Missing,
    ];

    /// The word in the `projection` column.
    pub const fn name(self) -> &'static str {
        match self {
            Projection::SameEnd => "same_end",
            Projection::Followed => "followed",
            Projection::Conditioned => "conditioned",
            Projection::Averaged => "averaged",
            Projection::OneHot => "one_hot",
            Projection::Skipped => "skipped",
            Projection::Missing => "missing",
        }
    }

    /// The value with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|value| value.name() == name)
    }
}

/// What `projected` says of a row besides its distribution.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Origin {
    /// Negative log-likelihood, in nats, of the source tokens that begin within the next pivot
    /// token, where the source's rows carry over.
    pub source_nll: Option<f32>,
    /// What the source owes after that token: the negative log of the share that its own tokens
    /// of the text have among all its readings that agree with the text. Over consecutive rows,
    /// Σ −`target_logprob` = Σ `source_nll` + `owed` before − `owed` after.
    pub owed: f32,
    /// Share of the probability that belongs to readings of which no row says how they go on.
    pub unknown: f32,
    /// Share of the probability of short readings: all of the pivot token that they stand for,
    /// where longer ones begin so.
    pub short: f32,
    /// Whether the source's own tokens stand for the token that follows; not known for `dtw`.
    pub named: Option<bool>,
}

/// Collects rows of `topk` or `projected` into batches.
pub struct DistributionBuilder {
    kind: Kind,
    sample_id: UInt64Builder,
    pos: UInt32Builder,
    target_id: UInt32Builder,
    target_logprob: Float32Builder,
    tail_logprob: Float32Builder,
    ids: ListBuilder<UInt32Builder>,
    logprobs: ListBuilder<Float32Builder>,
    draws: UInt16Builder,
    projection: StringDictionaryBuilder<Int32Type>,
    source_nll: Float32Builder,
    owed: Float32Builder,
    unknown: Float32Builder,
    short: Float32Builder,
    named: BooleanBuilder,
    rows: usize,
}

impl DistributionBuilder {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            sample_id: UInt64Builder::new(),
            pos: UInt32Builder::new(),
            target_id: UInt32Builder::new(),
            target_logprob: Float32Builder::new(),
            tail_logprob: Float32Builder::new(),
            ids: ListBuilder::new(UInt32Builder::new()).with_field(list_element(DataType::UInt32)),
            logprobs: ListBuilder::new(Float32Builder::new())
                .with_field(list_element(DataType::Float32)),
            draws: UInt16Builder::new(),
            projection: StringDictionaryBuilder::new(),
            source_nll: Float32Builder::new(),
            owed: Float32Builder::new(),
            unknown: Float32Builder::new(),
            short: Float32Builder::new(),
            named: BooleanBuilder::new(),
            rows: 0,
        }
    }

    /// For rows of `topk`.
    pub fn topk() -> Self {
        Self::new(Kind::Topk)
    }

    /// For rows of `projected`.
    pub fn projected() -> Self {
        Self::new(Kind::Projected)
    }

    /// Appends a row of `topk`. Rows come in the order of sample and position.
    pub fn push(&mut self, sample: SampleId, row: Distribution<'_>) {
        self.push_drawn(sample, row, 0);
    }

    /// Appends a row of `topk` whose probabilities are shares of so many random draws (0: they
    /// are none). Rows come in the order of sample and position.
    pub fn push_drawn(&mut self, sample: SampleId, row: Distribution<'_>, draws: u16) {
        self.rows += 1;
        self.sample_id.append_value(sample);
        self.pos.append_value(row.pos);
        self.target_id.append_value(row.target_id);
        self.target_logprob.append_value(row.target_logprob);
        self.tail_logprob.append_value(row.tail_logprob);
        self.ids.values().append_slice(row.ids);
        self.ids.append(true);
        self.logprobs.values().append_slice(row.logprobs);
        self.logprobs.append(true);
        self.draws.append_value(draws);
    }

    /// Appends a row of `projected`.
    pub fn push_projected(
        &mut self,
        sample: SampleId,
        row: Distribution<'_>,
        projection: Projection,
        origin: Origin,
    ) {
        let some = |value: f32| (value > 0.0).then_some(value);
        self.push(sample, row);
        self.projection.append_value(projection.name());
        self.source_nll.append_option(origin.source_nll);
        self.owed.append_option(some(origin.owed));
        self.unknown.append_option(some(origin.unknown));
        self.short.append_option(some(origin.short));
        self.named.append_option(origin.named);
    }

    /// Rows since the last [`DistributionBuilder::finish`].
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Takes the rows collected so far.
    pub fn finish(&mut self) -> Result<RecordBatch> {
        self.rows = 0;
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.sample_id.finish()),
            Arc::new(self.pos.finish()),
            Arc::new(self.target_id.finish()),
            Arc::new(self.target_logprob.finish()),
            Arc::new(self.tail_logprob.finish()),
            Arc::new(self.ids.finish()),
            Arc::new(self.logprobs.finish()),
            Arc::new(self.draws.finish()),
        ];
        if self.kind == Kind::Projected {
            columns.push(Arc::new(self.projection.finish()));
            columns.push(Arc::new(self.source_nll.finish()));
            columns.push(Arc::new(self.owed.finish()));
            columns.push(Arc::new(self.unknown.finish()));
            columns.push(Arc::new(self.short.finish()));
            columns.push(Arc::new(self.named.finish()));
        }
        RecordBatch::try_new(self.kind.schema(), columns)
            .during(|| format!("building `{}` rows", self.kind))
    }
}

/// The rows of a batch of `topk` or `projected`.
pub struct Distributions<'a> {
    sample_id: &'a [u64],
    pos: &'a [u32],
    target_id: &'a [TokenId],
    target_logprob: &'a [f32],
    tail_logprob: &'a [f32],
    ids: Lists<'a, UInt32Type>,
    logprobs: Lists<'a, Float32Type>,
    draws: &'a [u16],
    projected: Option<ProjectedColumns<'a>>,
    exact: bool,
}

/// What only `projected` has.
struct ProjectedColumns<'a> {
    projection: Labels<'a, Projection>,
    source_nll: &'a Float32Array,
    owed: &'a Float32Array,
    unknown: &'a Float32Array,
    short: &'a Float32Array,
    named: &'a BooleanArray,
}

impl<'a> ProjectedColumns<'a> {
    fn new(batch: &'a RecordBatch) -> Result<Self> {
        let floats = |name| numbers::<Float32Type>(batch, name);
        Ok(Self {
            projection: Labels::new(batch, "projection", Projection::from_name)?,
            source_nll: floats("source_nll")?,
            owed: floats("owed")?,
            unknown: floats("unknown")?,
            short: floats("short")?,
            named: booleans(batch, "named")?,
        })
    }

    fn origin(&self, row: usize) -> Origin {
        let float = |column: &Float32Array| (!column.is_null(row)).then(|| column.value(row));
        Origin {
            source_nll: float(self.source_nll),
            owed: float(self.owed).unwrap_or(0.0),
            unknown: float(self.unknown).unwrap_or(0.0),
            short: float(self.short).unwrap_or(0.0),
            named: (!self.named.is_null(row)).then(|| self.named.value(row)),
        }
    }
}

impl<'a> Distributions<'a> {
    /// The rows of `batch`, of either artifact.
    pub fn new(batch: &'a RecordBatch) -> Result<Self> {
        let projected = batch.column_by_name("projection").is_some();
        Ok(Self {
            sample_id: numbers::<UInt64Type>(batch, "sample_id")?.values(),
            pos: numbers::<UInt32Type>(batch, "pos")?.values(),
            target_id: numbers::<UInt32Type>(batch, "target_id")?.values(),
            target_logprob: numbers::<Float32Type>(batch, "target_logprob")?.values(),
            tail_logprob: numbers::<Float32Type>(batch, "tail_logprob")?.values(),
            ids: Lists::new(batch, "ids")?,
            logprobs: Lists::new(batch, "logprobs")?,
            draws: numbers::<UInt16Type>(batch, "draws")?.values(),
            projected: match projected {
                true => Some(ProjectedColumns::new(batch)?),
                false => None,
            },
            exact: true,
        })
    }

    /// The same, with what the artifact says of the true token
    /// ([`Artifact::exact_targets`](super::Artifact::exact_targets)).
    #[must_use]
    pub fn exact(self, exact: bool) -> Self {
        Self { exact, ..self }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.pos.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.pos.is_empty()
    }

    /// The sample of a row.
    pub fn sample_id(&self, row: usize) -> SampleId {
        self.sample_id[row]
    }

    /// One row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> Distribution<'a> {
        Distribution {
            pos: self.pos[row],
            target_id: self.target_id[row],
            target_logprob: self.target_logprob[row],
            tail_logprob: self.tail_logprob[row],
            ids: self.ids.row(row),
            logprobs: self.logprobs.row(row),
        }
    }

    /// From how many random draws a row comes; 0 if it is a list of the most probable tokens.
    pub fn draws(&self, row: usize) -> u16 {
        self.draws[row]
    }

    /// Where a row of `projected` comes from; [`Projection::SameEnd`] for rows of `topk`, which
    /// are a model's own.
    pub fn projection(&self, row: usize) -> Projection {
        let columns = self.projected.as_ref();
        columns.map_or(Projection::SameEnd, |columns| columns.projection.row(row))
    }

    /// What `projected` says of a row; nothing of rows of `topk`.
    pub fn origin(&self, row: usize) -> Option<Origin> {
        Some(self.projected.as_ref()?.origin(row))
    }

    /// The model's negative log-likelihood of the next token, in nats, where a row has it exactly:
    /// rows of `topk`, unless another program left it out of them, and those of `projected` that
    /// the source's readings carry.
    pub fn exact_nll(&self, row: usize) -> Option<f32> {
        let exact = match &self.projected {
            Some(columns) => !columns.named.is_null(row),
            None => self.exact || self.ids.row(row).contains(&self.target_id[row]),
        };
        exact.then(|| -self.target_logprob[row])
    }

    /// The first row with an id that a vocabulary of `len` tokens lacks: its position, and the id.
    pub fn beyond(&self, len: usize) -> Option<(u32, TokenId)> {
        let fit = |ids: &[TokenId]| ids.iter().all(|id| (*id as usize) < len);
        if fit(self.ids.all()) && fit(self.target_id) {
            return None;
        }
        (0..self.len()).find_map(|row| {
            let row = self.row(row);
            let mut ids = row.ids.iter().chain(std::iter::once(&row.target_id));
            let id = ids.find(|id| **id as usize >= len)?;
            Some((row.pos, *id))
        })
    }

    /// The row of position `pos`, if it is stored. Rows must be of one sample.
    pub fn find(&self, pos: u32) -> Option<usize> {
        // Positions rise, and are one beside the other wherever all text is supervised.
        let most = pos.checked_sub(*self.pos.first()?)? as usize;
        if self.pos.get(most) == Some(&pos) {
            return Some(most);
        }
        self.pos.binary_search(&pos).ok()
    }
}
