//! Methods with an angle of their own for each row (or column).
//!
//! Memory: one tile of whole rows per model and thread; for columns also 24 bytes per column.

use rayon::prelude::*;

use super::super::blocks::{Tiles, pair};
use super::super::vector::dot;
use super::affine::{norms, spherical, stock};
use super::{Job, Outcome, Output, Result, Share};
use crate::progress::check_interrupt;

/// NuSLERP with `nuslerp_flatten: false`: angles along the last dimension or, with
/// `nuslerp_row_wise: true`, along the first one.
pub(super) fn nuslerp(job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
    let weights = job.weights();
    let total = weights[0] + weights[1];
    let t = if total.abs() < 1e-6 {
        0.5
    } else {
        weights[1] / total
    };
    if job.values.flag("nuslerp_row_wise") && !job.vector {
        return by_column(job, t, output);
    }
    let row = job.walk.row;
    let walk = job.walk.by_rows();
    let sums = walk.produce(&job.inputs, output, 3, |range, tiles, sums| {
        tiles.read_deltas(&job.inputs, range);
        norms(tiles, sums);
        for start in (0..range.len()).step_by(row) {
            let at = start..(start + row).min(range.len());
            let (a, b) = (&tiles.models[0][at.clone()], &tiles.models[1][at.clone()]);
            let factors = spherical(t, dot(a, a), dot(b, b), dot(a, b));
            sums[2] += factors[1];
            let (x, y) = (factors[0] as f32, factors[1] as f32);
            let base = &tiles.base[at.clone()];
            let merged = &mut tiles.merged[at];
            for (((out, a), b), base) in merged.iter_mut().zip(a).zip(b).zip(base) {
                *out = x * a + y * b + base;
            }
        }
    })?;
    let rows = walk.len.div_ceil(row) as f64;
    Ok(Outcome::new(
        both(&sums, 1.0 - sums[2] / rows, sums[2] / rows),
        sums.last(),
    ))
}

fn both(sums: &[f64], first: f64, second: f64) -> Vec<Share> {
    super::affine::shares(&[first, second], &sums[..2])
}

fn by_column(job: &Job<'_>, t: f64, output: &Output<'_>) -> Result<Outcome> {
    const STRIPE: usize = 256;
    let columns = job.walk.row;
    let rows = job.walk.len / columns;
    let inputs = &job.inputs;
    // (a·a, b·b, a·b) of every column, by stripes of columns: each stripe reads all rows in
    // order, so that the sums do not depend on the threads.
    let factors: Vec<(f32, f32)> = (0..columns.div_ceil(STRIPE))
        .into_par_iter()
        .map_init(
            || Tiles::empty(2),
            |tiles, stripe| -> Result<Vec<(f32, f32)>> {
                check_interrupt()?;
                let begin = stripe * STRIPE;
                let width = STRIPE.min(columns - begin);
                let mut sums = vec![[0.0f64; 3]; width];
                for row in 0..rows {
                    let at = row * columns + begin;
                    tiles.read_deltas(inputs, &(at..at + width));
                    let pairs = tiles.models[0].iter().zip(&tiles.models[1]);
                    for (sum, (a, b)) in sums.iter_mut().zip(pairs) {
                        let (a, b) = (f64::from(*a), f64::from(*b));
                        sum[0] += a * a;
                        sum[1] += b * b;
                        sum[2] += a * b;
                    }
                }
                Ok(sums
                    .iter()
                    .map(|[a, b, ab]| {
                        let f = spherical(t, *a, *b, *ab);
                        (f[0] as f32, f[1] as f32)
                    })
                    .collect())
            },
        )
        .collect::<Result<Vec<_>>>()?
        .concat();
    let sums = job.walk.produce(inputs, output, 2, |range, tiles, sums| {
        tiles.read_deltas(inputs, range);
        norms(tiles, sums);
        for (offset, out) in tiles.merged.iter_mut().enumerate() {
            let (x, y) = factors[(range.start + offset) % columns];
            let (a, b) = (tiles.models[0][offset], tiles.models[1][offset]);
            *out = x * a + y * b + tiles.base[offset];
        }
    })?;
    let mean = factors.iter().map(|f| f64::from(f.1)).sum::<f64>() / columns as f64;
    Ok(Outcome::new(both(&sums, 1.0 - mean, mean), sums.last()))
}

/// Model Stock with `filter_wise: true`: one interpolation ratio per row.
pub(super) fn model_stock(job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
    let n = job.count();
    let row = job.walk.row;
    let walk = job.walk.by_rows();
    let sums = walk.produce(&job.inputs, output, n + 1, |range, tiles, sums| {
        tiles.read_deltas(&job.inputs, range);
        norms(tiles, sums);
        for start in (0..range.len()).step_by(row) {
            let at = start..(start + row).min(range.len());
            let mut g = vec![0.0; n * (n + 1) / 2];
            for i in 0..n {
                for j in i..n {
                    let (a, b) = (&tiles.models[i][at.clone()], &tiles.models[j][at.clone()]);
                    g[pair(n, i, j)] = dot(a, b);
                }
            }
            let t = stock(n, &g);
            sums[n] += t / n as f64;
            let factor = (t / n as f64) as f32;
            for place in at {
                let update: f32 = tiles.models.iter().map(|model| model[place]).sum();
                tiles.merged[place] = tiles.base[place] + factor * update;
            }
        }
    })?;
    let coefficient = sums[n] / walk.len.div_ceil(row) as f64;
    let shares = super::affine::shares(&vec![coefficient; n], &sums[..n]);
    Ok(Outcome::new(shares, sums.last()))
}
