//! A linear projection.

use candle_core::{Result, Tensor};

use crate::model::attach::attach1;
use crate::model::lora::Adapter;
use crate::model::ops;

/// y = x Wᵀ + b, with what an adapter adds.
pub(crate) struct Linear {
    /// (out, in), or (in, out) if `transposed`.
    pub weight: Tensor,
    pub transposed: bool,
    /// (out).
    pub bias: Option<Tensor>,
    /// Weight and bias are not trained where there is one.
    pub adapter: Option<Adapter>,
}

impl Linear {
    /// (rows, in) to (rows, out).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if let Some(adapter) = &self.adapter {
            return adapter.forward(x, &self.rows()?, self.bias.as_ref());
        }
        let trained = |tensor: &Tensor| tensor.track_op();
        if x.track_op() && !trained(&self.weight) && !self.bias.as_ref().is_some_and(trained) {
            return self.frozen(x);
        }
        let y = match self.transposed {
            true => x.contiguous()?.matmul(&self.weight)?,
            false => ops::linear(x, &self.weight)?,
        };
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    /// The weight as (out, in).
    fn rows(&self) -> Result<Tensor> {
        match self.transposed {
            true => self.weight.t(),
            false => Ok(self.weight.clone()),
        }
    }

    /// Passes a gradient to `x` alone: candle's product would compute and keep that of the
    /// weight too.
    fn frozen(&self, x: &Tensor) -> Result<Tensor> {
        let weight = self.rows()?;
        let y = x.detach().matmul(&weight.t()?)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        attach1(x, &y, move |_, _, grad| grad.matmul(&weight))
    }
}
