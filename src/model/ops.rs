//! Differentiable operations with fused kernels.
//!
//! candle's fused kernels lose the gradient without an error, and its differentiable ones make a
//! copy per elementary step. These do neither: one pass forward, one pass backward. On the CPU
//! they compute in f32; other dtypes are converted on the way in and out.
//!
//! [`attach1`] and [`attach2`] give any already computed tensor a hand-written backward.

use std::sync::Mutex;

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, InplaceOp1, Layout, Result, Shape, Storage, Tensor,
    bail,
};

use super::kernels;

/// The elements of a contiguous f32 CPU storage.
fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let (begin, end) = match layout.contiguous_offsets() {
        Some(range) => range,
        None => bail!("expected a contiguous tensor"),
    };
    match storage.as_slice::<f32>()?.get(begin..end) {
        Some(values) => Ok(values),
        None => bail!("layout outside of its storage"),
    }
}

/// Calls `f` with the elements of `tensor`, made contiguous and f32 first if need be.
pub(crate) fn with_values<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<R>) -> Result<R> {
    let tensor = tensor.detach().to_dtype(DType::F32)?.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(slice(storage, layout)?),
        _ => bail!("expected a tensor on the CPU"),
    }
}

fn wrap(values: Vec<f32>, shape: &Shape) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &candle_core::Device::Cpu)
}

// ---- hand-written backwards for tensors that are already computed ----

type Backward1 = Box<dyn Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor> + Send + Sync>;
type Backward2 =
    Box<dyn Fn(&Tensor, &Tensor, &Tensor, &Tensor) -> Result<(Tensor, Tensor)> + Send + Sync>;

struct Attach<B> {
    // Taken by the forward, so that the graph does not keep a second copy.
    out: Mutex<Option<Tensor>>,
    backward: B,
}

impl<B> Attach<B> {
    fn new(out: &Tensor, backward: B) -> Result<Self> {
        Ok(Self {
            out: Mutex::new(Some(out.detach().contiguous()?)),
            backward,
        })
    }

    fn take(&self) -> Result<(CpuStorage, Shape)> {
        let taken = self.out.lock().ok().and_then(|mut out| out.take());
        let Some(out) = taken else {
            bail!("an attached forward ran twice");
        };
        let (storage, layout) = out.storage_and_layout();
        match &*storage {
            Storage::Cpu(cpu) => {
                use candle_core::backend::BackendStorage;
                Ok((cpu.try_clone(layout)?, out.shape().clone()))
            }
            _ => bail!("expected a tensor on the CPU"),
        }
    }
}

impl CustomOp1 for Attach<Backward1> {
    fn name(&self) -> &'static str {
        "attach1"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.take()
    }

    fn bwd(&self, arg: &Tensor, out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        (self.backward)(&arg.detach(), &out.detach(), grad).map(Some)
    }
}

impl CustomOp2 for Attach<Backward2> {
    fn name(&self) -> &'static str {
        "attach2"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.take()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        out: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (da, db) = (self.backward)(&a.detach(), &b.detach(), &out.detach(), grad)?;
        Ok((Some(da), Some(db)))
    }
}

/// A tensor with the values of `out` whose gradient flows to `arg` through `backward`.
///
/// `out` must be computed from `arg.detach()`. `backward(arg, out, grad_of_out)` returns the
/// gradient of `arg`, in its shape and dtype.
///
/// # Errors
/// Those of the copy.
pub fn attach1(
    arg: &Tensor,
    out: &Tensor,
    backward: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    let backward: Backward1 = Box::new(backward);
    arg.apply_op1(Attach::new(out, backward)?)
}

/// [`attach1`] for two arguments: `backward(a, b, out, grad_of_out)` returns both gradients.
///
/// # Errors
/// Those of the copy.
pub fn attach2(
    a: &Tensor,
    b: &Tensor,
    out: &Tensor,
    backward: impl Fn(&Tensor, &Tensor, &Tensor, &Tensor) -> Result<(Tensor, Tensor)>
    + Send
    + Sync
    + 'static,
) -> Result<Tensor> {
    let backward: Backward2 = Box::new(backward);
    a.apply_op2(b, Attach::new(out, backward)?)
}

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
        let half = d / 2;
        let sign = if self.backwards { -1.0 } else { 1.0 };
        let mut out = vec![0f32; batch * len * heads * d];
        with_values(&self.cos, |cos| {
            with_values(&self.sin, |sin| {
                if cos.len() != len * half || sin.len() != len * half {
                    bail!(
                        "rotary table for {} positions, found {len}",
                        cos.len() / half.max(1)
                    );
                }
                kernels::for_rows(&mut out, d, |row, out| {
                    let (position, from) = if self.backwards {
                        // out (b, t, h), in (b, h, t)
                        let (b, t, h) = (row / (len * heads), row / heads % len, row % heads);
                        (t, (b * heads + h) * len + t)
                    } else {
                        // out (b, h, t), in (b, t, h)
                        let (b, h, t) = (row / (len * heads), row / len % heads, row % len);
                        (t, (b * len + t) * heads + h)
                    };
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
/// `x` is (batch, len, heads, d), `cos` and `sin` are (len, d / 2) in f32; the result is
/// (batch, heads, len, d), contiguous.
pub fn rotate_heads(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
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

// ---- causal softmax ----

/// Rows are queries, folded as (.., group * len); columns are keys `0..offset + len`.
#[derive(Clone, Copy, Debug)]
pub struct CausalSoftmax {
    /// Factor on the scores.
    pub scale: f64,
    /// Position of the first query.
    pub offset: usize,
    /// Number of query positions.
    pub len: usize,
    /// How many keys, its own included, a query sees; `None` is all.
    pub window: Option<usize>,
}

impl CausalSoftmax {
    fn check(&self, shape: &Shape) -> Result<usize> {
        let width = shape.dims().last().copied().unwrap_or(0);
        if width != self.offset + self.len || self.len == 0 {
            bail!("scores {shape:?} for keys 0..{}", self.offset + self.len);
        }
        Ok(width)
    }

    fn run(&self, values: &mut [f32], width: usize) {
        let scale = self.scale as f32;
        kernels::for_rows(values, width, |row, values| {
            let visible = kernels::visible(self.offset + row % self.len, self.window);
            kernels::softmax_row(values, visible, scale);
        });
    }
}

impl CustomOp1 for CausalSoftmax {
    fn name(&self) -> &'static str {
        "causal_softmax"
    }

    fn cpu_fwd(&self, scores: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = self.check(layout.shape())?;
        let mut out = slice(scores, layout)?.to_vec();
        self.run(&mut out, width);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let width = self.check(out.shape())?;
        let mut dx = with_values(grad, |grad| Ok(grad.to_vec()))?;
        with_values(out, |p| {
            kernels::for_rows(&mut dx, width, |row, dx| {
                let p = &p[row * width..][..width];
                kernels::softmax_row_backward(p, dx, self.scale as f32);
            });
            Ok(())
        })?;
        wrap(dx, out.shape()).map(Some)
    }
}

impl InplaceOp1 for CausalSoftmax {
    fn name(&self) -> &'static str {
        "causal_softmax_inplace"
    }

    fn cpu_fwd(&self, scores: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let width = self.check(layout.shape())?;
        let (begin, end) = match layout.contiguous_offsets() {
            Some(range) => range,
            None => bail!("expected a contiguous tensor"),
        };
        match scores {
            CpuStorage::F32(values) => match values.get_mut(begin..end) {
                Some(values) => self.run(values, width),
                None => bail!("layout outside of its storage"),
            },
            _ => bail!("expected f32 scores"),
        }
        Ok(())
    }
}

/// Softmax of the visible scores; differentiable when `scores` is part of a graph.
///
/// Without a graph the scores' own storage is overwritten, so nobody else may hold it.
pub fn causal_softmax(scores: &Tensor, settings: CausalSoftmax) -> Result<Tensor> {
    let dtype = scores.dtype();
    let scores = scores.to_dtype(DType::F32)?.contiguous()?;
    if scores.track_op() {
        return scores.apply_op1(settings)?.to_dtype(dtype);
    }
    scores.inplace_op1(&settings)?;
    scores.to_dtype(dtype)
}
