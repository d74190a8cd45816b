//! Gated activations.

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};

use super::kernels;
use crate::model::attach::{slice, with_values, wrap};
use crate::model::config::Activation;
use crate::model::cuda;

struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (slice(gate, gate_layout)?, slice(up, up_layout)?);
        let width = gate_layout.shape().dims().last().copied().unwrap_or(1);
        let mut out = vec![0f32; gate.len()];
        kernels::for_rows(&mut out, width, |row, out| {
            let range = row * width..(row + 1) * width;
            kernels::swiglu(&gate[range.clone()], &up[range], out);
        });
        Ok((CpuStorage::F32(out), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        swiglu_backward(gate, up, grad).map(|(gate, up)| (Some(gate), Some(up)))
    }
}

/// Gradients of gate and up in silu(gate) · up, given that of the result; f32, without a graph.
pub fn swiglu_backward(gate: &Tensor, up: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor)> {
    let width = gate.dims().last().copied().unwrap_or(1);
    let mut dgate = vec![0f32; gate.elem_count()];
    let mut dup = vec![0f32; gate.elem_count()];
    with_values(gate, |gate| {
        with_values(up, |up| {
            with_values(grad, |grad| {
                kernels::for_rows2(&mut dgate, &mut dup, width, |row, dgate, dup| {
                    let range = row * width..(row + 1) * width;
                    let (gate, up) = (&gate[range.clone()], &up[range.clone()]);
                    kernels::swiglu_backward(gate, up, &grad[range], dgate, dup);
                });
                Ok(())
            })
        })
    })?;
    Ok((wrap(dgate, gate.shape())?, wrap(dup, up.shape())?))
}

/// `activation(gate) * up`; both of the same shape.
pub fn gated(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    if cuda::holds(gate) {
        return cuda::gated(gate, up, activation);
    }
    match activation {
        Activation::Silu => swiglu(gate, up),
        other => activate(gate, other)? * up,
    }
}

/// The non-linearity of each element.
pub fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Silu => x.silu(),
        Activation::Gelu => x.gelu_erf(),
        Activation::GeluTanh => x.gelu(),
    }
}

fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let dtype = gate.dtype();
    if gate.shape() != up.shape() {
        bail!("gate {:?} and up {:?} differ", gate.shape(), up.shape());
    }
    let gate = gate.to_dtype(DType::F32)?.contiguous()?;
    let up = up.to_dtype(DType::F32)?.contiguous()?;
    gate.apply_op2(&up, SwiGlu)?.to_dtype(dtype)
}
