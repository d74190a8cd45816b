//! Projections.

use candle_core::{CpuStorage, CustomOp2, DType, Device, Layout, Result, Shape, Tensor};

use super::collect::gradient;
use super::products::{Matrix, multiply, whole_product};
use crate::model::attach::slice;

/// `x` (rows, in) times the transpose of `weight` (out, in): (rows, out). Differentiable in both.
///
/// What candle would do, but for f32 on the CPU the gradient of the weight comes out in the
/// weight's own order; candle's is transposed, and adding that up is slow.
pub(crate) fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    match (x.device(), x.dtype(), weight.dtype()) {
        (Device::Cpu, DType::F32, DType::F32) => {
            x.contiguous()?.apply_op2(&weight.contiguous()?, Linear)
        }
        _ => x.matmul(&weight.t()?),
    }
}

struct Linear;

/// The sizes (rows, in, out) of a projection.
fn sizes(x: &Shape, weight: &Shape) -> Result<(usize, usize, usize)> {
    let ((rows, inner), (out, same)) = (x.dims2()?, weight.dims2()?);
    if inner != same {
        candle_core::bail!("a projection of {x:?} by {weight:?}");
    }
    Ok((rows, inner, out))
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, inner, out) = sizes(x_layout.shape(), weight_layout.shape())?;
        let x = Matrix::new(slice(x, x_layout)?, rows, inner, inner);
        let weight = Matrix::new(slice(weight, weight_layout)?, out, inner, inner);
        let y = whole_product(x, weight.t());
        Ok((CpuStorage::F32(y), Shape::from((rows, out))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        sizes(x.shape(), weight.shape())?;
        let dx = match x.track_op() {
            true => Some(multiply(grad, &weight.detach())?),
            false => None,
        };
        let dweight = match weight.track_op() {
            true => gradient(weight, |sums| sums.add_linear(weight, x, grad))?,
            false => None,
        };
        Ok((dx, dweight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_projection_and_its_gradients_equal_candles() {
        let random = |shape| candle_core::Var::randn(0f32, 1.0, shape, &Device::Cpu).unwrap();
        let (x, weight, up) = (random((5, 3)), random((4, 3)), random((5, 4)));
        let run = |y: Tensor| {
            let loss = (&y * up.as_detached_tensor()).unwrap().sum_all().unwrap();
            let grads = loss.backward().unwrap();
            let all = [&y, grads.get(&x).unwrap(), grads.get(&weight).unwrap()];
            all.map(|tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap())
        };
        let ours = run(linear(&x, &weight).unwrap());
        let candles = run(x.matmul(&weight.t().unwrap()).unwrap());
        for (ours, candles) in ours.iter().flatten().zip(candles.iter().flatten()) {
            assert!((ours - candles).abs() < 1e-5, "{ours} {candles}");
        }
        assert!(linear(&x, &random((4, 2))).is_err());
    }
}
