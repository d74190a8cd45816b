//! SCE: select, calculate, erase (FuseChat, arXiv:2408.07990, section 3.2).

use std::ops::Range;

use super::super::blocks::{Inputs, Tiles, Walk, dot};
use super::super::select::{Found, Wanted, thresholds};
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

/// At most so many positions whose variances agree in `f32` are told apart by `f64` variances
/// (64 MiB); where more do, the lowest indices are selected.
const TOLD_APART: u64 = 1 << 22;

/// Which positions are selected: those with a variance above `key` (bits of an `f32`), and of
/// those that equal it the ones above `fine` (bits of an `f64`) or, where they equal that too,
/// before index `end`. Where `fine` is `u64::MAX`, all with this key before `end`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Selection {
    key: u32,
    fine: u64,
    end: usize,
}

impl Selection {
    const ALL: Self = Self {
        key: 0,
        fine: 0,
        end: usize::MAX,
    };
    const NONE: Self = Self {
        key: u32::MAX,
        fine: u64::MAX,
        end: 0,
    };

    #[inline(always)]
    fn selects(self, variance: f64, key: u32, index: usize) -> bool {
        if key != self.key {
            return key > self.key;
        }
        let fine = variance.to_bits();
        if self.fine == u64::MAX {
            return index < self.end;
        }
        fine > self.fine || (fine == self.fine && index < self.end)
    }
}

/// The variances of a tile, in `f64` and as the bit patterns of their `f32` values.
#[derive(Default)]
struct Variances {
    exact: Vec<f64>,
    keys: Vec<u32>,
}

struct Kernel<'a> {
    walk: Walk,
    inputs: &'a Inputs<'a>,
    compat: Compat,
    /// The dtype whose precision intermediates have; f32 unless mergekit is reproduced.
    dtype: Dtype,
    normalize: bool,
    selection: Selection,
}

impl Kernel<'_> {
    /// Reads a tile; with mergekit's rounding the models already as updates.
    fn read(&self, range: &Range<usize>, tiles: &mut Tiles) {
        tiles.read(self.inputs, range);
        if self.dtype == Dtype::F32 {
            return;
        }
        let round = |x: f32| self.dtype.round(x);
        tiles.base.iter_mut().for_each(|x| *x = round(*x));
        for tile in &mut tiles.models {
            for (x, base) in tile.iter_mut().zip(&tiles.base) {
                *x = round(round(*x) - base);
            }
        }
    }

    /// Turns a tile that was [`Kernel::read`] into updates.
    fn subtract(&self, tiles: &mut Tiles) {
        if self.dtype == Dtype::F32 {
            for tile in &mut tiles.models {
                for (x, base) in tile.iter_mut().zip(&tiles.base) {
                    *x -= base;
                }
            }
        }
    }

    /// The population variance of the updates over the models at each position of a tile that
    /// was [`Kernel::read`] (not yet subtracted).
    fn variances(&self, tiles: &Tiles, out: &mut Variances) {
        const STRIP: usize = 16;
        let rounded = self.dtype != Dtype::F32;
        let n = tiles.models.len() as f64;
        let len = tiles.base.len();
        out.exact.resize(len, 0.0);
        out.keys.resize(len, 0);
        let mut base = [0f64; STRIP];
        for start in (0..len).step_by(STRIP) {
            let here = start..(start + STRIP).min(len);
            if !rounded {
                for (base, value) in base.iter_mut().zip(&tiles.base[here.clone()]) {
                    *base = f64::from(*value);
                }
            }
            let (mut mean, mut variance) = ([0f64; STRIP], [0f64; STRIP]);
            for model in &tiles.models {
                let places = mean.iter_mut().zip(&base).zip(&model[here.clone()]);
                for ((mean, base), value) in places {
                    *mean += f64::from(*value) - base;
                }
            }
            mean.iter_mut().for_each(|mean| *mean /= n);
            for model in &tiles.models {
                let places = variance.iter_mut().zip(&mean).zip(&base);
                for (((variance, mean), base), value) in places.zip(&model[here.clone()]) {
                    let distance = (f64::from(*value) - base) - mean;
                    *variance += distance * distance;
                }
            }
            let exact = out.exact[here.clone()].iter_mut();
            for ((exact, key), variance) in exact.zip(&mut out.keys[here]).zip(&variance) {
                *exact = variance / n;
                *key = (*exact as f32).to_bits();
            }
        }
        if rounded {
            for (key, exact) in out.keys.iter_mut().zip(&mut out.exact) {
                *key = self.dtype.round(f32::from_bits(*key)).to_bits();
                *exact = 0.0;
            }
        }
    }

    /// Leaves a mask of the selected positions of a tile (not yet subtracted) in `scratch.keys`;
    /// returns how many they are.
    fn choose(&self, range: &Range<usize>, tiles: &Tiles, scratch: &mut Variances) -> usize {
        if self.selection == Selection::ALL {
            return range.len();
        }
        self.variances(tiles, scratch);
        let mut selected = 0;
        let places = scratch.keys.iter_mut().zip(&scratch.exact);
        for (index, (key, exact)) in range.clone().zip(places) {
            let chosen = self.selection.selects(*exact, *key, index);
            *key = if chosen { u32::MAX } else { 0 };
            selected += usize::from(chosen);
        }
        selected
    }

    /// Zeroes the updates at the positions that [`Kernel::choose`] left out.
    fn mask(&self, tiles: &mut Tiles, scratch: &Variances) {
        if self.selection == Selection::ALL {
            return;
        }
        for tile in &mut tiles.models {
            for (delta, mask) in tile.iter_mut().zip(&scratch.keys) {
                *delta = f32::from_bits(delta.to_bits() & mask);
            }
        }
    }

    /// The selection of the `share` most varied of the positions with non-zero variance. Two
    /// passes, and one more where only some of several equal `f32` variances belong to it.
    fn select(&self, share: f64) -> Result<Selection> {
        let wanted = [Wanted {
            stream: 0,
            count: Box::new(|nonzero| (nonzero as f64 * share) as u64),
        }];
        let found = thresholds(&self.walk, self.inputs, 1, &wanted, |at, tiles, each| {
            let mut scratch = Variances::default();
            for range in self.walk.tiles(at) {
                self.read(&range, tiles);
                self.variances(tiles, &mut scratch);
                each(0, range.start, &scratch.keys);
            }
            Ok(())
        })?;
        let threshold = match found.first() {
            Some(Found::Above(threshold)) => *threshold,
            Some(Found::All) => return Ok(Selection::ALL),
            _ => return Ok(Selection::NONE),
        };
        let (key, fine) = (threshold.key, 0);
        if threshold.allowed == threshold.tied {
            let end = usize::MAX;
            return Ok(Selection { key, fine, end });
        }
        let exact = threshold.tied <= TOLD_APART && self.dtype == Dtype::F32;
        // In each block the tied positions, or only their number and where the block is.
        let tied = self.walk.each(self.inputs, |at, tiles| {
            let mut scratch = Variances::default();
            let mut count = 0;
            let mut tied = Vec::new();
            for range in self.walk.tiles(at) {
                self.read(&range, tiles);
                self.variances(tiles, &mut scratch);
                let places = scratch.keys.iter().zip(&scratch.exact);
                for (index, (_, variance)) in range.zip(places).filter(|(_, (k, _))| **k == key) {
                    count += 1;
                    if exact {
                        tied.push((std::cmp::Reverse(variance.to_bits()), index));
                    }
                }
            }
            Ok((at, count, tied))
        })?;
        if exact {
            let mut tied: Vec<_> = tied.into_iter().flat_map(|(_, _, tied)| tied).collect();
            let last = (threshold.allowed - 1) as usize;
            let (_, (fine, index), _) = tied.select_nth_unstable(last);
            return Ok(Selection {
                key,
                fine: fine.0,
                end: *index + 1,
            });
        }
        self.lowest(
            key,
            threshold.allowed,
            tied.iter().map(|(at, count, _)| (*at, *count)),
        )
    }

    /// The selection of the first `allowed` positions whose variance has `key`, from the number
    /// of such positions in each block.
    fn lowest(
        &self,
        key: u32,
        allowed: u64,
        counts: impl Iterator<Item = (usize, u64)>,
    ) -> Result<Selection> {
        let mut left = allowed;
        let mut tiles = Tiles::empty(self.inputs.models.len());
        let mut scratch = Variances::default();
        for (at, count) in counts {
            if count < left {
                left -= count;
                continue;
            }
            for range in self.walk.tiles(at) {
                self.read(&range, &mut tiles);
                self.variances(&tiles, &mut scratch);
                for (index, found) in range.zip(&scratch.keys) {
                    left -= u64::from(*found == key);
                    if left == 0 {
                        // All with this key, told apart by index only.
                        let end = index + 1;
                        return Ok(Selection {
                            key,
                            fine: u64::MAX,
                            end,
                        });
                    }
                }
            }
        }
        Ok(Selection::NONE)
    }

    /// Σ δ′² of each model, then the number of selected positions.
    fn sums(&self) -> Result<Vec<f64>> {
        let n = self.inputs.models.len();
        self.walk.sum(self.inputs, n + 1, |at, tiles, sums| {
            let mut scratch = Variances::default();
            for range in self.walk.tiles(at) {
                self.read(&range, tiles);
                sums[n] += self.choose(&range, tiles, &mut scratch) as f64;
                self.subtract(tiles);
                self.mask(tiles, &scratch);
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
        selection: Selection::ALL,
    };
    if share < 1.0 && !one {
        kernel.selection = kernel.select(share)?;
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
            let mut scratch = Variances::default();
            if compat != Compat::Fusechat {
                kernel.choose(range, tiles, &mut scratch);
            }
            kernel.subtract(tiles);
            super::affine::norms(tiles, &mut sums[n..]);
            if compat != Compat::Fusechat {
                kernel.mask(tiles, &scratch);
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
