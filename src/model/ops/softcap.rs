//! The soft cap of scores and logits.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};

use super::kernels;
use crate::model::attach::slice;

struct SoftCap {
    cap: f64,
}

impl CustomOp1 for SoftCap {
    fn name(&self) -> &'static str {
        "softcap"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, layout)?;
        let width = layout.dims().last().copied().unwrap_or(1);
        let mut out = vec![0f32; x.len()];
        kernels::for_rows(&mut out, width, |row, out| {
            out.copy_from_slice(&x[row * width..][..width]);
            kernels::softcap_row(out, self.cap as f32);
        });
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        (grad * softcap_slope(out, self.cap)?).map(Some)
    }
}

/// `cap * tanh(x / cap)`.
pub fn softcap(x: &Tensor, cap: f64) -> Result<Tensor> {
    if !x.device().is_cpu() {
        return (x / cap)?.tanh()? * cap;
    }
    let dtype = x.dtype();
    x.to_dtype(DType::F32)?
        .contiguous()?
        .apply_op1(SoftCap { cap })?
        .to_dtype(dtype)
}

/// Derivative of [`softcap`] where it is `y`: 1 - (y / cap)².
pub fn softcap_slope(y: &Tensor, cap: f64) -> Result<Tensor> {
    (y / cap)?.sqr()?.affine(-1.0, 1.0)
}
