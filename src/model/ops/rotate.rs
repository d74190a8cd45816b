//! Heads, rotated by position.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, bail};

use super::kernels;
use crate::model::attach::{slice, with_values, wrap};
use crate::model::cuda;

/// (batch, len, heads, d) to (batch, heads, len, d), rotated by position; and back.
struct Rotate {
    cos: Tensor,
    sin: Tensor,
    backwards: bool,
}

impl Rotate {
    fn run(&self, x: &[f32], dims: (usize, usize, usize, usize)) -> Result<Vec<f32>> {
        // The output's order; its rows are read from the transposed place.
        let (batch, outer, inner, d) = if self.backwards {
            (dims.0, dims.2, dims.1, dims.3)
        } else {
            (dims.0, dims.1, dims.2, dims.3)
        };
        let (len, heads) = (outer, inner);
        let half = self.cos.dim(1)?;
        let sign = if self.backwards { -1.0 } else { 1.0 };
        let mut out = vec![0f32; batch * len * heads * d];
        with_values(&self.cos, |cos| {
            with_values(&self.sin, |sin| {
                // One row for each position, or for each position of each sequence.
                let table = cos.len() / half.max(1);
                let fits = table == len || table == batch * len;
                if !fits || sin.len() != cos.len() || 2 * half > d {
                    let shape = self.cos.shape();
                    bail!("rotary table {shape:?} for {batch} times {len} positions of width {d}");
                }
                kernels::for_rows(&mut out, d, |row, out| {
                    let (b, position, from) = if self.backwards {
                        // out (b, t, h), in (b, h, t)
                        let (b, t, h) = (row / (len * heads), row / heads % len, row % heads);
                        (b, t, (b * heads + h) * len + t)
                    } else {
                        // out (b, h, t), in (b, t, h)
                        let (b, h, t) = (row / (len * heads), row / len % heads, row % len);
                        (b, t, (b * len + t) * heads + h)
                    };
                    let position = (b * len + position) % table;
                    let (cos, sin) = (
                        &cos[position * half..][..half],
                        &sin[position * half..][..half],
                    );
                    kernels::rotate_row(&x[from * d..][..d], cos, sin, sign, out);
                });
                Ok(())
            })
        })?;
        Ok(out)
    }
}

impl CustomOp1 for Rotate {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let dims = layout.shape().dims4()?;
        let out = self.run(slice(x, layout)?, dims)?;
        let shape = Shape::from((dims.0, dims.2, dims.1, dims.3));
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let back = Self {
            cos: self.cos.clone(),
            sin: self.sin.clone(),
            backwards: !self.backwards,
        };
        let dims = grad.dims4()?;
        let dx = with_values(grad, |grad| back.run(grad, dims))?;
        wrap(dx, x.shape()).map(Some)
    }
}

/// The gradient (batch, len, heads, d) of the argument of [`rotate_heads`], given that of its
/// result; f32, without a graph.
pub fn rotate_heads_backward(grad: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let back = Rotate {
        cos: cos.clone(),
        sin: sin.clone(),
        backwards: true,
    };
    grad.contiguous()?.apply_op1_no_bwd(&back)
}

/// Splits off the heads and rotates each by its position.
///
/// `x` is (batch, len, heads, d), `cos` and `sin` are (len, r / 2) or (batch · len, r / 2) in f32,
/// of which the first r <= d dimensions of each head are rotated; the result is (batch, heads, len,
/// d), contiguous.
pub fn rotate_heads(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    if cuda::holds(x) {
        return cuda::rotate_heads(x, cos, sin);
    }
    let dtype = x.dtype();
    let op = Rotate {
        cos: cos.clone(),
        sin: sin.clone(),
        backwards: false,
    };
    x.to_dtype(DType::F32)?
        .contiguous()?
        .apply_op1(op)?
        .to_dtype(dtype)
}
