//! The best approximation of low rank to the difference of two matrices.
//!
//! A randomised singular value decomposition with power iterations (Halko, Martinsson & Tropp,
//! arXiv:0909.4061): exact to rounding where the difference has at most the wanted rank.

use rayon::prelude::*;

use super::low_rank::LowRank;
use crate::error::Result;
use crate::progress::check_interrupt;
use crate::tensors::vector::{add, dot, scale, subtract};
use crate::tensors::{Elements, View};

/// Directions beyond the wanted rank that the decomposition follows.
const EXTRA: usize = 8;
/// Power iterations.
const ITERATIONS: usize = 2;
/// Columns that a thread works on at a time.
const STRIPE: usize = 256;

/// tuned − base, `rows` × `columns`.
pub(super) struct Change<'a> {
    pub base: View<'a>,
    pub tuned: View<'a>,
    pub rows: usize,
    pub columns: usize,
}

impl Change<'_> {
    fn read(&self, start: usize, out: &mut [f32], scratch: &mut Vec<f32>) {
        scratch.resize(out.len(), 0.0);
        self.tuned.read(start, out);
        self.base.read(start, scratch);
        subtract(out, scratch);
    }

    /// The product with `x` (columns × `width`): rows × `width`.
    fn times(&self, x: &[f32], width: usize) -> Result<Vec<f32>> {
        let mut product = vec![0.0; self.rows * width];
        product
            .par_chunks_mut(width)
            .enumerate()
            .with_min_len(16)
            .try_for_each_init(
                || (vec![0.0; self.columns], Vec::new()),
                |(line, scratch), (row, out)| {
                    check_interrupt()?;
                    self.read(row * self.columns, line, scratch);
                    for (value, x) in line.iter().zip(x.chunks_exact(width)) {
                        add(out, *value, x);
                    }
                    Result::Ok(())
                },
            )?;
        Ok(product)
    }

    /// The product of the transpose with `x` (rows × `width`): columns × `width`.
    fn transposed_times(&self, x: &[f32], width: usize) -> Result<Vec<f32>> {
        let mut product = vec![0.0; self.columns * width];
        product
            .par_chunks_mut(STRIPE * width)
            .enumerate()
            .try_for_each_init(
                || (Vec::new(), Vec::new()),
                |(line, scratch), (stripe, out)| {
                    check_interrupt()?;
                    line.resize(out.len() / width, 0.0);
                    for (row, x) in x.chunks_exact(width).enumerate() {
                        self.read(row * self.columns + stripe * STRIPE, line, scratch);
                        for (value, out) in line.iter().zip(out.chunks_exact_mut(width)) {
                            add(out, *value, x);
                        }
                    }
                    Result::Ok(())
                },
            )?;
        Ok(product)
    }

    /// The norm of what an approximation misses, and the norm of the difference.
    pub fn missed(&self, approximation: &LowRank) -> Result<(f64, f64)> {
        let rows: Vec<(f64, f64)> = (0..self.rows)
            .into_par_iter()
            .with_min_len(16)
            .map_init(
                || (vec![0.0; self.columns], vec![0.0; self.columns], Vec::new()),
                |(line, product, scratch), row| {
                    check_interrupt()?;
                    self.read(row * self.columns, line, scratch);
                    let norm = dot(line, line);
                    product.fill(0.0);
                    approximation.add(row * self.columns, product);
                    subtract(line, product);
                    Result::Ok((dot(line, line), norm))
                },
            )
            .collect::<Result<_>>()?;
        let (missed, norm) = rows
            .iter()
            .fold((0.0, 0.0), |(a, b), (x, y)| (a + x, b + y));
        Ok((missed.sqrt(), norm.sqrt()))
    }
}

/// A (`rank` × columns) and B (rows × `rank`) with B A close to the difference; both carry the
/// square roots of the singular values. Terms beyond the smaller side of the matrix are zero.
pub(super) fn decompose(difference: &Change<'_>, rank: usize) -> Result<(Vec<f32>, Vec<f32>)> {
    let (rows, columns) = (difference.rows, difference.columns);
    let width = (rank + EXTRA).min(rows).min(columns);
    let mut x = random(columns * width);
    let mut left = Vec::new();
    for round in 0..=ITERATIONS {
        left = difference.times(&x, width)?;
        orthonormalise(&mut left, width);
        x = difference.transposed_times(&left, width)?;
        if round < ITERATIONS {
            orthonormalise(&mut x, width);
        }
    }
    // Now the difference is about left · xᵀ, with orthonormal columns in `left`; the eigenvectors
    // of xᵀ x turn both so that the columns of x become orthogonal.
    let mut products = vec![0.0; width * width];
    for line in x.chunks_exact(width) {
        for i in 0..width {
            for j in 0..width {
                products[i * width + j] += f64::from(line[i]) * f64::from(line[j]);
            }
        }
    }
    let (values, vectors) = eigen(products, width);
    let mut order: Vec<usize> = (0..width).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order.truncate(rank);
    let mut a = vec![0f32; rank * columns];
    let mut b = vec![0f32; rows * rank];
    for (term, at) in order.into_iter().enumerate() {
        let root = values[at].max(0.0).sqrt().sqrt();
        if root == 0.0 {
            continue;
        }
        let turn = |line: &[f32]| -> f64 {
            let terms = line.iter().enumerate();
            terms
                .map(|(i, v)| f64::from(*v) * vectors[i * width + at])
                .sum()
        };
        for (column, line) in x.chunks_exact(width).enumerate() {
            a[term * columns + column] = (turn(line) / root) as f32;
        }
        for (row, line) in left.chunks_exact(width).enumerate() {
            b[row * rank + term] = (turn(line) * root) as f32;
        }
    }
    Ok((a, b))
}

/// Numbers from -1 to 1, the same every time.
fn random(count: usize) -> Vec<f32> {
    (0..count as u64)
        .map(|index| {
            let mut x = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((x ^ (x >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Makes the columns of a matrix with rows of `width` orthonormal; columns that depend on earlier
/// ones become zero. Gram-Schmidt, twice.
fn orthonormalise(matrix: &mut [f32], width: usize) {
    let rows = matrix.len() / width;
    let mut columns: Vec<Vec<f32>> = (0..width)
        .map(|column| (0..rows).map(|row| matrix[row * width + column]).collect())
        .collect();
    for at in 0..width {
        let (before, rest) = columns.split_at_mut(at);
        let column = &mut rest[0];
        let first = dot(column, column).sqrt();
        for _ in 0..2 {
            for other in before.iter() {
                let along = dot(other, column) as f32;
                add(column, -along, other);
            }
        }
        let norm = dot(column, column).sqrt();
        // What is left of a dependent column is rounding error.
        let factor = if norm > 1e-6 * first {
            (1.0 / norm) as f32
        } else {
            0.0
        };
        scale(column, factor);
    }
    for (column, values) in columns.iter().enumerate() {
        for (row, value) in values.iter().enumerate() {
            matrix[row * width + column] = *value;
        }
    }
}

/// Eigenvalues and eigenvectors (in columns) of a symmetric matrix, by Jacobi's rotations.
fn eigen(mut matrix: Vec<f64>, size: usize) -> (Vec<f64>, Vec<f64>) {
    let mut vectors = vec![0.0; size * size];
    (0..size).for_each(|i| vectors[i * size + i] = 1.0);
    let scale = (0..size)
        .map(|i| matrix[i * size + i].abs())
        .fold(0.0, f64::max);
    for _ in 0..60 {
        let mut turned = false;
        for p in 0..size {
            for q in p + 1..size {
                let (pp, qq) = (matrix[p * size + p], matrix[q * size + q]);
                let pq = matrix[p * size + q];
                if pq.abs() <= 1e-17 * scale || pq * pq <= 1e-32 * (pp * qq).abs() {
                    continue;
                }
                turned = true;
                let ratio = (qq - pp) / (2.0 * pq);
                let t = ratio.signum() / (ratio.abs() + (ratio * ratio + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for k in 0..size {
                    let (kp, kq) = (matrix[k * size + p], matrix[k * size + q]);
                    matrix[k * size + p] = c * kp - s * kq;
                    matrix[k * size + q] = s * kp + c * kq;
                }
                for k in 0..size {
                    let (pk, qk) = (matrix[p * size + k], matrix[q * size + k]);
                    matrix[p * size + k] = c * pk - s * qk;
                    matrix[q * size + k] = s * pk + c * qk;
                    let (kp, kq) = (vectors[k * size + p], vectors[k * size + q]);
                    vectors[k * size + p] = c * kp - s * kq;
                    vectors[k * size + q] = s * kp + c * kq;
                }
            }
        }
        if !turned {
            break;
        }
    }
    let values = (0..size).map(|i| matrix[i * size + i]).collect();
    (values, vectors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::Dtype;

    #[test]
    fn eigenvalues_by_hand() {
        // (2 1; 1 2): 3 along (1, 1), 1 along (1, -1).
        let (values, vectors) = eigen(vec![2.0, 1.0, 1.0, 2.0], 2);
        let largest = usize::from(values[1] > values[0]);
        assert!((values[largest] - 3.0).abs() < 1e-12 && (values[1 - largest] - 1.0).abs() < 1e-12);
        assert!((vectors[largest] - vectors[2 + largest]).abs() < 1e-12);
    }

    #[test]
    fn a_matrix_of_low_rank_is_found_again() {
        let (rows, columns) = (90, 300);
        let a = random(5 * columns);
        let b: Vec<f32> = random(5 * columns + rows * 5)[5 * columns..].to_vec();
        let product = LowRank::new(0.01, 5, a, b, false);
        let mut values = vec![0.0; rows * columns];
        product.add(0, &mut values);
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let zeros = vec![0; bytes.len()];
        let shape = [rows, columns];
        let view = |bytes| View {
            dtype: Dtype::F32,
            shape: &shape,
            bytes,
        };
        let difference = Change {
            base: view(&zeros),
            tuned: view(&bytes),
            rows,
            columns,
        };
        for (rank, low, high) in [(5, 0.0, 1e-5), (12, 0.0, 1e-5), (3, 0.05, 0.9)] {
            let (a, b) = decompose(&difference, rank).unwrap();
            let found = LowRank::new(1.0, rank, a, b, false);
            let (missed, norm) = difference.missed(&found).unwrap();
            assert!(
                missed >= low * norm && missed <= high * norm,
                "{rank} {missed} {norm}"
            );
        }
        let none = Change {
            base: view(&bytes),
            tuned: view(&bytes),
            rows,
            columns,
        };
        let (a, b) = decompose(&none, 4).unwrap();
        assert!(a.iter().chain(&b).all(|v| *v == 0.0));
    }
}
