//! The weights that the training of a PiSSA or OLoRA adapter began with: the model's, less a product
//! of the adapter's rank. PEFT finds that product again when it loads the adapter, from the model.
//!
//! * PiSSA: the best approximation of that rank (the largest singular values), whose factors depend on
//!   signs and scales, while their product does not.
//! * OLoRA: s times the part of the matrix that lies along its first columns.

use rayon::prelude::*;

use super::adapter::Adapter;
use super::low_rank::LowRank;
use super::parts::{Kind, Parts};
use super::read::Start;
use crate::error::Result;
use crate::progress::check_interrupt;
use crate::tensors::Elements;

/// What is left of an eigenvector's residual, as a share of the largest eigenvalue.
const CLOSE: f64 = 1e-12;
/// What is left of a vector that depends on others.
const DEPENDENT: f64 = 1e-6;
/// Rows that a thread works on at a time.
const ROWS: usize = 64;

impl Adapter {
    /// What is taken from the tensor `name`, which is `weight` in the model: a product of the
    /// adapter's rank, with its sign. Memory: 4 bytes for each element of the tensor, and 8 for each
    /// of some hundreds of its rows or columns.
    ///
    /// # Errors
    /// Columns that depend on each other, so that there is no one product; the user's wish to stop.
    pub(super) fn begun(
        &self,
        name: &str,
        parts: &Parts,
        weight: &dyn Elements,
    ) -> Result<Option<LowRank>> {
        let start = self.settings.start;
        // PEFT begins with the other tensors as they are.
        if start == Start::Plain || !matches!(parts.kind, Kind::Linear | Kind::Transposed) {
            return Ok(None);
        }
        let half = |half: &Option<String>, at: usize| -> usize {
            let shape = half.as_ref().map_or(&[][..], |name| self.shape(name));
            shape.get(at).copied().unwrap_or(1)
        };
        let columns = match parts.kind {
            Kind::Transposed => half(&parts.b, 0),
            _ => half(&parts.a, 1),
        };
        let mut values = vec![0.0; weight.len()];
        let pieces = values.par_chunks_mut(columns * ROWS).enumerate();
        pieces.for_each(|(at, out)| weight.read(at * columns * ROWS, out));
        let matrix = Matrix { values, columns };
        let rank = parts.rank;
        let (scale, left) = match start {
            Start::Olora => match first_columns(&matrix, rank) {
                Some(basis) => (-parts.scale as f32, basis),
                None => {
                    return Err(self.unfit(format!(
                        "field `init_lora_weights`: the first {rank} columns of `{name}` depend on \
                         each other: what an OLoRA adapter began with cannot be found again"
                    )));
                }
            },
            _ => (-1.0, principal(&matrix, rank)?),
        };
        let right: Vec<f32> = left
            .iter()
            .flat_map(|vector| matrix.transposed_times(vector))
            .map(|value| value as f32)
            .collect();
        let rows = matrix.values.len() / columns;
        let left = (0..rows).flat_map(|row| left.iter().map(move |vector| vector[row] as f32));
        Ok(Some(LowRank::new(
            scale,
            rank,
            right,
            left.collect(),
            false,
        )))
    }
}

/// Rows of `columns` numbers.
struct Matrix {
    values: Vec<f32>,
    columns: usize,
}

impl Matrix {
    /// The product with a column.
    fn times(&self, x: &[f64]) -> Vec<f64> {
        let row = |row: &[f32]| row.iter().zip(x).map(|(a, b)| f64::from(*a) * b).sum();
        self.values.par_chunks(self.columns).map(row).collect()
    }

    /// The product of the transpose with a column. The result does not depend on threads.
    fn transposed_times(&self, x: &[f64]) -> Vec<f64> {
        let pieces = self.values.par_chunks(self.columns * ROWS);
        let pieces: Vec<Vec<f64>> = pieces
            .zip(x.par_chunks(ROWS))
            .map(|(rows, x)| {
                let mut sum = vec![0.0; self.columns];
                for (row, factor) in rows.chunks_exact(self.columns).zip(x) {
                    for (sum, value) in sum.iter_mut().zip(row) {
                        *sum += factor * f64::from(*value);
                    }
                }
                sum
            })
            .collect();
        let mut sum = vec![0.0; self.columns];
        pieces.iter().for_each(|piece| along(&mut sum, 1.0, piece));
        sum
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// a += factor · b
fn along(a: &mut [f64], factor: f64, b: &[f64]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += factor * b);
}

/// Makes `vector` orthogonal to the orthonormal `basis`, in two rounds; returns its norm.
fn orthogonalise(vector: &mut [f64], basis: &[Vec<f64>]) -> f64 {
    for _ in 0..2 {
        for other in basis {
            let share = dot(other, vector);
            along(vector, -share, other);
        }
    }
    dot(vector, vector).sqrt()
}

/// An orthonormal basis of the first `rank` columns; `None` if they depend on each other.
fn first_columns(matrix: &Matrix, rank: usize) -> Option<Vec<Vec<f64>>> {
    let mut basis: Vec<Vec<f64>> = Vec::new();
    for column in 0..rank {
        let rows = matrix.values.chunks_exact(matrix.columns);
        let mut vector: Vec<f64> = rows.map(|row| f64::from(row[column])).collect();
        let before = dot(&vector, &vector).sqrt();
        let norm = orthogonalise(&mut vector, &basis);
        if norm <= DEPENDENT * before {
            return None;
        }
        vector.iter_mut().for_each(|value| *value /= norm);
        basis.push(vector);
    }
    Some(basis)
}

/// The left singular vectors of the `rank` largest singular values: Lanczos' method on W Wᵀ (Golub &
/// Van Loan, Matrix Computations, 10.1), with every vector orthogonalised against all before it.
/// Goes on until they are exact to `CLOSE`, or there are as many vectors as rows.
fn principal(matrix: &Matrix, rank: usize) -> Result<Vec<Vec<f64>>> {
    let rows = matrix.values.len() / matrix.columns;
    let mut basis: Vec<Vec<f64>> = Vec::new();
    let (mut diagonal, mut beside) = (Vec::new(), Vec::new());
    let mut next = fresh(rows, &basis);
    let mut check = (2 * rank + 16).min(rows);
    loop {
        check_interrupt()?;
        let mut image = matrix.times(&matrix.transposed_times(&next));
        diagonal.push(dot(&next, &image));
        basis.push(next);
        let norm = orthogonalise(&mut image, &basis);
        let whole = basis.len() == rows;
        if basis.len() == check || whole {
            let (values, vectors) = tridiagonal(&diagonal, &beside);
            let count = values.len();
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
            let largest = values[order[0]].max(f64::MIN_POSITIVE);
            order.truncate(rank);
            let missed = |at: &usize| norm * vectors[*at][count - 1].abs();
            if whole || order.iter().all(|at| missed(at) <= CLOSE * largest) {
                let combine = |at: &usize| {
                    let mut sum = vec![0.0; rows];
                    let terms = vectors[*at].iter().zip(&basis);
                    terms.for_each(|(factor, vector)| along(&mut sum, *factor, vector));
                    sum
                };
                return Ok(order.par_iter().map(combine).collect());
            }
            check = (check + check / 2).min(rows);
        }
        let size = diagonal.iter().copied().fold(0.0, f64::max);
        if norm > 1e-14 * size {
            image.iter_mut().for_each(|value| *value /= norm);
            beside.push(norm);
            next = image;
        } else {
            // What was followed so far is closed in itself.
            beside.push(0.0);
            next = fresh(rows, &basis);
        }
    }
}

/// A vector of length 1 that is orthogonal to the `basis`; the same every time.
fn fresh(size: usize, basis: &[Vec<f64>]) -> Vec<f64> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ basis.len() as u64;
    loop {
        let number = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        };
        let mut vector: Vec<f64> = (0..size).map(number).collect();
        let before = dot(&vector, &vector).sqrt();
        let norm = orthogonalise(&mut vector, basis);
        if norm > 1e-10 * before {
            vector.iter_mut().for_each(|value| *value /= norm);
            return vector;
        }
    }
}

/// Eigenvalues and eigenvectors of a symmetric matrix with numbers on its diagonal and beside it: the
/// QL method with implicit shifts (Golub & Van Loan, 8.3).
fn tridiagonal(diagonal: &[f64], beside: &[f64]) -> (Vec<f64>, Vec<Vec<f64>>) {
    let size = diagonal.len();
    let (mut d, mut e) = (diagonal.to_vec(), beside.to_vec());
    e.resize(size, 0.0);
    let mut vectors = vec![vec![0.0; size]; size];
    (0..size).for_each(|i| vectors[i][i] = 1.0);
    for l in 0..size {
        // Each eigenvalue takes two or three rounds.
        for _ in 0..60 {
            let small = |m: &usize| e[*m].abs() <= f64::EPSILON * (d[*m].abs() + d[m + 1].abs());
            let m = (l..size - 1).find(small).unwrap_or(size - 1);
            if m == l {
                break;
            }
            let first = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let mut g = d[m] - d[l] + e[l] / (first + first.hypot(1.0).copysign(first));
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut broken = false;
            for i in (l..m).rev() {
                let (f, b) = (s * e[i], c * e[i]);
                let r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= p;
                    e[m] = 0.0;
                    broken = true;
                    break;
                }
                (s, c) = (f / r, g / r);
                g = d[i + 1] - p;
                let r = (d[i] - g) * s + 2.0 * c * b;
                p = s * r;
                d[i + 1] = g + p;
                g = c * r - b;
                let (low, high) = vectors.split_at_mut(i + 1);
                for (x, y) in low[i].iter_mut().zip(high[0].iter_mut()) {
                    (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                }
            }
            if !broken {
                d[l] -= p;
                e[l] = g;
                e[m] = 0.0;
            }
        }
    }
    (d, vectors)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, columns: usize, rank: usize) -> Matrix {
        let number = |at: usize| (at * 7919 % 1009) as f32 / 1009.0 - 0.5;
        let values = (0..rows * columns).map(|at| {
            let (row, column) = (at / columns, at % columns);
            (0..rank)
                .map(|k| {
                    number(row * rank + k + 1) * number(column * rank + k + 5003) / (k + 1) as f32
                })
                .sum()
        });
        Matrix {
            values: values.collect(),
            columns,
        }
    }

    /// The share of the matrix along `basis`, and what is left of it.
    fn along_basis(matrix: &Matrix, basis: &[Vec<f64>]) -> (f64, f64) {
        let share = basis.iter().map(|vector| {
            let image = matrix.transposed_times(vector);
            dot(&image, &image)
        });
        let whole: f64 = matrix.values.iter().map(|x| f64::from(*x).powi(2)).sum();
        let share = share.sum();
        (share, whole - share)
    }

    #[test]
    fn principal_parts_by_hand_and_of_matrices_of_low_rank() {
        // diag(3, 2, 1), rows exchanged.
        let values = vec![0.0, 2.0, 0.0, 0.0, 0.0, 1.0, 3.0, 0.0, 0.0];
        let found = principal(&Matrix { values, columns: 3 }, 2).unwrap();
        for (vector, row) in found.iter().zip([2, 0]) {
            assert!((vector[row].abs() - 1.0).abs() < 1e-12, "{found:?}");
        }
        for (rows, columns) in [(9, 30), (30, 9), (70, 50), (5, 5)] {
            let matrix = matrix(rows, columns, 3);
            let (share, left) = along_basis(&matrix, &principal(&matrix, 3).unwrap());
            assert!(left.abs() < 1e-9 * share, "{rows} {columns}: {left}");
        }
        let zero = Matrix {
            values: vec![0.0; 12],
            columns: 3,
        };
        assert_eq!(principal(&zero, 2).unwrap().len(), 2);
    }

    /// No other directions have a larger share: eigenvectors of W Wᵀ, each an image of itself.
    #[test]
    fn principal_vectors_are_eigenvectors_with_the_largest_values() {
        let matrix = matrix(120, 90, 80);
        let found = principal(&matrix, 6).unwrap();
        let mut last = f64::INFINITY;
        for vector in &found {
            let image = matrix.times(&matrix.transposed_times(vector));
            let value = dot(vector, &image);
            let mut missed = image;
            along(&mut missed, -value, vector);
            assert!(dot(&missed, &missed).sqrt() < 1e-10, "{missed:?}");
            assert!(value <= last + 1e-12);
            last = value;
        }
        // The rest of the matrix has no direction that is larger: power iteration.
        let mut x = fresh(120, &found);
        let mut value = 0.0;
        for _ in 0..300 {
            let mut image = matrix.times(&matrix.transposed_times(&x));
            value = orthogonalise(&mut image, &found);
            image.iter_mut().for_each(|number| *number /= value);
            x = image;
        }
        assert!(value <= last * (1.0 + 1e-9), "{value} {last}");
    }

    #[test]
    fn first_columns_are_spanned_or_depend() {
        let matrix = Matrix {
            values: vec![3.0, 1.0, 5.0, 4.0, 1.0, 5.0, 0.0, 1.0, 5.0],
            columns: 3,
        };
        let basis = first_columns(&matrix, 2).unwrap();
        assert!((dot(&basis[0], &basis[1])).abs() < 1e-15);
        assert!((basis[0][0] - 0.6).abs() < 1e-12 && (basis[0][1] - 0.8).abs() < 1e-12);
        assert!(first_columns(&matrix, 3).is_none());
    }
}
