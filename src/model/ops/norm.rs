//! Root-mean-square norm.

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};

use super::kernels;
use crate::model::attach::{slice, with_values, wrap};
use crate::model::config::NormKind;
use crate::model::cuda;

struct RmsNorm {
    eps: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (slice(x, x_layout)?, slice(weight, weight_layout)?);
        let width = weight.len();
        let mut out = vec![0f32; x.len()];
        kernels::for_rows(&mut out, width, |row, out| {
            kernels::rms_norm_row(&x[row * width..][..width], weight, self.eps, out);
        });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = rms_norm_backward(x, weight, grad, self.eps)?;
        Ok((Some(dx), Some(dw)))
    }
}

/// Gradients of `x` and `weight` in [`rms_norm`], given that of the result; f32, without a graph.
pub fn rms_norm_backward(
    x: &Tensor,
    weight: &Tensor,
    grad: &Tensor,
    eps: f32,
) -> Result<(Tensor, Tensor)> {
    let (dx, dw) = with_values(x, |x| {
        with_values(weight, |weight| {
            with_values(grad, |grad| {
                Ok(kernels::rms_norm_backward(x, weight, grad, eps))
            })
        })
    })?;
    Ok((wrap(dx, grad.shape())?, wrap(dw, weight.shape())?))
}

/// Root-mean-square norm of the last dimension of `x`, times `weight` (one per column).
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    if x.dims().last() != weight.dims().first() || weight.rank() != 1 {
        bail!(
            "norm weight {:?} does not fit {:?}",
            weight.shape(),
            x.shape()
        );
    }
    if cuda::holds(x) {
        return cuda::norm(x, weight, NormKind::Rms, eps);
    }
    let x = x.to_dtype(DType::F32)?.contiguous()?;
    let weight = weight.to_dtype(DType::F32)?.contiguous()?;
    x.apply_op2(&weight, RmsNorm { eps: eps as f32 })?
        .to_dtype(dtype)
}
