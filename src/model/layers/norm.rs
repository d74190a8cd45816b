//! The norms of the residual stream.

use candle_core::{D, DType, Result, Tensor};

use crate::error;
use crate::model::config::{Config, NormKind};
use crate::model::{cuda, ops};

/// A norm of the last dimension.
pub(crate) struct Norm {
    /// One per column.
    pub weight: Tensor,
    /// One per column, of a layer norm.
    pub bias: Option<Tensor>,
    /// Added to the mean square.
    pub eps: f64,
    pub kind: NormKind,
}

impl Norm {
    /// The norm before the head; `get` knows the parameters that belong to no layer.
    pub fn last(
        config: &Config,
        get: impl Fn(&str) -> error::Result<Tensor>,
    ) -> error::Result<Self> {
        Ok(Self {
            weight: get(config.names().final_norm)?,
            bias: { config.norm_bias }
                .then(|| get(&config.names().final_norm_bias()))
                .transpose()?,
            eps: config.norm_eps,
            kind: config.norm,
        })
    }

    /// Norm of `x` (.., width), in its dtype.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if cuda::holds(x) {
            let y = cuda::norm(x, &self.weight, self.kind, self.eps)?;
            return self.biased(y);
        }
        match self.kind {
            NormKind::Rms => ops::rms_norm(x, &self.weight, self.eps),
            NormKind::RmsPlusOne => {
                // In f32: bf16 has no numbers between 1 and 1.0078.
                let weight = self.weight.to_dtype(DType::F32)?.affine(1.0, 1.0)?;
                ops::rms_norm(x, &weight, self.eps)
            }
            NormKind::Layer => {
                // The variance is the mean square of what is left without the mean.
                let wide = x.to_dtype(DType::F32)?;
                let centred = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
                let y = ops::rms_norm(&centred, &self.weight, self.eps)?;
                self.biased(y)?.to_dtype(x.dtype())
            }
        }
    }

    /// `y` (.., width) plus the bias, in its dtype.
    fn biased(&self, y: Tensor) -> Result<Tensor> {
        match &self.bias {
            Some(bias) => y.broadcast_add(&bias.to_dtype(y.dtype())?),
            None => Ok(y),
        }
    }
}
