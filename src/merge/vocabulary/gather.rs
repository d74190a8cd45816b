//! A model's tensor with its rows in the order of the output's tokens, read row by row.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::place::{Fill, Placement, Row};
use crate::error::Result;
use crate::progress::check_interrupt;
use crate::tensors::Elements;

/// Parts that the mean is summed over; fixed, so that the threads have no say in the result.
const PARTS: usize = 64;

/// The tensor of model `at` as the output's vocabulary has it.
pub(in crate::merge) struct Gathered<'a, T> {
    /// The tensors of all models as they are stored, in the placement's order.
    inputs: &'a [T],
    placement: &'a Placement,
    at: usize,
    /// Elements of a row.
    columns: usize,
    /// What rows without a token hold; empty if there is none.
    padding: Arc<Vec<f32>>,
}

impl<'a, T: Elements> Gathered<'a, T> {
    /// All models' tensors, with rows of `columns` elements. Reads a model's tensor once if it has
    /// rows without a token. Memory: 64 rows as `f64`, then one as `f32` for each model.
    ///
    /// # Errors
    ///
    /// The user's wish to stop.
    pub fn all(inputs: &'a [T], placement: &'a Placement, columns: usize) -> Result<Vec<Self>> {
        (0..inputs.len())
            .map(|at| {
                let mut gathered = Self {
                    inputs,
                    placement,
                    at,
                    columns,
                    padding: Arc::default(),
                };
                if placement.rows[at].contains(&Row::Padding) {
                    gathered.padding = Arc::new(gathered.mean()?);
                }
                Ok(gathered)
            })
            .collect()
    }

    fn rows(&self) -> &'a [Row] {
        &self.placement.rows[self.at]
    }

    /// The mean of the rows that stand for a token.
    fn mean(&self) -> Result<Vec<f32>> {
        let rows = self.rows();
        let parts = (0..PARTS)
            .into_par_iter()
            .map(|part| {
                check_interrupt()?;
                let mut sum = vec![0f64; self.columns];
                let mut values = vec![0f32; self.columns];
                let range = part * rows.len() / PARTS..(part + 1) * rows.len() / PARTS;
                for row in range.clone().filter(|row| rows[*row] != Row::Padding) {
                    self.read(row * self.columns, &mut values);
                    for (sum, value) in sum.iter_mut().zip(&values) {
                        *sum += f64::from(*value);
                    }
                }
                self.done(range.start * self.columns..range.end * self.columns);
                Ok(sum)
            })
            .collect::<Result<Vec<_>>>()?;
        let count = rows.iter().filter(|row| **row != Row::Padding).count();
        let mean = |column: usize| {
            let sum: f64 = parts.iter().map(|part| part[column]).sum();
            (sum / count.max(1) as f64) as f32
        };
        Ok((0..self.columns).map(mean).collect())
    }

    /// Reads a part of one row that is not the model's own.
    fn fill(&self, fill: &Fill, column: usize, out: &mut [f32]) {
        let place = |row: u32| row as usize * self.columns + column;
        match fill {
            Fill::Zero => out.fill(0.0),
            Fill::One(model, row) => self.inputs[*model].read(place(*row), out),
            Fill::Mean(sources) => {
                let mut values = vec![0.0; out.len()];
                out.fill(0.0);
                for (model, row) in sources {
                    self.inputs[*model].read(place(*row), &mut values);
                    for (out, value) in out.iter_mut().zip(&values) {
                        *out += value;
                    }
                }
                let count = sources.len() as f32;
                out.iter_mut().for_each(|value| *value /= count);
            }
        }
    }
}

/// How many rows from the first of `rows` on lie one after the other in the model, too.
fn run(rows: &[Row]) -> usize {
    let follows = |pair: &[Row]| match pair {
        [Row::Own(a), Row::Own(b)] => a.checked_add(1) == Some(*b),
        _ => false,
    };
    1 + rows.windows(2).take_while(|pair| follows(pair)).count()
}

impl<T: Elements> Elements for Gathered<'_, T> {
    fn len(&self) -> usize {
        self.rows().len() * self.columns
    }

    fn read(&self, start: usize, out: &mut [f32]) {
        if out.is_empty() {
            return;
        }
        let (mut row, mut column) = (start / self.columns, start % self.columns);
        let mut out = out;
        while !out.is_empty() {
            let wanted = (column + out.len()).div_ceil(self.columns);
            let rows = run(&self.rows()[row..row + wanted]);
            let width = (rows * self.columns - column).min(out.len());
            let (here, rest) = out.split_at_mut(width);
            match self.rows()[row] {
                Row::Own(own) => {
                    self.inputs[self.at].read(own as usize * self.columns + column, here);
                }
                Row::Fill(fill) => self.fill(&self.placement.fills[fill as usize], column, here),
                Row::Padding => here.copy_from_slice(&self.padding[column..column + width]),
            }
            row += rows;
            column = 0;
            out = rest;
        }
    }

    fn done(&self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let mut row = range.start / self.columns;
        let end = range.end.div_ceil(self.columns).min(self.rows().len());
        while row < end {
            let rows = run(&self.rows()[row..end]);
            if let Row::Own(own) = self.rows()[row] {
                let own = own as usize;
                self.inputs[self.at].done(own * self.columns..(own + rows) * self.columns);
            }
            row += rows;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_by_hand_in_any_piece() {
        let models = [
            vec![1.0, 2.0, 3.0, 4.0],
            vec![10.0, 20.0, 30.0, 40.0, 50.0, 60.0],
        ];
        let placement = Placement {
            rows: vec![
                vec![
                    Row::Own(0),
                    Row::Own(1),
                    Row::Fill(1),
                    Row::Fill(0),
                    Row::Padding,
                ],
                vec![
                    Row::Own(2),
                    Row::Fill(2),
                    Row::Own(0),
                    Row::Own(1),
                    Row::Padding,
                ],
            ],
            fills: vec![
                Fill::Mean(vec![(0, 1), (1, 0)]),
                Fill::One(1, 2),
                Fill::Zero,
            ],
        };
        let expected = [
            vec![1.0, 2.0, 3.0, 4.0, 50.0, 60.0, 6.5, 12.0, 15.125, 19.5],
            vec![50.0, 60.0, 0.0, 0.0, 10.0, 20.0, 30.0, 40.0, 22.5, 30.0],
        ];
        let all = Gathered::all(&models, &placement, 2).unwrap();
        for (gathered, expected) in all.iter().zip(&expected) {
            assert_eq!(gathered.len(), 10);
            for start in 0..10 {
                for end in start..=10 {
                    let mut out = vec![f32::NAN; end - start];
                    gathered.read(start, &mut out);
                    assert_eq!(out, expected[start..end], "{start}..{end}");
                    gathered.done(start..end);
                }
            }
        }
    }
}
