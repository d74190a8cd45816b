//! Differentiable operations with fused kernels.
//!
//! candle's fused kernels lose the gradient, and its differentiable ones make a copy per
//! elementary step. These do neither: one pass forward, one pass backward. On the CPU they
//! compute in f32; other dtypes are converted on the way in and out. GPUs have kernels of their
//! own, which take all three.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, bail};

use super::attach::{slice, with_values, wrap};
#[cfg(feature = "cuda")]
use super::cuda;
use super::{kernels, products};

// ---- RMS norm ----

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
        let (dx, dw) = with_values(x, |x| {
            with_values(weight, |weight| {
                with_values(grad, |grad| {
                    Ok(kernels::rms_norm_backward(x, weight, grad, self.eps))
                })
            })
        })?;
        Ok((
            Some(wrap(dx, grad.shape())?),
            Some(wrap(dw, weight.shape())?),
        ))
    }
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
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return cuda::norm(x, weight, cuda::Norm::rms(eps));
    }
    let x = x.to_dtype(DType::F32)?.contiguous()?;
    let weight = weight.to_dtype(DType::F32)?.contiguous()?;
    x.apply_op2(&weight, RmsNorm { eps: eps as f32 })?
        .to_dtype(dtype)
}

// ---- gated activation ----

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
        Ok((
            Some(wrap(dgate, gate.shape())?),
            Some(wrap(dup, up.shape())?),
        ))
    }
}

/// `silu(gate) * up`; both of the same shape.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let dtype = gate.dtype();
    if gate.shape() != up.shape() {
        bail!("gate {:?} and up {:?} differ", gate.shape(), up.shape());
    }
    let gate = gate.to_dtype(DType::F32)?.contiguous()?;
    let up = up.to_dtype(DType::F32)?.contiguous()?;
    gate.apply_op2(&up, SwiGlu)?.to_dtype(dtype)
}

// ---- soft cap ----

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

// ---- heads and rotary embedding ----

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

/// Splits off the heads and rotates each by its position.
///
/// `x` is (batch, len, heads, d), `cos` and `sin` are (len, r / 2) or (batch · len, r / 2) in f32,
/// of which the first r <= d dimensions of each head are rotated; the result is (batch, heads, len,
/// d), contiguous.
pub fn rotate_heads(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
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

// ---- projections and look-ups ----

/// x Wᵀ for `x` (rows, in) and `weight` (out, in).
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return cuda::linear(x, weight);
    }
    products::linear(x, weight)
}

/// Rows `ids` (n, u32) of `table` (vocabulary, width).
pub fn embed(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if table.device().is_cuda() {
        return cuda::embed(table, ids);
    }
    table.index_select(ids, 0)
}

/// Rows `index` (u32), none of them twice, of `x` (rows, width).
pub fn take_rows(x: &Tensor, index: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return cuda::take_rows(x, index);
    }
    x.index_select(index, 0)
}

/// `sum` (rows, width), with row r of `x` added to row `index[r]`, none of them twice.
pub fn add_rows(sum: &Tensor, x: &Tensor, index: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return sum + cuda::spread_rows(x, index, sum.dim(0)?)?;
    }
    sum.index_add(index, x, 0)
}
