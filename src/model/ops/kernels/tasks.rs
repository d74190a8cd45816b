//! Rows, spread over the thread pool.

use rayon::prelude::*;

/// Elements per parallel task: enough to hide the cost of a task.
const TASK: usize = 1 << 14;

/// Rows of `width` elements that one task should take.
pub(super) fn rows_per_task(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

/// Runs `f(row index, row)` over the rows of `out`.
pub fn for_rows(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = rows_per_task(width);
    if out.len() <= TASK {
        for (row, values) in out.chunks_exact_mut(width).enumerate() {
            f(row, values);
        }
        return;
    }
    out.par_chunks_mut(rows * width)
        .enumerate()
        .for_each(|(task, chunk)| {
            for (row, values) in chunk.chunks_exact_mut(width).enumerate() {
                f(task * rows + row, values);
            }
        });
}

/// Adds `values` to `sum`.
pub fn add(sum: &mut [f32], values: &[f32]) {
    let pairs = sum.par_chunks_mut(TASK).zip(values.par_chunks(TASK));
    pairs.for_each(|(sum, values)| {
        sum.iter_mut()
            .zip(values)
            .for_each(|(sum, value)| *sum += value);
    });
}

/// Adds `row` to each row of `out`.
pub fn add_to_rows(out: &mut [f32], row: &[f32]) {
    for_rows(out, row.len().max(1), |_, out| {
        out.iter_mut()
            .zip(row)
            .for_each(|(out, value)| *out += value);
    });
}

/// The sum of all rows of `width` elements.
pub fn sum_of_rows(values: &[f32], width: usize) -> Vec<f32> {
    let plus = |mut sum: Vec<f32>, row: &[f32]| {
        sum.iter_mut()
            .zip(row)
            .for_each(|(sum, value)| *sum += value);
        sum
    };
    // One partial sum per task, added in order: the same bits for any number of threads.
    let parts: Vec<Vec<f32>> = values
        .par_chunks(rows_per_task(width) * width.max(1))
        .map(|rows| rows.chunks_exact(width.max(1)).fold(vec![0.0; width], plus))
        .collect();
    let parts = parts.iter().map(Vec::as_slice);
    parts.fold(vec![0.0; width], plus)
}

/// Runs `f(row index, row of a, row of b)` over two outputs with rows of the same width.
pub fn for_rows2(
    a: &mut [f32],
    b: &mut [f32],
    width: usize,
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    let rows = rows_per_task(width);
    a.par_chunks_mut(rows * width)
        .zip(b.par_chunks_mut(rows * width))
        .enumerate()
        .for_each(|(task, (a, b))| {
            let pairs = a.chunks_exact_mut(width).zip(b.chunks_exact_mut(width));
            for (row, (a, b)) in pairs.enumerate() {
                f(task * rows + row, a, b);
            }
        });
}
