//! The update of a weight by an adapter: a product of two thin matrices, and DoRA's rows.
//!
//! The one place where W + s · B A is computed: for merging, for predicting, and for what training
//! writes. The result does not depend on the pieces in which a weight is updated.

use std::collections::BTreeMap;
use std::ops::Range;

use rayon::prelude::*;

use crate::tensors::Elements;
use crate::tensors::vector::{add, dot, scale};

/// The matrix s · B A, row by row; or a stack of such matrices.
pub struct LowRank {
    rank: usize,
    columns: usize,
    /// Rows of each matrix of the stack.
    height: usize,
    /// rank × columns, for each matrix.
    right: Vec<f32>,
    /// rows × rank, with the factor s in it.
    left: Vec<f32>,
}

/// The transpose of a matrix with rows of `columns`.
pub(super) fn flip(matrix: &[f32], columns: usize) -> Vec<f32> {
    let rows = matrix.len() / columns.max(1);
    (0..columns)
        .flat_map(|column| (0..rows).map(move |row| matrix[row * columns + column]))
        .collect()
}

/// A and some rows of B of one of so many experts: A is stored expert by expert, B term by term.
pub(super) fn of_expert(
    [a, b]: [&[f32]; 2],
    rank: usize,
    (expert, experts): (usize, usize),
    rows: Range<usize>,
) -> [Vec<f32>; 2] {
    let size = a.len() / experts;
    let terms = |row: usize| (0..rank).map(move |k| b[(row * rank + k) * experts + expert]);
    let a = a[expert * size..(expert + 1) * size].to_vec();
    [a, rows.flat_map(terms).collect()]
}

impl LowRank {
    /// From A (`rank` × in) and B (out × `rank`); `transposed` for (s · B A)ᵀ.
    pub fn new(scale: f32, rank: usize, a: Vec<f32>, b: Vec<f32>, transposed: bool) -> Self {
        let (right, left) = match transposed {
            true => (flip(&b, rank), flip(&a, a.len() / rank)),
            false => (a, b),
        };
        Self::stack(scale, rank, 1, (left, right))
    }

    /// A product for each of so many `experts`: A is experts · `rank` × in, expert by expert, B is
    /// out × `rank` · experts, term by term. `transposed` for (s · B A)ᵀ.
    pub fn experts(
        scale: f32,
        rank: usize,
        experts: usize,
        [a, b]: [Vec<f32>; 2],
        transposed: bool,
    ) -> Self {
        let (columns, rows) = (a.len() / (rank * experts), b.len() / (rank * experts));
        let factors = (0..experts).map(|expert| {
            let [a, b] = of_expert([&a, &b], rank, (expert, experts), 0..rows);
            match transposed {
                true => (flip(&a, columns), flip(&b, rank)),
                false => (b, a),
            }
        });
        let factors: (Vec<Vec<f32>>, Vec<Vec<f32>>) = factors.unzip();
        Self::stack(
            scale,
            rank,
            experts,
            (factors.0.concat(), factors.1.concat()),
        )
    }

    /// `left` is rows × `rank`, `right` is `rank` × columns for each of `count` matrices.
    fn stack(
        scale: f32,
        rank: usize,
        count: usize,
        (mut left, right): (Vec<f32>, Vec<f32>),
    ) -> Self {
        left.iter_mut().for_each(|value| *value *= scale);
        Self {
            rank,
            columns: right.len() / (rank * count),
            height: left.len() / (rank * count),
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
            let first = row / self.height * self.rank;
            for term in 0..self.rank {
                let begin = (first + term) * self.columns + column;
                let factor = self.left[row * self.rank + term];
                add(here, factor, &self.right[begin..begin + width]);
            }
            at += width;
            out = rest;
        }
    }
}

/// Elements that a thread updates at a time, about.
const PIECE: usize = 1 << 16;

/// The factors of DoRA.
enum Factors {
    Rows(Vec<f32>),
    Columns(Vec<f32>),
}

/// What an adapter makes of a weight W: W + s · B A, with each row scaled where the adapter is
/// DoRA's (arXiv:2402.09353, equation 5), and rows in place of its own.
pub struct Update {
    columns: usize,
    products: Vec<LowRank>,
    factors: Option<Factors>,
    /// By the row: where its numbers begin.
    places: BTreeMap<usize, usize>,
    lines: Vec<f32>,
}

impl Update {
    /// From s, A (rank × in) and B (out × rank): W + s · B A for W of out × in, or its transpose for
    /// one of in × out (`transposed`).
    pub fn new(scale: f32, rank: usize, [a, b]: [Vec<f32>; 2], transposed: bool) -> Self {
        Self::of(LowRank::new(scale, rank, a, b, transposed))
    }

    pub(super) fn of(product: LowRank) -> Self {
        Self {
            columns: product.columns,
            products: vec![product],
            factors: None,
            places: BTreeMap::new(),
            lines: Vec::new(),
        }
    }

    /// The rows `ids` are those of `lines`, of `columns` numbers; of equal ids the last counts.
    pub(super) fn rows(columns: usize, ids: &[u32], lines: Vec<f32>) -> Self {
        let places = ids.iter().enumerate();
        let places = places.map(|(at, id)| (*id as usize, at * columns));
        Self {
            columns,
            products: Vec::new(),
            factors: None,
            places: places.collect(),
            lines,
        }
    }

    /// Adds another product.
    pub(super) fn and(mut self, product: LowRank) -> Self {
        self.products.push(product);
        self
    }

    fn add(&self, start: usize, out: &mut [f32]) {
        self.products
            .iter()
            .for_each(|product| product.add(start, out));
    }

    /// Gives each row of the updated `weight`, or each column if it `flips`, the length that
    /// `lengths` has for it. Reads the weight once; norms are `f64` sums.
    pub(super) fn with_lengths(
        mut self,
        weight: &dyn Elements,
        lengths: &[f32],
        flips: bool,
    ) -> Self {
        let columns = self.columns;
        let row_of = |row: usize| {
            let mut values = vec![0.0; columns];
            weight.read(row * columns, &mut values);
            self.add(row * columns, &mut values);
            values
        };
        let factor = |length: f32, square: f64| (f64::from(length) / square.sqrt()) as f32;
        self.factors = Some(match flips {
            false => {
                let rows = lengths.par_iter().enumerate().map(|(row, length)| {
                    let values = row_of(row);
                    factor(*length, dot(&values, &values))
                });
                Factors::Rows(rows.collect())
            }
            true => {
                // Some rows at a time, summed in their order: the result does not depend on threads.
                let pieces: Vec<Vec<f64>> = (0..weight.len() / columns.max(1))
                    .collect::<Vec<_>>()
                    .par_chunks(256)
                    .map(|rows| squares(rows.iter().map(|row| row_of(*row)), columns))
                    .collect();
                let sums = (0..columns).map(|at| pieces.iter().map(|piece| piece[at]).sum::<f64>());
                let factors = lengths.iter().zip(sums);
                Factors::Columns(factors.map(|(length, sum)| factor(*length, sum)).collect())
            }
        });
        self
    }

    /// Turns the elements from `start` on into the updated ones.
    pub fn apply(&self, start: usize, out: &mut [f32]) {
        self.add(start, out);
        if self.factors.is_none() && self.places.is_empty() {
            return;
        }
        let columns = self.columns;
        let (mut at, mut rest) = (start, out);
        while !rest.is_empty() {
            let (row, column) = (at / columns, at % columns);
            let width = (columns - column).min(rest.len());
            let (here, after) = rest.split_at_mut(width);
            match &self.factors {
                None => {}
                Some(Factors::Rows(rows)) => scale(here, rows[row]),
                Some(Factors::Columns(factors)) => {
                    let factors = &factors[column..column + width];
                    here.iter_mut()
                        .zip(factors)
                        .for_each(|(value, factor)| *value *= factor);
                }
            }
            if let Some(begin) = self.places.get(&row) {
                here.copy_from_slice(&self.lines[begin + column..begin + column + width]);
            }
            at += width;
            rest = after;
        }
    }

    /// Turns all elements of a weight into the updated ones.
    pub fn apply_to_all(&self, values: &mut [f32]) {
        let pieces = values.par_chunks_mut(PIECE).enumerate();
        pieces.for_each(|(at, piece)| self.apply(at * PIECE, piece));
    }
}

/// The sums of the squares of each column of some rows.
fn squares(rows: impl Iterator<Item = Vec<f32>>, columns: usize) -> Vec<f64> {
    let mut sums = vec![0.0; columns];
    for row in rows {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += f64::from(value) * f64::from(value);
        }
    }
    sums
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
    fn experts_have_products_of_their_own() {
        // Two experts of rank 2, in 2, out 1. A = (1 2; 3 4) and (5 6; 7 8), B = (1 2) and (3 4):
        // (7 10) and (43 50). B is stored term by term.
        let a = vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        let b = vec![1.0, 3.0, 2.0, 4.0];
        for transposed in [false, true] {
            let product = LowRank::experts(2.0, 2, 2, [a.clone(), b.clone()], transposed);
            for start in 0..4 {
                let mut out = vec![0.0; 4 - start];
                product.add(start, &mut out);
                assert_eq!(out, [14.0, 20.0, 86.0, 100.0][start..], "{transposed}");
            }
        }
    }

    #[test]
    fn rows_get_their_lengths() {
        // (3 0; 0 1) + B A with A = (0 4), B = (1; 0): rows (3 4) and (0 1), lengths 10 and 2.
        let weight = vec![3.0, 0.0, 0.0, 1.0];
        let product = || LowRank::new(1.0, 1, vec![0.0, 4.0], vec![1.0, 0.0], false);
        let update = Update::of(product()).with_lengths(&weight, &[10.0, 2.0], false);
        let mut out = weight.clone();
        update.apply(0, &mut out);
        assert_eq!(out, [6.0, 8.0, 0.0, 2.0]);
        let mut piece = [0.0, 0.0];
        update.apply(1, &mut piece);
        assert_eq!(piece, [8.0, 0.0]);
        // Columns (3 0) and (4 1), lengths 6 and √17 · 2.
        let lengths = [6.0, 2.0 * 17f32.sqrt()];
        let update = Update::of(product()).with_lengths(&weight, &lengths, true);
        let mut out = weight.clone();
        update.apply(0, &mut out);
        assert_eq!(out, [6.0, 8.0, 0.0, 2.0]);
    }

    #[test]
    fn rows_are_replaced_in_any_piece() {
        let update = Update::rows(2, &[2, 0, 2], vec![9.0, 8.0, 7.0, 6.0, 5.0, 4.0]);
        let whole = [7.0, 6.0, 1.0, 1.0, 5.0, 4.0];
        for start in 0..6 {
            let mut out = vec![1.0; 6 - start];
            update.apply(start, &mut out);
            assert_eq!(out, whole[start..]);
        }
    }
}
