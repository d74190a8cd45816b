//! Linear projections.

use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use crate::model::cuda::enabled::blas::{Matrices, product};
use crate::model::cuda::enabled::launch::gpu_only;
use crate::model::cuda::enabled::memory::{Fresh, View, same_type};

/// x Wᵀ for `x` (rows, in) and `weight` (out, in).
///
/// candle's product with a transpose is as fast, but it returns the gradient of the weight
/// transposed, and adding that up is not.
pub(crate) fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2(&weight.contiguous()?, Linear)
}

struct Linear;

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    gpu_only!(&CpuStorage, &Layout, &CpuStorage, &Layout);

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (rows, inner) = x_layout.shape().dims2()?;
        let (outer, width) = weight_layout.shape().dims2()?;
        let (x, weight) = (View::new(x, x_layout)?, View::new(weight, weight_layout)?);
        let dtype = same_type(&[&x, &weight])?;
        if width != inner {
            bail!("a weight of ({outer}, {width}) does not fit rows of {inner}");
        }
        let y = Fresh::new(&x.device, rows * outer, dtype)?;
        let x_rows = Matrices::new(x.pointer, dtype, inner, 0);
        let w_rows = Matrices::new(weight.pointer, dtype, inner, 0);
        let y_rows = Matrices::new(y.pointer, dtype, outer, 0);
        // SAFETY: (rows, inner) times (inner, outer).
        unsafe {
            let sizes = (1, rows, outer, inner);
            product(&x.device, sizes, x_rows, w_rows.t(), y_rows, 0.0)
        }?;
        Ok((y.into_storage(), Shape::from((rows, outer))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let dx = match x.track_op() {
            true => Some(grad.matmul(&weight.detach())?),
            false => None,
        };
        let dweight = match weight.track_op() {
            true => Some(grad.t()?.matmul(&x.detach())?),
            false => None,
        };
        Ok((dx, dweight))
    }
}
