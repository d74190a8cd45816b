//! Norms, gated activations, rotation, linear projections, embeddings.
//!
//! Arguments share one type; what differs is converted first.

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, DType, Layout, Result, Shape, Tensor, bail,
};

use super::blas::{Matrices, product};
use super::launch::{Arg, Grid, OPS, launch, long, typed};
use super::memory::{Fresh, View};
use crate::model::attach1;

/// What a CPU is told.
fn gpu_only() -> Result<(CpuStorage, Shape)> {
    bail!("this operation is for GPUs")
}

fn same_type(views: &[&View]) -> Result<DType> {
    let dtype = views[0].dtype;
    match views.iter().find(|view| view.dtype != dtype) {
        None => Ok(dtype),
        Some(other) => bail!("arguments of types {dtype:?} and {:?}", other.dtype),
    }
}

// ---- norms ----

/// How the last dimension is normed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    /// Added to the second moment.
    pub eps: f64,
    /// Added to the weight.
    pub plus: f64,
    /// Whether the mean is taken off first (layer norm).
    pub center: bool,
}

impl Norm {
    /// x / rms(x) · weight.
    pub fn rms(eps: f64) -> Self {
        Self {
            eps,
            plus: 0.0,
            center: false,
        }
    }

    fn args(&self) -> [Arg; 3] {
        [
            Arg::Float(self.eps as f32),
            Arg::Float(self.plus as f32),
            Arg::Int(self.center.into()),
        ]
    }
}

/// Norm of the last dimension of `x`, with one weight for each column.
pub(crate) fn norm(x: &Tensor, weight: &Tensor, norm: Norm) -> Result<Tensor> {
    let weight = weight.to_dtype(x.dtype())?.contiguous()?;
    x.contiguous()?.apply_op2(&weight, norm)
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        gpu_only()
    }

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

// ---- gated activations ----

/// The function of a gated activation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Gate {
    /// x · sigmoid(x).
    Silu = 0,
    /// GELU by its tanh approximation.
    GeluTanh = 1,
    /// GELU by the error function.
    Gelu = 2,
}

/// f(gate) · up, both of the same shape.
pub(crate) fn gated(gate: &Tensor, up: &Tensor, kind: Gate) -> Result<Tensor> {
    if gate.shape() != up.shape() {
        bail!("gate {:?} and up {:?} differ", gate.shape(), up.shape());
    }
    gate.contiguous()?.apply_op2(&up.contiguous()?, kind)
}

impl CustomOp2 for Gate {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        gpu_only()
    }

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
            Arg::Int(*self as i32),
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
            Arg::Int(*self as i32),
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

// ---- heads ----

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

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        gpu_only()
    }

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

// ---- projections ----

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

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        gpu_only()
    }

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

// ---- embeddings ----

/// (rows, width) spread over zeros (count, width): row r of `x` becomes row `index[r]`; no index
/// occurs twice.
pub(crate) fn scatter_rows(x: &Tensor, index: &Tensor, count: usize) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let x = x.contiguous()?;
    let (from, index) = (View::of(&x)?, View::typed(index, DType::U32)?);
    if index.count != rows {
        bail!("{} places for {rows} rows", index.count);
    }
    let y = Fresh::zeros(&from.device, count * width, from.dtype)?;
    let args = [
        Arg::Pointer(from.pointer),
        Arg::Pointer(index.pointer),
        Arg::Pointer(y.pointer),
        long(rows),
        long(width),
    ];
    let kernel = typed("scatter_rows", from.dtype)?;
    let grid = Grid::elements(rows * width);
    // SAFETY: the caller's indices are below `count`.
    unsafe { launch(&from.device, &OPS, &kernel, grid, &args) }?;
    y.into_tensor((count, width))
}

/// Rows `index` of `x`; no index occurs twice.
pub(crate) fn take_rows(x: &Tensor, index: &Tensor) -> Result<Tensor> {
    let (rows, index) = (x.detach().index_select(index, 0)?, index.clone());
    attach1(x, &rows, move |x, _, grad| {
        scatter_rows(grad, &index, x.dim(0)?)
    })
}

/// [`scatter_rows`], differentiable.
pub(crate) fn spread_rows(x: &Tensor, index: &Tensor, count: usize) -> Result<Tensor> {
    let (rows, index) = (scatter_rows(&x.detach(), index, count)?, index.clone());
    attach1(x, &rows, move |_, _, grad| {
        grad.contiguous()?.index_select(&index, 0)
    })
}

/// Rows `ids` (n, u32) of `table` (vocabulary, width).
pub(crate) fn embed(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let rows = table.detach().index_select(ids, 0)?;
    if !table.track_op() {
        return Ok(rows);
    }
    let ids = ids.clone();
    attach1(table, &rows, move |table, _, grad| {
        embedding_backward(&ids, grad, table.dim(0)?)
    })
}

/// Gradient of a table (vocabulary, width) of which `ids` were looked up, given that of the rows
/// found (ids, width). Rows are summed in the order of `ids`.
fn embedding_backward(ids: &Tensor, grad: &Tensor, vocabulary: usize) -> Result<Tensor> {
    const THREADS: usize = 256;
    let (rows, width) = grad.dims2()?;
    let grad = grad.contiguous()?;
    let (ids, from) = (View::typed(ids, DType::U32)?, View::of(&grad)?);
    if ids.count != rows {
        bail!("{} ids for {rows} rows", ids.count);
    }
    let table = Fresh::zeros(&from.device, vocabulary * width, from.dtype)?;
    let args = [
        Arg::Pointer(ids.pointer),
        Arg::Pointer(from.pointer),
        Arg::Pointer(table.pointer),
        long(rows),
        long(width),
    ];
    let kernel = typed("embedding_backward", from.dtype)?;
    let grid = Grid::blocks(rows, width.div_ceil(THREADS), THREADS);
    // SAFETY: the look-up has checked that ids are below `vocabulary`.
    unsafe { launch(&from.device, &OPS, &kernel, grid, &args) }?;
    table.into_tensor((vocabulary, width))
}
