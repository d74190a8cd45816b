//! Norms.

use candle_core::{CpuStorage, CudaStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};

use crate::model::config::NormKind;
use crate::model::cuda::enabled::launch::{Arg, Grid, OPS, gpu_only, launch, long, typed};
use crate::model::cuda::enabled::memory::{Fresh, View, same_type};

struct Norm {
    /// Added to the second moment.
    eps: f64,
    kind: NormKind,
}

impl Norm {
    fn args(&self) -> [Arg; 3] {
        let plus = u8::from(self.kind == NormKind::RmsPlusOne);
        [
            Arg::Float(self.eps as f32),
            // Added to the weight.
            Arg::Float(plus.into()),
            // Whether the mean is taken off first.
            Arg::Int((self.kind == NormKind::Layer).into()),
        ]
    }
}

/// Norm of the last dimension of `x`, with one weight for each column.
pub(crate) fn norm(x: &Tensor, weight: &Tensor, kind: NormKind, eps: f64) -> Result<Tensor> {
    let weight = weight.to_dtype(x.dtype())?.contiguous()?;
    x.contiguous()?.apply_op2(&weight, Norm { eps, kind })
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    gpu_only!(&CpuStorage, &Layout, &CpuStorage, &Layout);

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (x, weight) = (View::new(x, x_layout)?, View::new(weight, weight_layout)?);
        let dtype = same_type(&[&x, &weight])?;
        let width = weight.count;
        let y = Fresh::new(&x.device, x.count, dtype)?;
        let mut args = vec![
            Arg::Pointer(x.pointer),
            Arg::Pointer(weight.pointer),
            Arg::Pointer(y.pointer),
            long(width),
        ];
        args.extend(self.args());
        let grid = Grid::rows(x.count / width.max(1), width);
        // SAFETY: whole rows of `width` elements, and a weight for each column.
        unsafe { launch(&x.device, &OPS, &typed("norm", dtype)?, grid, &args) }?;
        Ok((y.into_storage(), x_layout.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (shape, grad) = (x.shape(), grad.contiguous()?);
        let (x, weight, grad) = (View::of(x)?, View::of(weight)?, View::of(&grad)?);
        let dtype = same_type(&[&x, &weight, &grad])?;
        let width = weight.count;
        let rows = x.count / width.max(1);
        if grad.count != x.count {
            bail!("a gradient of {} elements for {}", grad.count, x.count);
        }
        // As many blocks as fill a GPU; their sums of the weight's gradient stay in its cache.
        let blocks = rows.min(((2 << 20) / width.max(1)).clamp(1, 2048));
        let device = &x.device;
        let dx = Fresh::new(device, x.count, dtype)?;
        let parts = Fresh::zeros(device, blocks * width, DType::F32)?;
        let mut args = vec![
            Arg::Pointer(x.pointer),
            Arg::Pointer(weight.pointer),
            Arg::Pointer(grad.pointer),
            Arg::Pointer(dx.pointer),
            Arg::Pointer(parts.pointer),
            long(rows),
            long(width),
        ];
        args.extend(self.args());
        let (kernel, grid) = (typed("norm_backward", dtype)?, Grid::rows(blocks, width));
        // SAFETY: x, grad and dx have `rows` rows; the sums have a row for each block.
        unsafe { launch(device, &OPS, &kernel, grid, &args) }?;
        let dweight = Fresh::new(device, width, dtype)?;
        let args = [
            Arg::Pointer(parts.pointer),
            Arg::Pointer(dweight.pointer),
            long(blocks),
            long(width),
        ];
        let (kernel, grid) = (typed("sum_rows", dtype)?, Grid::elements(width));
        // SAFETY: (blocks, width) to (width).
        unsafe { launch(device, &OPS, &kernel, grid, &args) }?;
        Ok((
            Some(dx.into_tensor(shape)?),
            Some(dweight.into_tensor(width)?),
        ))
    }
}
