//! A linear projection.

use candle_core::{Result, Tensor};

use super::products::linear;

/// y = x Wᵀ + b.
pub(crate) struct Linear {
    /// (out, in).
    pub weight: Tensor,
    /// (out).
    pub bias: Option<Tensor>,
}

impl Linear {
    /// (rows, in) to (rows, out).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = linear(x, &self.weight)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}
