//! The update of a weight by an adapter: a product of two thin matrices, and DoRA's rows.

use rayon::prelude::*;

use super::arithmetic::vector::{add, dot, scale};
use crate::tensors::Elements;

/// The matrix s · B A, row by row.
pub(super) struct LowRank {
    rank: usize,
    columns: usize,
    /// rank × columns.
    right: Vec<f32>,
    /// rows × rank, with the factor s in it.
    left: Vec<f32>,
}

impl LowRank {
    /// From A (`rank` × in) and B (out × `rank`); `transposed` for (s · B A)ᵀ.
    pub fn new(scale: f32, rank: usize, a: Vec<f32>, b: Vec<f32>, transposed: bool) -> Self {
        let flip = |matrix: &[f32], columns: usize| -> Vec<f32> {
            let rows = matrix.len() / columns.max(1);
            (0..columns)
                .flat_map(|column| (0..rows).map(move |row| matrix[row * columns + column]))
                .collect()
        };
        let (right, mut left) = match transposed {
            true => (flip(&b, rank), flip(&a, a.len() / rank)),
            false => (a, b),
        };
        left.iter_mut().for_each(|value| *value *= scale);
        Self {
            columns: right.len() / rank,
            rank,
            right,
            left,
        }
    }

    /// Adds the elements from `start` on to `out`.
    pub fn add(&self, start: usize, out: &mut [f32]) {
        let mut at = start;
        let mut out = out;
        while !out.is_empty() {
            let (row, column) = (at / self.columns, at % self.columns);
            let width = (self.columns - column).min(out.len());
            let (here, rest) = out.split_at_mut(width);
            for term in 0..self.rank {
                let begin = term * self.columns + column;
                let factor = self.left[row * self.rank + term];
                add(here, factor, &self.right[begin..begin + width]);
            }
            at += width;
            out = rest;
        }
    }
}

/// What an adapter makes of a weight W: W + s · B A, with each row scaled where the adapter is
/// DoRA's (arXiv:2402.09353, equation 5).
pub(super) struct Update {
    product: LowRank,
    /// The factor of each row.
    rows: Option<Vec<f32>>,
}

impl Update {
    pub fn new(product: LowRank) -> Self {
        Self {
            product,
            rows: None,
        }
    }

    /// Gives each row of the updated `weight` the length `lengths` has for it. Reads the weight
    /// once; norms are `f64` sums.
    pub fn with_lengths(mut self, weight: &dyn Elements, lengths: &[f32]) -> Self {
        let columns = self.product.columns;
        let factor = |(row, length): (usize, &f32)| {
            let mut values = vec![0.0; columns];
            weight.read(row * columns, &mut values);
            self.product.add(row * columns, &mut values);
            (f64::from(*length) / dot(&values, &values).sqrt()) as f32
        };
        self.rows = Some(lengths.par_iter().enumerate().map(factor).collect());
        self
    }

    /// Turns the elements from `start` on into the updated ones.
    pub fn apply(&self, start: usize, out: &mut [f32]) {
        self.product.add(start, out);
        let Some(rows) = &self.rows else {
            return;
        };
        let columns = self.product.columns;
        let (mut at, mut rest) = (start, out);
        while !rest.is_empty() {
            let width = (columns - at % columns).min(rest.len());
            let (here, after) = rest.split_at_mut(width);
            scale(here, rows[at / columns]);
            at += width;
            rest = after;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_by_hand_in_any_piece() {
        // A 1 x 3 = (1, 2, 3), B 2 x 1 = (1, -1): (1 2 3; -1 -2 -3), times 2.
        let whole = [2.0, 4.0, 6.0, -2.0, -4.0, -6.0];
        let product = LowRank::new(2.0, 1, vec![1.0, 2.0, 3.0], vec![1.0, -1.0], false);
        for start in 0..6 {
            for end in start..=6 {
                let mut out = vec![1.0; end - start];
                product.add(start, &mut out);
                let expected: Vec<f32> = whole[start..end].iter().map(|x| x + 1.0).collect();
                assert_eq!(out, expected);
            }
        }
        let product = LowRank::new(2.0, 1, vec![1.0, 2.0, 3.0], vec![1.0, -1.0], true);
        let mut out = [0.0; 6];
        product.add(0, &mut out);
        assert_eq!(out, [2.0, -2.0, 4.0, -4.0, 6.0, -6.0]);
        // Rank 2: A = (1 2; 3 4), B = (1 1; 0 2): (4 6; 6 8).
        let a = vec![1.0, 2.0, 3.0, 4.0];
        let b = vec![1.0, 1.0, 0.0, 2.0];
        for (transposed, expected) in [(false, [4.0, 6.0, 6.0, 8.0]), (true, [4.0, 6.0, 6.0, 8.0])]
        {
            let mut out = [0.0; 4];
            LowRank::new(1.0, 2, a.clone(), b.clone(), transposed).add(0, &mut out);
            assert_eq!(out, expected);
        }
    }
    #[test]
    fn rows_get_their_lengths() {
        // (3 0; 0 1) + B A with A = (0 4), B = (1; 0): rows (3 4) and (0 1), lengths 10 and 2.
        let weight = vec![3.0, 0.0, 0.0, 1.0];
        let product = LowRank::new(1.0, 1, vec![0.0, 4.0], vec![1.0, 0.0], false);
        let update = Update::new(product).with_lengths(&weight, &[10.0, 2.0]);
        let mut out = weight.clone();
        update.apply(0, &mut out);
        assert_eq!(out, [6.0, 8.0, 0.0, 2.0]);
        let mut piece = [0.0, 0.0];
        update.apply(1, &mut piece);
        assert_eq!(piece, [8.0, 0.0]);
    }
}
