//! Embeddings, and rows that are taken out and put back.

use candle_core::{DType, Result, Tensor, bail};

use crate::model::attach::attach1;
use crate::model::cuda::enabled::launch::{Arg, Grid, OPS, launch, long, typed};
use crate::model::cuda::enabled::memory::{Fresh, View};

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
