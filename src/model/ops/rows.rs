//! Projections, embeddings, and rows that are taken out and put back.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};

use super::collect::gradient;
use super::projection;
use crate::model::attach::slice;
use crate::model::cuda;

/// x Wᵀ for `x` (rows, in) and `weight` (out, in).
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if cuda::holds(x) {
        return cuda::linear(x, weight);
    }
    projection::linear(x, weight)
}

/// Rows `ids` (n, u32) of `table` (vocabulary, width).
pub fn embed(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    if cuda::holds(table) {
        return cuda::embed(table, ids);
    }
    match (table.dtype(), table.track_op()) {
        (DType::F32, true) => table.contiguous()?.apply_op1(Embed {
            ids: ids.to_vec1()?,
        }),
        _ => table.index_select(ids, 0),
    }
}

/// Rows of an f32 table, whose gradient reaches it without a table of zeros in between.
struct Embed {
    ids: Vec<u32>,
}

impl CustomOp1 for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (count, width) = layout.shape().dims2()?;
        let table = slice(table, layout)?;
        let mut out = Vec::with_capacity(self.ids.len() * width);
        for &id in &self.ids {
            if id as usize >= count {
                candle_core::bail!("token {id} of a table of {count} embeddings");
            }
            out.extend_from_slice(&table[id as usize * width..][..width]);
        }
        let shape = Shape::from((self.ids.len(), width));
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(&self, table: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        gradient(table, |sums| sums.add_rows(table, &self.ids, grad))
    }
}

/// Rows `index` (u32), none of them twice, of `x` (rows, width).
pub fn take_rows(x: &Tensor, index: &Tensor) -> Result<Tensor> {
    if cuda::holds(x) {
        return cuda::take_rows(x, index);
    }
    x.index_select(index, 0)
}

/// `sum` (rows, width), with row r of `x` added to row `index[r]`, none of them twice.
pub fn add_rows(sum: &Tensor, x: &Tensor, index: &Tensor) -> Result<Tensor> {
    if cuda::holds(x) {
        return sum + cuda::spread_rows(x, index, sum.dim(0)?)?;
    }
    sum.index_add(index, x, 0)
}

/// (count, width) without a graph, in which row r of `x` is row `index[r]`, none of them twice, and
/// the others are zero.
pub fn scatter_rows(x: &Tensor, index: &Tensor, count: usize) -> Result<Tensor> {
    if cuda::holds(x) {
        return cuda::scatter_rows(x, index, count);
    }
    Tensor::zeros((count, x.dim(1)?), x.dtype(), x.device())?.index_add(index, x, 0)
}
