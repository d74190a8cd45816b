//! The feed-forward block of a layer, in a checkpoint's layout.

use candle_core::{D, DType, Result, Tensor};

use super::linear::Linear;
use crate::model::config::Activation;
use crate::model::ops;

/// The block.
pub(crate) enum FeedForward {
    Gated(Gated),
    /// The same with gate and up in one matrix, gate first.
    Joined {
        gate_up: Linear,
        down: Linear,
    },
    Plain {
        up: Linear,
        down: Linear,
    },
    Mixture(Mixture),
}

impl FeedForward {
    /// (rows, hidden) to the same.
    pub fn forward(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        match self {
            Self::Gated(gated) => gated.forward(x, activation),
            Self::Joined { gate_up, down } => {
                let y = gate_up.forward(x)?;
                let width = y.dim(1)? / 2;
                let (gate, up) = (y.narrow(1, 0, width)?, y.narrow(1, width, width)?);
                down.forward(&ops::gated(&gate, &up, activation)?)
            }
            Self::Plain { up, down } => down.forward(&ops::activate(&up.forward(x)?, activation)?),
            Self::Mixture(mixture) => mixture.forward(x, activation),
        }
    }
}

/// down(act(gate(x)) · up(x)).
pub(crate) struct Gated {
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
}

impl Gated {
    /// (rows, hidden) to the same.
    pub fn forward(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let (gate, up) = (self.gate.forward(x)?, self.up.forward(x)?);
        self.down.forward(&ops::gated(&gate, &up, activation)?)
    }
}

/// A router and its experts: each token uses a few of them.
///
/// A token's experts are those with the largest router logits, the first among equals; their
/// outputs are weighted by the softmax of these logits alone (`normalised`) or of all, through which
/// the router learns.
pub(crate) struct Mixture {
    /// (experts, hidden).
    pub router: Linear,
    pub experts: Vec<Gated>,
    /// Experts that a token uses.
    pub per_token: usize,
    /// Whether the weights of a token's experts sum to one.
    pub normalised: bool,
}

impl Mixture {
    /// (rows, hidden) to the same. Rows are gathered by expert, so that each expert's matrices are
    /// multiplied once.
    pub fn forward(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let logits = self.router.forward(x)?.to_dtype(DType::F32)?;
        let count = self.experts.len();
        let (mut rows_of, mut mask) = (vec![Vec::new(); count], Vec::new());
        let unused = if self.normalised {
            f32::NEG_INFINITY
        } else {
            0.0
        };
        for (row, logits) in logits.detach().to_vec2::<f32>()?.iter().enumerate() {
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            let mut others = vec![unused; count];
            for &expert in order.iter().take(self.per_token) {
                rows_of[expert].push(row as u32);
                others[expert] = 0.0;
            }
            mask.extend(others);
        }
        let mask = Tensor::from_vec(mask, logits.shape(), x.device())?;
        let weights = candle_nn::ops::softmax(&(logits + mask)?, D::Minus1)?;
        let weights = weights.to_dtype(x.dtype())?;
        let mut sum = x.zeros_like()?;
        for (index, (expert, rows)) in self.experts.iter().zip(rows_of).enumerate() {
            if rows.is_empty() {
                continue;
            }
            let rows = Tensor::new(rows, x.device())?;
            let weight = weights.narrow(1, index, 1)?.contiguous()?;
            let weight = ops::take_rows(&weight, &rows)?;
            let y = expert.forward(&ops::take_rows(x, &rows)?, activation)?;
            sum = ops::add_rows(&sum, &y.broadcast_mul(&weight)?, &rows)?;
        }
        Ok(sum)
    }
}
