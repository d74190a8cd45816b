//! Gated activations.

use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use crate::model::config::Activation;
use crate::model::cuda::enabled::launch::{Arg, Grid, OPS, gpu_only, launch, long, typed};
use crate::model::cuda::enabled::memory::{Fresh, View, same_type};

struct Gate(Activation);

/// f(gate) · up, both of the same shape.
pub(crate) fn gated(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    if gate.shape() != up.shape() {
        bail!("gate {:?} and up {:?} differ", gate.shape(), up.shape());
    }
    gate.contiguous()?
        .apply_op2(&up.contiguous()?, Gate(activation))
}

impl Gate {
    /// The function, as the kernels number them.
    fn arg(&self) -> Arg {
        Arg::Int(match self.0 {
            Activation::Silu => 0,
            Activation::GeluTanh => 1,
            Activation::Gelu => 2,
        })
    }
}

impl CustomOp2 for Gate {
    fn name(&self) -> &'static str {
        "gated"
    }

    gpu_only!(&CpuStorage, &Layout, &CpuStorage, &Layout);

    fn cuda_fwd(
        &self,
        gate: &CudaStorage,
        gate_layout: &Layout,
        up: &CudaStorage,
        up_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (gate, up) = (View::new(gate, gate_layout)?, View::new(up, up_layout)?);
        let dtype = same_type(&[&gate, &up])?;
        let y = Fresh::new(&gate.device, gate.count, dtype)?;
        let args = [
            Arg::Pointer(gate.pointer),
            Arg::Pointer(up.pointer),
            Arg::Pointer(y.pointer),
            long(gate.count),
            self.arg(),
        ];
        let grid = Grid::elements(gate.count);
        // SAFETY: all have as many elements as are counted.
        unsafe { launch(&gate.device, &OPS, &typed("gated", dtype)?, grid, &args) }?;
        Ok((y.into_storage(), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (shape, grad) = (gate.shape(), grad.contiguous()?);
        let (gate, up, grad) = (View::of(gate)?, View::of(up)?, View::of(&grad)?);
        let dtype = same_type(&[&gate, &up, &grad])?;
        let dgate = Fresh::new(&gate.device, gate.count, dtype)?;
        let dup = Fresh::new(&gate.device, gate.count, dtype)?;
        let args = [
            Arg::Pointer(gate.pointer),
            Arg::Pointer(up.pointer),
            Arg::Pointer(grad.pointer),
            Arg::Pointer(dgate.pointer),
            Arg::Pointer(dup.pointer),
            long(gate.count),
            self.arg(),
        ];
        let (kernel, grid) = (typed("gated_backward", dtype)?, Grid::elements(gate.count));
        // SAFETY: all have as many elements as are counted.
        unsafe { launch(&gate.device, &OPS, &kernel, grid, &args) }?;
        Ok((
            Some(dgate.into_tensor(shape)?),
            Some(dup.into_tensor(shape)?),
        ))
    }
}
