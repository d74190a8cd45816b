//! Products of f32 matrices that lie anywhere in main memory, by the `gemm` crate.

use candle_core::{DType, Result, Shape, Tensor};
use gemm::Parallelism;

use crate::model::attach::{with_values, wrap};

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
    #[should_panic]
    fn a_matrix_beyond_its_values_is_refused() {
        Matrix::new(&[0.0; 4], 2, 2, 3);
    }
}
