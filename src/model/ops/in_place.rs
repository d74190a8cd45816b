//! Sums in the memory of one of their parts, without a graph.

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor, bail};

use super::kernels;
use super::products::{add_product, matrix};
use crate::model::attach::with_values;

/// Adds the f32 product of `a` (m, k) and `b` (k, n) to `sum` (m, n), which is no one else's.
pub(crate) fn add_multiplied(sum: &Tensor, a: &Tensor, b: &Tensor) -> Result<()> {
    with_values(a, |left| {
        with_values(b, |right| {
            let (left, right) = (matrix(left, a)?, matrix(right, b)?);
            in_place(sum, |sum| add_product(left, right, sum))
        })
    })
}

/// Adds `x` to `sum`, of the same shape and no one else's; f32, without a graph.
pub(crate) fn add_in_place(sum: &Tensor, x: &Tensor) -> Result<()> {
    with_values(x, |x| in_place(sum, |sum| kernels::add(sum, x)))
}

/// Adds `bias` to each row of `y`, which is no one else's; f32, without a graph.
pub(crate) fn add_bias(y: &Tensor, bias: &Tensor) -> Result<()> {
    with_values(bias, |bias| in_place(y, |y| kernels::add_to_rows(y, bias)))
}

/// Lends the elements of a contiguous f32 tensor in main memory, to be changed.
pub(super) fn in_place(tensor: &Tensor, change: impl Fn(&mut [f32])) -> Result<()> {
    tensor.inplace_op1(&InPlace(change))
}

struct InPlace<F>(F);

impl<F: Fn(&mut [f32])> InplaceOp1 for InPlace<F> {
    fn name(&self) -> &'static str {
        "in-place"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(values), Some((begin, end))) = (storage, layout.contiguous_offsets())
        else {
            bail!("expected contiguous f32 values")
        };
        (self.0)(&mut values[begin..end]);
        Ok(())
    }
}
