//! Rows of the `steps` artifact, the training log.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, UInt64Array};
use arrow::record_batch::RecordBatch;

use crate::artifact::Kind;
use crate::error::{Context, Result};

/// One optimiser step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepRow {
    /// Ordinal, from 1.
    pub step: u64,
    /// Learning rate.
    pub lr: f64,
    /// λ · `loss_clm` + (1 − λ) · `loss_fusion`, before the step.
    pub loss: f64,
    /// Cross-entropy of the next token, nats per supervised token.
    pub loss_clm: f64,
    /// Cross-entropy with the targets, nats per target; none without targets.
    pub loss_fusion: Option<f64>,
    /// `loss_fusion` less the entropy of the targets.
    pub kl: Option<f64>,
    /// Norm of all gradients before clipping.
    pub grad_norm: f64,
    /// Positions that the model read in this step, without padding.
    pub tokens: u64,
    /// Cross-entropy on the validation set after this step, nats per token.
    pub valid_loss: Option<f64>,
    /// Time of this step in milliseconds, with validation, without checkpoints.
    pub wall_ms: f64,
}

impl StepRow {
    /// Numbers in a row of [`StepRow::to_numbers`].
    pub const WIDTH: usize = 10;

    /// All columns as numbers, NaN for none: exact for the training state.
    pub fn to_numbers(self) -> [f64; Self::WIDTH] {
        let optional = |value: Option<f64>| value.unwrap_or(f64::NAN);
        [
            self.step as f64,
            self.lr,
            self.loss,
            self.loss_clm,
            optional(self.loss_fusion),
            optional(self.kl),
            self.grad_norm,
            self.tokens as f64,
            optional(self.valid_loss),
            self.wall_ms,
        ]
    }

    /// The reverse of [`StepRow::to_numbers`].
    pub fn from_numbers(numbers: [f64; Self::WIDTH]) -> Self {
        let optional = |value: f64| (!value.is_nan()).then_some(value);
        let [
            step,
            lr,
            loss,
            loss_clm,
            loss_fusion,
            kl,
            grad_norm,
            tokens,
            valid_loss,
            wall_ms,
        ] = numbers;
        Self {
            step: step as u64,
            lr,
            loss,
            loss_clm,
            loss_fusion: optional(loss_fusion),
            kl: optional(kl),
            grad_norm,
            tokens: tokens as u64,
            valid_loss: optional(valid_loss),
            wall_ms,
        }
    }
}

/// The rows as they are stored.
pub fn to_batch(rows: &[StepRow]) -> Result<RecordBatch> {
    let u64s = |value: fn(&StepRow) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(value)))
    };
    let f64s = |value: fn(&StepRow) -> f64| -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(rows.iter().map(value)))
    };
    let optional = |value: fn(&StepRow) -> Option<f64>| -> ArrayRef {
        Arc::new(Float64Array::from_iter(rows.iter().map(value)))
    };
    let columns = vec![
        u64s(|row| row.step),
        f64s(|row| row.lr),
        f64s(|row| row.loss),
        f64s(|row| row.loss_clm),
        optional(|row| row.loss_fusion),
        optional(|row| row.kl),
        f64s(|row| row.grad_norm),
        u64s(|row| row.tokens),
        optional(|row| row.valid_loss),
        f64s(|row| row.wall_ms),
    ];
    RecordBatch::try_new(Kind::Steps.schema(), columns).during(|| "building `steps` rows".into())
}
