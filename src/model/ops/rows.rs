//! Projections, embeddings, and rows that are taken out and put back.

use candle_core::{Result, Tensor};

use super::products;
use crate::model::cuda;

/// x Wᵀ for `x` (rows, in) and `weight` (out, in).
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if cuda::holds(x) {
        return cuda::linear(x, weight);
    }
    products::linear(x, weight)
}

/// Rows `ids` (n, u32) of `table` (vocabulary, width).
pub fn embed(table: &Tensor, ids: &Tensor) -> Result<Tensor> {
    if cuda::holds(table) {
        return cuda::embed(table, ids);
    }
    table.index_select(ids, 0)
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
