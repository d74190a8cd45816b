//! Products of f32 matrices that lie anywhere in main memory, by the `gemm` crate.

use candle_core::{CpuStorage, CustomOp2, DType, Device, Layout, Result, Shape, Tensor};
use gemm::Parallelism;

use super::collect::{gradient, in_place};
use crate::model::attach::{slice, with_values, wrap};

/// A matrix in a slice; neither rows nor columns need to be neighbours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `rows` rows of `columns` neighbouring elements, `stride` apart.
    ///
    /// # Panics
    /// The matrix reaches beyond `values`.
    pub fn new(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        if rows > 0 && columns > 0 {
            assert!((rows - 1) * stride + columns <= values.len());
        }
        Self {
            values,
            rows,
            columns,
            row_stride: stride,
            column_stride: 1,
        }
    }

    /// The transposed matrix.
    pub fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// `out = keep · out + factor · a · b` on this thread, where `out` has rows of neighbouring
/// elements, `stride` apart. With `keep` 0 what `out` held does not matter.
///
/// # Panics
/// The shapes do not fit, or the result does not fit `out`.
pub(crate) fn product(
    factor: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    keep: f32,
    out: &mut [f32],
    stride: usize,
) {
    let (m, n) = (a.rows, b.columns);
    if m == 0 || n == 0 {
        return;
    }
    assert!(n <= stride || m == 1);
    assert!((m - 1) * stride + n <= out.len());
    // SAFETY: checked.
    unsafe {
        gemm(
            Parallelism::None,
            factor,
            a,
            b,
            keep,
            out.as_mut_ptr(),
            stride,
        )
    }
}

/// # Safety
/// `out` points at (rows of `a` − 1) · `stride` + columns of `b` elements that nobody else uses;
/// they hold numbers unless `keep` is 0.
unsafe fn gemm(
    parallelism: Parallelism,
    factor: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    keep: f32,
    out: *mut f32,
    stride: usize,
) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(k, b.rows);
    let signed = |stride: usize| stride as isize;
    // SAFETY: the arguments lie within their slices (`Matrix::new`), the result as promised.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            signed(stride),
            keep != 0.0,
            a.values.as_ptr(),
            signed(a.column_stride),
            signed(a.row_stride),
            b.values.as_ptr(),
            signed(b.column_stride),
            signed(b.row_stride),
            keep,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// All threads of the pool. A product is the same for any number of them.
fn all_threads() -> Parallelism {
    match rayon::current_num_threads() {
        1 => Parallelism::None,
        _ => Parallelism::Rayon(0),
    }
}

/// `a · b` by all threads of the pool.
pub(super) fn whole_product(a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    let count = a.rows * b.columns;
    let mut out = Vec::with_capacity(count);
    if count > 0 {
        // SAFETY: there is room for `count` numbers, and the product writes all of them.
        unsafe {
            gemm(all_threads(), 1.0, a, b, 0.0, out.as_mut_ptr(), b.columns);
            out.set_len(count);
        }
    }
    out
}

/// Adds `a · b` to `out`, by all threads of the pool.
pub(super) fn add_product(a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32]) {
    assert_eq!(a.rows * b.columns, out.len());
    if !out.is_empty() {
        // SAFETY: `out` has room for the product, and holds numbers.
        unsafe { gemm(all_threads(), 1.0, a, b, 1.0, out.as_mut_ptr(), b.columns) }
    }
}

/// A matrix of two dimensions and neighbouring elements.
pub(super) fn matrix<'a>(values: &'a [f32], tensor: &Tensor) -> Result<Matrix<'a>> {
    let (rows, columns) = tensor.dims2()?;
    Ok(Matrix::new(values, rows, columns, columns))
}

/// The product of `a` (m, k) and `b` (k, n) in the dtype of `b`, without a graph.
pub(crate) fn multiply(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if b.dtype() != DType::F32 {
        return a.to_dtype(b.dtype())?.matmul(b);
    }
    with_values(a, |left| {
        with_values(b, |right| {
            let (left, right) = (matrix(left, a)?, matrix(right, b)?);
            if left.columns != right.rows {
                candle_core::bail!("a product of {:?} and {:?}", a.shape(), b.shape());
            }
            let shape = Shape::from((left.rows, right.columns));
            wrap(whole_product(left, right), &shape)
        })
    })
}

/// Adds the f32 product of `a` (m, k) and `b` (k, n) to `sum` (m, n), which is no one else's.
pub(crate) fn add_multiplied(sum: &Tensor, a: &Tensor, b: &Tensor) -> Result<()> {
    with_values(a, |left| {
        with_values(b, |right| {
            let (left, right) = (matrix(left, a)?, matrix(right, b)?);
            in_place(sum, |sum| add_product(left, right, sum))
        })
    })
}

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
    fn strides_transposes_and_sums() {
        // [1 2; 3 4] with a gap of one, times its transpose, plus twice what was there.
        let values = [1.0, 2.0, 9.0, 3.0, 4.0];
        let a = Matrix::new(&values, 2, 2, 3);
        let mut out = [1.0, 1.0, 7.0, 1.0, 1.0];
        product(1.0, a, a.t(), 2.0, &mut out, 3);
        assert_eq!(out, [7.0, 13.0, 7.0, 13.0, 27.0]);
        let mut out = [f32::NAN; 4];
        product(0.5, a.t(), a, 0.0, &mut out, 2);
        assert_eq!(out, [5.0, 7.0, 7.0, 10.0]);
    }

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

    #[test]
    #[should_panic]
    fn a_matrix_beyond_its_values_is_refused() {
        Matrix::new(&[0.0; 4], 2, 2, 3);
    }
}
