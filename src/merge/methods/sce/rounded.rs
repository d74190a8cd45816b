//! SCE with mergekit's rounding: every intermediate in the configured dtype.

use std::ops::Range;

use super::selection::shares;
use crate::error::Result;
use crate::merge::arithmetic::{
    Cutoff, Inputs, Job, Keyed, Outcome, Output, Remark, Tiles, Walk, Wanted, norms,
};
use crate::merge::methods::method::Kernel;
use crate::tensors::Dtype;

/// mergekit takes uniform coefficients where the mean squares sum to less than this.
const SMALL: f64 = 1e-6;

/// The coefficients η, and whether mergekit falls back to uniform ones.
fn coefficients(squares: &[f64], len: usize, dtype: Dtype) -> (Vec<f64>, bool) {
    let round = |x: f64| f64::from(dtype.round(x as f32));
    let means: Vec<f64> = squares.iter().map(|s| round(s / len as f64)).collect();
    let total = round(means.iter().sum());
    let uniform = total < SMALL;
    let share = |mean: &f64| match uniform {
        true => round(1.0 / means.len() as f64),
        false => round(mean / total),
    };
    (means.iter().map(share).collect(), uniform)
}

struct Pass<'a> {
    walk: Walk,
    inputs: &'a Inputs<'a>,
    dtype: Dtype,
}

impl Pass<'_> {
    /// Reads a tile as updates.
    fn read(&self, range: &Range<usize>, tiles: &mut Tiles) {
        tiles.read(self.inputs, range);
        let round = |x: f32| self.dtype.round(x);
        tiles.base.iter_mut().for_each(|x| *x = round(*x));
        for tile in &mut tiles.models {
            for (x, base) in tile.iter_mut().zip(&tiles.base) {
                *x = round(round(*x) - base);
            }
        }
    }

    /// The bits of the variance of the updates at each position, in `tiles.keys`.
    fn variances(&self, tiles: &mut Tiles) {
        let n = tiles.models.len() as f64;
        tiles.keys.clear();
        for at in 0..tiles.base.len() {
            let deltas = || tiles.models.iter().map(|model| f64::from(model[at]));
            let mean = deltas().sum::<f64>() / n;
            let variance = deltas().map(|d| (d - mean) * (d - mean)).sum::<f64>() / n;
            tiles.keys.push(self.dtype.round(variance as f32).to_bits());
        }
    }

    fn select(&self, share: f64) -> Result<Cutoff> {
        let nonzero = self.walk.sum(self.inputs, 1, |at, tiles, sums| {
            for range in self.walk.tiles(at) {
                self.read(&range, tiles);
                self.variances(tiles);
                sums[0] += tiles.keys.iter().filter(|key| **key != 0).count() as f64;
            }
            Ok(())
        })?[0];
        let wanted = [Wanted {
            stream: 0,
            count: (nonzero * share) as u64,
        }];
        let keys =
            |range: &Range<usize>, tiles: &mut Tiles, each: &mut dyn FnMut(usize, &[u32])| {
                self.read(range, tiles);
                self.variances(tiles);
                each(0, &tiles.keys);
            };
        let cutoffs = Keyed::new(&self.walk, self.inputs, &keys).select(&wanted)?;
        Ok(cutoffs.first().copied().unwrap_or(Cutoff::NONE))
    }

    /// Reads a tile as updates, zero where a position is not selected; counts those that are.
    fn masked(&self, cutoff: Cutoff, range: &Range<usize>, tiles: &mut Tiles) -> u32 {
        self.read(range, tiles);
        if cutoff == Cutoff::ALL {
            return range.len() as u32;
        }
        self.variances(tiles);
        let mut selected = 0;
        for (at, index) in range.clone().enumerate() {
            if cutoff.selects(tiles.keys[at], index) {
                selected += 1;
            } else {
                tiles.models.iter_mut().for_each(|model| model[at] = 0.0);
            }
        }
        selected
    }

    /// Leaves base + Σ η δ″ / Σ η kept in `merged`; counts the entries that were kept.
    fn erase(&self, tiles: &mut Tiles, eta: &[f32], kept: &mut [f64]) {
        let round = |x: f32| self.dtype.round(x);
        for at in 0..tiles.merged.len() {
            let total: f32 = tiles.models.iter().map(|model| model[at]).sum();
            let (mut moved, mut divisor) = (0.0, 0.0);
            for ((model, eta), kept) in tiles.models.iter().zip(eta).zip(kept.iter_mut()) {
                let delta = model[at];
                if delta != 0.0 && (delta > 0.0) == (total >= 0.0) {
                    moved += round(eta * delta);
                    divisor += *eta;
                    *kept += 1.0;
                }
            }
            let update = round(round(moved) / round(divisor).max(1e-6));
            tiles.merged[at] = round(tiles.base[at] + update);
        }
    }
}

/// SCE as mergekit has it, with every intermediate rounded to the job's `compute_dtype`.
#[derive(Debug)]
pub struct Rounded {
    /// The share of the positions that vary which is selected.
    pub share: f64,
}

impl Kernel for Rounded {
    fn passes(&self) -> u64 {
        4
    }

    fn selects(&self) -> bool {
        true
    }

    fn merge(&self, job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
        let n = job.count();
        let pass = Pass {
            walk: job.walk,
            inputs: &job.inputs,
            dtype: job.compute_dtype,
        };
        let cutoff = match self.share < 1.0 {
            true => pass.select(self.share)?,
            false => Cutoff::ALL,
        };
        let mut sums = job.walk.sum(&job.inputs, n + 1, |at, tiles, sums| {
            for range in job.walk.tiles(at) {
                sums[n] += f64::from(pass.masked(cutoff, &range, tiles));
                for (sum, tile) in sums.iter_mut().zip(&tiles.models) {
                    let square = |x: &f32| f64::from(pass.dtype.round(x * x));
                    *sum += tile.iter().map(square).sum::<f64>();
                }
            }
            Ok(())
        })?;
        let selected = sums.pop().unwrap_or(0.0);
        let (coefficients, uniform) = coefficients(&sums, job.walk.len, pass.dtype);
        let eta: Vec<f32> = coefficients.iter().map(|c| *c as f32).collect();
        let sums = job
            .walk
            .produce(&job.inputs, output, 2 * n, |range, tiles, sums| {
                pass.read(range, tiles);
                norms(tiles, &mut sums[n..]);
                pass.masked(cutoff, range, tiles);
                pass.erase(tiles, &eta, &mut sums[..n]);
            })?;
        let (kept, squares) = (&sums[..n], &sums[n..2 * n]);
        let shares = shares(&coefficients, selected, kept, squares, job.walk.len);
        let remark = (uniform && selected > 0.0).then_some(Remark::Uniform);
        Ok(Outcome::new(shares, sums.last()).with(remark))
    }
}
