//! Rotation by position.

use candle_core::{CpuStorage, CudaStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};

use crate::model::cuda::enabled::launch::{Arg, Grid, OPS, gpu_only, launch, long, typed};
use crate::model::cuda::enabled::memory::{Fresh, View};

struct Rotate {
    cos: Tensor,
    sin: Tensor,
    backwards: bool,
}

/// (batch, len, heads, d) to (batch, heads, len, d), rotated by position.
///
/// `cos` and `sin` are f32 (len, r / 2) or (batch · len, r / 2), of which the first r <= d
/// dimensions are rotated.
pub(crate) fn rotate_heads(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Rotate {
        cos: cos.clone(),
        sin: sin.clone(),
        backwards: false,
    })
}

impl CustomOp1 for Rotate {
    fn name(&self) -> &'static str {
        "rotate"
    }

    gpu_only!(&CpuStorage, &Layout);

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (batch, outer, inner, d) = layout.shape().dims4()?;
        let x = View::new(x, layout)?;
        let (table, half) = self.cos.dims2()?;
        let cos = View::typed(&self.cos, DType::F32)?;
        let sin = View::typed(&self.sin, DType::F32)?;
        let positions = if self.backwards { inner } else { outer };
        let fits = table == positions || table == batch * positions;
        if !fits || 2 * half > d || sin.count != cos.count {
            bail!("rotary table of {table} rows for {batch} times {positions} positions");
        }
        let y = Fresh::new(&x.device, x.count, x.dtype)?;
        let args = [
            Arg::Pointer(x.pointer),
            Arg::Pointer(cos.pointer),
            Arg::Pointer(sin.pointer),
            Arg::Pointer(y.pointer),
            long(batch),
            long(outer),
            long(inner),
            long(d),
            long(half),
            long(table),
            Arg::Float(if self.backwards { -1.0 } else { 1.0 }),
            Arg::Int(self.backwards.into()),
        ];
        let (kernel, grid) = (typed("rotate", x.dtype)?, Grid::elements(x.count));
        // SAFETY: both have batch · outer · inner · d elements, the tables were checked.
        unsafe { launch(&x.device, &OPS, &kernel, grid, &args) }?;
        Ok((y.into_storage(), Shape::from((batch, inner, outer, d))))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let back = Self {
            cos: self.cos.clone(),
            sin: self.sin.clone(),
            backwards: !self.backwards,
        };
        grad.contiguous()?.apply_op1_no_bwd(&back).map(Some)
    }
}
