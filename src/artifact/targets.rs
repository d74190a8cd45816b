//! Rows of `targets`: what the pivot is trained towards.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float32Builder, ListBuilder, StringDictionaryBuilder, UInt16Builder, UInt32Builder,
    UInt64Builder,
};
use arrow::datatypes::{DataType, Float32Type, Int32Type, UInt16Type, UInt32Type};
use arrow::record_batch::RecordBatch;

use super::Kind;
use super::kind::list_element;
use super::rows::{Lists, numbers};
use crate::error::{Context, Result};
use crate::units::{SampleId, TokenId};

/// The distribution that the token after `pos` is trained towards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target<'a> {
    /// Position; the distribution is that of token `pos + 1`.
    pub pos: u32,
    /// The listed tokens, by falling probability.
    pub ids: &'a [TokenId],
    /// Their probabilities, parallel to `ids`; with `tail` they sum to one, but for what storing
    /// them has rounded (2 % at most, 0.3 % as a rule).
    pub probs: &'a [f32],
    /// Probability outside the list.
    pub tail: f32,
}

/// Collects rows of `targets` into batches.
pub struct TargetBuilder {
    sample_id: UInt64Builder,
    pos: UInt32Builder,
    ids: ListBuilder<UInt32Builder>,
    probs: ListBuilder<Float32Builder>,
    tail: Float32Builder,
    draws: UInt16Builder,
    winner: StringDictionaryBuilder<Int32Type>,
    rows: usize,
}

impl Default for TargetBuilder {
    fn default() -> Self {
        Self {
            sample_id: UInt64Builder::new(),
            pos: UInt32Builder::new(),
            ids: ListBuilder::new(UInt32Builder::new()).with_field(list_element(DataType::UInt32)),
            probs: ListBuilder::new(Float32Builder::new())
                .with_field(list_element(DataType::Float32)),
            tail: Float32Builder::new(),
            draws: UInt16Builder::new(),
            winner: StringDictionaryBuilder::new(),
            rows: 0,
        }
    }
}

impl TargetBuilder {
    /// Appends a row; `winner` names the model whose distribution it is (or `mean`).
    pub fn push(&mut self, sample: SampleId, row: Target<'_>, winner: &str) {
        self.push_drawn(sample, row, 0, winner);
    }

    /// Appends a row whose probabilities are shares of so many random draws (0: they are none).
    pub fn push_drawn(&mut self, sample: SampleId, row: Target<'_>, draws: u16, winner: &str) {
        self.rows += 1;
        self.sample_id.append_value(sample);
        self.pos.append_value(row.pos);
        self.ids.values().append_slice(row.ids);
        self.ids.append(true);
        self.probs.values().append_slice(row.probs);
        self.probs.append(true);
        self.tail.append_value(row.tail);
        self.draws.append_value(draws);
        self.winner.append_value(winner);
    }

    /// Rows since the last [`TargetBuilder::finish`].
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Takes the rows collected so far.
    pub fn finish(&mut self) -> Result<RecordBatch> {
        self.rows = 0;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.sample_id.finish()),
            Arc::new(self.pos.finish()),
            Arc::new(self.ids.finish()),
            Arc::new(self.probs.finish()),
            Arc::new(self.tail.finish()),
            Arc::new(self.draws.finish()),
            Arc::new(self.winner.finish()),
        ];
        RecordBatch::try_new(Kind::Targets.schema(), columns)
            .during(|| "building `targets` rows".into())
    }
}

/// The rows of a batch of `targets`.
pub struct Targets<'a> {
    pos: &'a [u32],
    ids: Lists<'a, UInt32Type>,
    probs: Lists<'a, Float32Type>,
    tail: &'a [f32],
    draws: &'a [u16],
}

impl<'a> Targets<'a> {
    /// The rows of `batch`.
    pub fn new(batch: &'a RecordBatch) -> Result<Self> {
        Ok(Self {
            pos: numbers::<UInt32Type>(batch, "pos")?.values(),
            ids: Lists::new(batch, "ids")?,
            probs: Lists::new(batch, "probs")?,
            tail: numbers::<Float32Type>(batch, "tail")?.values(),
            draws: numbers::<UInt16Type>(batch, "draws")?.values(),
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.pos.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.pos.is_empty()
    }

    /// From how many random draws a row comes; 0 if it is a list of the most probable tokens.
    pub fn draws(&self, row: usize) -> u16 {
        self.draws[row]
    }

    /// One row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> Target<'a> {
        Target {
            pos: self.pos[row],
            ids: self.ids.row(row),
            probs: self.probs.row(row),
            tail: self.tail[row],
        }
    }
}
