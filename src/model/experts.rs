//! A feed-forward block of which each token uses a few parts (Mixtral).

use candle_core::{D, DType, Result, Tensor};

use super::config::Activation;
use super::feed_forward::Gated;
use super::linear::Linear;

/// A router and its experts.
///
/// A token's experts are those with the largest router logits, the first among equals; their
/// outputs are weighted by the softmax of these logits alone, through which the router learns.
pub(crate) struct Mixture {
    /// (experts, hidden).
    pub router: Linear,
    pub experts: Vec<Gated>,
    /// Experts that a token uses.
    pub per_token: usize,
}

impl Mixture {
    /// (rows, hidden) to the same. Rows are gathered by expert, so that each expert's matrices are
    /// multiplied once.
    pub fn forward(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let logits = self.router.forward(x)?.to_dtype(DType::F32)?;
        let count = self.experts.len();
        let (mut rows_of, mut mask) = (vec![Vec::new(); count], Vec::new());
        for (row, logits) in logits.detach().to_vec2::<f32>()?.iter().enumerate() {
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            let mut others = vec![f32::NEG_INFINITY; count];
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
            let weight = weight.index_select(&rows, 0)?;
            let y = expert.forward(&x.index_select(&rows, 0)?, activation)?;
            sum = sum.index_add(&rows, &y.broadcast_mul(&weight)?, 0)?;
        }
        Ok(sum)
    }
}
