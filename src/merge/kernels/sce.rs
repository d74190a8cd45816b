//! SCE: select, calculate, erase (FuseChat, arXiv:2408.07990, section 3.2).

use std::ops::Range;

use super::super::blocks::{Inputs, Tiles, Walk, dot};
use super::super::select::{Cutoff, Wanted, select};
use super::affine::uniform_or_share;
use super::{Job, Outcome, Output, Remark, Result, Share};
use crate::tensors::Dtype;

/// Whose arithmetic is reproduced.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Compat {
    None,
    Mergekit,
    Fusechat,
}

/// mergekit takes uniform coefficients where the mean squares sum to less than this.
const MERGEKIT_SMALL: f64 = 1e-6;

struct Kernel<'a> {
    walk: Walk,
    inputs: &'a Inputs<'a>,
    compat: Compat,
    /// The dtype whose precision intermediates have; f32 unless mergekit is reproduced.
    dtype: Dtype,
    normalize: bool,
    cutoff: Cutoff,
}

impl Kernel<'_> {
    /// Reads a tile of updates.
    fn read(&self, range: &Range<usize>, tiles: &mut Tiles) {
        if self.dtype == Dtype::F32 {
            tiles.read_deltas(self.inputs, range);
            return;
        }
        tiles.read(self.inputs, range);
        let round = |x: f32| self.dtype.round(x);
        tiles.base.iter_mut().for_each(|x| *x = round(*x));
        for tile in &mut tiles.models {
            for (x, base) in tile.iter_mut().zip(&tiles.base) {
                *x = round(round(*x) - base);
            }
        }
    }

    /// The bit patterns of the population variance over the models at each position of a tile.
    fn variances(&self, models: &[Vec<f32>], keys: &mut [u32]) {
        const STRIP: usize = 16;
        let n = models.len() as f64;
        for (at, keys) in keys.chunks_mut(STRIP).enumerate() {
            let here = at * STRIP..at * STRIP + keys.len();
            let (mut mean, mut variance) = ([0f64; STRIP], [0f64; STRIP]);
            for model in models {
                for (mean, delta) in mean.iter_mut().zip(&model[here.clone()]) {
                    *mean += f64::from(*delta);
                }
            }
            mean.iter_mut().for_each(|mean| *mean /= n);
            for model in models {
                let model = model[here.clone()].iter();
                for ((variance, mean), delta) in variance.iter_mut().zip(&mean).zip(model) {
                    let distance = f64::from(*delta) - mean;
                    *variance += distance * distance;
                }
            }
            for (key, variance) in keys.iter_mut().zip(&variance) {
                *key = ((variance / n) as f32).to_bits();
            }
            if self.dtype != Dtype::F32 {
                for key in keys {
                    *key = self.dtype.round(f32::from_bits(*key)).to_bits();
                }
            }
        }
    }

    /// Zeroes the updates at positions that are not selected; returns how many are.
    fn mask(&self, range: &Range<usize>, tiles: &mut Tiles, keys: &mut Vec<u32>) -> usize {
        if self.cutoff == Cutoff::ALL {
            return range.len();
        }
        keys.resize(range.len(), 0);
        self.variances(&tiles.models, keys);
        let mut selected = 0;
        for (offset, key) in keys.iter_mut().enumerate() {
            let chosen = self.cutoff.selects(*key, range.start + offset);
            *key = if chosen { u32::MAX } else { 0 };
            selected += usize::from(chosen);
        }
        for tile in &mut tiles.models {
            for (delta, mask) in tile.iter_mut().zip(keys.iter()) {
                *delta = f32::from_bits(delta.to_bits() & mask);
            }
        }
        selected
    }

    /// The selection of the `share` most varied of the positions with non-zero variance.
    fn select(&self, share: f64) -> Result<Cutoff> {
        let wanted = [Wanted {
            stream: 0,
            count: Box::new(|nonzero| (nonzero as f64 * share) as u64),
        }];
        let cutoffs = select(&self.walk, self.inputs, 1, &wanted, |at, tiles, each| {
            let mut keys = Vec::new();
            for range in self.walk.tiles(at) {
                self.read(&range, tiles);
                keys.resize(range.len(), 0);
                self.variances(&tiles.models, &mut keys);
                each(0, range.start, &keys);
            }
            Ok(())
        })?;
        Ok(cutoffs.first().copied().unwrap_or(Cutoff::NONE))
    }

    /// Σ δ′² of each model, then the number of selected positions.
    fn sums(&self) -> Result<Vec<f64>> {
        let n = self.inputs.models.len();
        self.walk.sum(self.inputs, n + 1, |at, tiles, sums| {
            let mut keys = Vec::new();
            for range in self.walk.tiles(at) {
                self.read(&range, tiles);
                sums[n] += self.mask(&range, tiles, &mut keys) as f64;
                for (sum, tile) in sums.iter_mut().zip(&mut tiles.models) {
                    if self.dtype == Dtype::F32 {
                        *sum += dot(tile, tile);
                    } else {
                        let square = |x: &f32| f64::from(self.dtype.round(x * x));
                        *sum += tile.iter().map(square).sum::<f64>();
                    }
                }
            }
            Ok(())
        })
    }

    /// The coefficients η, and whether mergekit's fall back to uniform took place.
    fn coefficients(&self, squares: &[f64]) -> (Vec<f64>, bool) {
        if self.compat != Compat::Mergekit {
            return (uniform_or_share(squares.to_vec()), false);
        }
        let round = |x: f64| f64::from(self.dtype.round(x as f32));
        let means: Vec<f64> = squares
            .iter()
            .map(|s| round(s / self.walk.len as f64))
            .collect();
        let total = round(means.iter().sum());
        let uniform = total < MERGEKIT_SMALL;
        let share = |mean: &f64| match uniform {
            true => round(1.0 / means.len() as f64),
            false => round(mean / total),
        };
        (means.iter().map(share).collect(), uniform)
    }

    /// Leaves base + Σ η δ″ (/ Σ η kept) in `merged`; counts the entries that were kept.
    fn erase(&self, tiles: &mut Tiles, eta: &[f32], kept: &mut [f64]) {
        const STRIP: usize = 64;
        let Tiles {
            base,
            models,
            merged,
            ..
        } = tiles;
        let len = merged.len();
        let rounded = self.dtype != Dtype::F32;
        let round = |x: f32| if rounded { self.dtype.round(x) } else { x };
        let floor = if self.compat == Compat::Mergekit {
            1e-6
        } else {
            0.0
        };
        let mut counts = vec![0u32; models.len()];
        for start in (0..len).step_by(STRIP) {
            let here = start..(start + STRIP).min(len);
            let (mut total, mut moved, mut divisor) = ([0f32; STRIP], [0f32; STRIP], [0f32; STRIP]);
            for model in models.iter() {
                for (total, delta) in total.iter_mut().zip(&model[here.clone()]) {
                    *total += delta;
                }
            }
            for ((model, eta), count) in models.iter().zip(eta).zip(&mut counts) {
                for (i, delta) in model[here.clone()].iter().enumerate() {
                    let keep = *delta != 0.0 && (*delta > 0.0) == (total[i] >= 0.0);
                    moved[i] += if keep { round(eta * delta) } else { 0.0 };
                    divisor[i] += if keep { *eta } else { 0.0 };
                    *count += u32::from(keep);
                }
            }
            let places = merged[here.clone()].iter_mut().zip(&base[here]);
            for (i, (out, base)) in places.enumerate() {
                let mut update = round(moved[i]);
                if self.normalize {
                    let by = round(divisor[i]).max(floor);
                    update = if by > 0.0 { round(update / by) } else { 0.0 };
                }
                *out = round(base + update);
            }
        }
        for (kept, count) in kept.iter_mut().zip(counts) {
            *kept += f64::from(count);
        }
    }
}

/// Merges by SCE.
pub(super) fn merge(job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
    let n = job.count();
    let share = job.values.number("select_topk");
    let compat = match job.values.word("compat") {
        "mergekit" => Compat::Mergekit,
        "fusechat" => Compat::Fusechat,
        _ => Compat::None,
    };
    let one = n == 1 && share < 1.0 && compat != Compat::Mergekit;
    let mut kernel = Kernel {
        walk: job.walk,
        inputs: &job.inputs,
        compat,
        dtype: match compat {
            Compat::Mergekit => job.compute_dtype,
            _ => Dtype::F32,
        },
        normalize: compat == Compat::Mergekit || job.values.flag("normalize"),
        cutoff: Cutoff::ALL,
    };
    if share < 1.0 && !one {
        kernel.cutoff = kernel.select(share)?;
    }
    let mut sums = kernel.sums()?;
    let selected = sums.pop().unwrap_or(0.0);
    let (coefficients, uniform) = kernel.coefficients(&sums);
    let eta: Vec<f32> = coefficients.iter().map(|c| *c as f32).collect();
    // Per model: entries kept, then squared norms.
    let sums = job
        .walk
        .produce(&job.inputs, output, 2 * n, |range, tiles, sums| {
            kernel.read(range, tiles);
            super::affine::norms(tiles, &mut sums[n..]);
            if compat != Compat::Fusechat {
                kernel.mask(range, tiles, &mut Vec::new());
            }
            kernel.erase(tiles, &eta, &mut sums[..n]);
        })?;
    let len = job.walk.len.max(1) as f64;
    let shares = (0..n)
        .map(|j| Share {
            coefficient: coefficients[j],
            selected_fraction: selected / len,
            kept_fraction: sums[j] / len,
            delta_norm: sums[n + j].sqrt(),
        })
        .collect();
    let remark = match (one, uniform && selected > 0.0) {
        (true, _) => Some(Remark::OneTarget),
        (_, true) => Some(Remark::Uniform),
        _ => None,
    };
    Ok(Outcome::new(shares, sums.last()).with(remark))
}
