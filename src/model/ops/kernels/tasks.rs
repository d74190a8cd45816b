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
