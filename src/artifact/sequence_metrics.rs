//! Rows of `sequence_metrics`: how well a model predicts each sample.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, UInt32Array, UInt64Array};
use arrow::record_batch::RecordBatch;

use super::Kind;
use crate::error::{Context, Result};
use crate::units::SampleId;

/// Which tokens metrics count: those that cover supervised content. Before, special tokens were left
/// out, whose bytes counted; the word in an artifact's options tells the two apart.
pub const COUNTS: &str = "content";

/// Columns of `sequence_metrics`, row by row.
#[derive(Debug, Default)]
pub struct SequenceMetrics {
    sample_id: Vec<SampleId>,
    /// Negative log-likelihoods of the supervised content, in nats.
    pub nll: Vec<f64>,
    /// Supervised content tokens.
    pub tokens: Vec<u32>,
    /// Supervised content bytes.
    pub bytes: Vec<u32>,
}

impl SequenceMetrics {
    /// Adds a sample: its negative log-likelihood in nats over its content tokens, and its content
    /// bytes.
    pub fn push(&mut self, sample: SampleId, (nll, tokens): (f64, u32), bytes: u32) {
        self.sample_id.push(sample);
        self.nll.push(nll);
        self.tokens.push(tokens);
        self.bytes.push(bytes);
    }

    /// The rows as they are stored.
    ///
    /// # Errors
    /// None beyond those of building a batch.
    pub fn finish(self) -> Result<RecordBatch> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from(self.sample_id)),
            Arc::new(Float64Array::from(self.nll)),
            Arc::new(UInt32Array::from(self.tokens)),
            Arc::new(UInt32Array::from(self.bytes)),
        ];
        RecordBatch::try_new(Kind::SequenceMetrics.schema(), columns)
            .during(|| "building `sequence_metrics` rows".into())
    }
}
