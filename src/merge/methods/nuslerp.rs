//! Spherical interpolation of two models, or of their updates.
//!
//! Memory, where each row has an angle: one tile of whole rows per model and thread; where each
//! column (place of all dimensions but the first) has one: 24 bytes per column.

use rayon::prelude::*;

use super::method::{Base, Kernel, Method};
use super::parameter::{declare, flag, number};
use crate::error::Result;
use crate::merge::arithmetic::vector::dot;
use crate::merge::arithmetic::{
    Combination, Job, Outcome, Output, Remark, Tiles, gram, norms, pair, shares, spherical,
};
use crate::progress::check_interrupt;

pub const NUSLERP: Method = Method {
    name: "nuslerp",
    summary: "spherical interpolation of two models or, with a base model, of their updates",
    paper: "https://github.com/arcee-ai/mergekit/blob/main/docs/merge_methods.md#nuslerp",
    base: Base::Optional,
    models: (2, 2),
    parameters: NuSlerp::PARAMETERS,
    kernel: |configured| Ok(Box::new(NuSlerp::read(configured)?)),
};

declare! {
    struct NuSlerp {
        each {
            weight: f64 = number("the model's weight"),
        }
        all {
            nuslerp_flatten: bool = flag(
                true,
                "one angle for the whole tensor; else one for each row (or column)"
            ),
            nuslerp_row_wise: bool = flag(
                false,
                "with `nuslerp_flatten: false`: angles along the first dimension, not the last"
            ),
        }
    }
}

impl Kernel for NuSlerp {
    fn merge(&self, job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
        let total = self.weight[0] + self.weight[1];
        let t = match total.abs() < 1e-6 {
            true => 0.5,
            false => self.weight[1] / total,
        };
        let by_column = self.nuslerp_row_wise && job.shape.len() > 1;
        match (self.nuslerp_flatten, by_column) {
            (true, _) => whole(job, t, output),
            (false, false) => by_row(job, t, output),
            (false, true) => along_first(job, t, output),
        }
    }
}

/// One angle for the tensor.
fn whole(job: &Job<'_>, t: f64, output: &Output<'_>) -> Result<Outcome> {
    let g = gram(&job.walk, &job.inputs)?;
    let (factors, opposite) = spherical(t, g[pair(2, 0, 0)], g[pair(2, 1, 1)], g[pair(2, 0, 1)]);
    let combination = Combination {
        factors: factors.to_vec(),
        remark: opposite.then_some(Remark::Antipodal),
    };
    combination.write(job, output)
}

/// Angles along the last dimension. One pass.
fn by_row(job: &Job<'_>, t: f64, output: &Output<'_>) -> Result<Outcome> {
    let row = job.walk.row;
    let walk = job.walk.by_rows();
    let sums = walk.produce(&job.inputs, output, 4, |range, tiles, sums| {
        tiles.read_deltas(&job.inputs, range);
        norms(tiles, sums);
        for start in (0..range.len()).step_by(row) {
            let at = start..(start + row).min(range.len());
            let (a, b) = (&tiles.models[0][at.clone()], &tiles.models[1][at.clone()]);
            let (factors, opposite) = spherical(t, dot(a, a), dot(b, b), dot(a, b));
            sums[2] += factors[1];
            sums[3] += f64::from(u8::from(opposite));
            let (x, y) = (factors[0] as f32, factors[1] as f32);
            let base = &tiles.base[at.clone()];
            let merged = &mut tiles.merged[at];
            for (((out, a), b), base) in merged.iter_mut().zip(a).zip(b).zip(base) {
                *out = x * a + y * b + base;
            }
        }
    })?;
    let mean = sums[2] / walk.len.div_ceil(row) as f64;
    Ok(outcome(mean, &sums, sums[3] > 0.0))
}

/// The places of all dimensions but the first, each of which has an angle along the first one.
fn columns(job: &Job<'_>) -> usize {
    job.shape[1..].iter().product()
}

/// Angles along the first dimension. Two passes.
fn along_first(job: &Job<'_>, t: f64, output: &Output<'_>) -> Result<Outcome> {
    const STRIPE: usize = 256;
    let columns = columns(job);
    // By stripes of columns: each stripe reads all rows in order, so that the sums do not depend
    // on the threads.
    let factors: Vec<(f32, f32, bool)> = (0..columns.div_ceil(STRIPE))
        .into_par_iter()
        .map_init(
            || Tiles::empty(2),
            |tiles, stripe| {
                check_interrupt()?;
                let begin = stripe * STRIPE;
                let products = column_products(job, tiles, begin, STRIPE.min(columns - begin));
                let factors = products.iter().map(|[a, b, ab]| {
                    let ([x, y], opposite) = spherical(t, *a, *b, *ab);
                    (x as f32, y as f32, opposite)
                });
                Ok(factors.collect::<Vec<_>>())
            },
        )
        .collect::<Result<Vec<_>>>()?
        .concat();
    let sums = job
        .walk
        .produce(&job.inputs, output, 2, |range, tiles, sums| {
            tiles.read_deltas(&job.inputs, range);
            norms(tiles, sums);
            for (offset, out) in tiles.merged.iter_mut().enumerate() {
                let (x, y, _) = factors[(range.start + offset) % columns];
                let (a, b) = (tiles.models[0][offset], tiles.models[1][offset]);
                *out = x * a + y * b + tiles.base[offset];
            }
        })?;
    let mean = factors.iter().map(|f| f64::from(f.1)).sum::<f64>() / columns as f64;
    Ok(outcome(mean, &sums, factors.iter().any(|f| f.2)))
}

/// (a·a, b·b, a·b) of `width` columns from `begin` on.
fn column_products(job: &Job<'_>, tiles: &mut Tiles, begin: usize, width: usize) -> Vec<[f64; 3]> {
    let columns = columns(job);
    let mut sums = vec![[0.0f64; 3]; width];
    for row in 0..job.walk.len / columns {
        let at = row * columns + begin;
        tiles.read_deltas(&job.inputs, &(at..at + width));
        let pairs = tiles.models[0].iter().zip(&tiles.models[1]);
        for (sum, (a, b)) in sums.iter_mut().zip(pairs) {
            let (a, b) = (f64::from(*a), f64::from(*b));
            sum[0] += a * a;
            sum[1] += b * b;
            sum[2] += a * b;
        }
    }
    sums
}

/// With the mean factor of the second model, and whether anything was opposite.
fn outcome(mean: f64, sums: &[f64], opposite: bool) -> Outcome {
    let remark = opposite.then_some(Remark::Antipodal);
    Outcome::new(shares(&[1.0 - mean, mean], &sums[..2]), sums.last()).with(remark)
}
