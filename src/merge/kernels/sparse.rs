//! Task arithmetic and its descendants: sparsify × rescale × consensus × normalise.
//!
//! With updates δ_j = model_j − base, survivors m_j ∈ {0, 1} and weights w_j:
//! base + λ · Σ w_j r_j m_j δ_j \[sign agrees\] / (Σ w_j \[sign agrees\]), where r_j restores the
//! L1 norm that the survivors lost, the sign that a position agrees on is that of the sum (zero
//! counts as +), and the division takes place with `normalize` only.

use std::ops::Range;

use super::super::blocks::{Tiles, Walk};
use super::super::methods::Sparsify;
use super::super::select::{Cutoff, Wanted, select};
use super::super::vector::{
    add, add_to, agree, dot, keep_from, key, keys, non_zero, scale, sum_abs,
};
use super::{Job, Outcome, Output, Result, Share};

/// Which entries of an update survive.
enum Mask {
    All,
    Top(Cutoff),
    /// Those of the first selection that are not in the second.
    Band(Cutoff, Cutoff),
    Random {
        seed: u64,
        density: f64,
    },
    Ranked {
        seed: u64,
        density: f64,
        epsilon: f64,
    },
}

/// Uniform random bits for an index: the finaliser of SplitMix64 over a counter.
#[inline(always)]
fn draw(seed: u64, index: usize) -> u64 {
    let mut x = seed.wrapping_add((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What a draw stays below with this probability.
fn below(probability: f64) -> u64 {
    (probability * 2f64.powi(64)) as u64
}

/// The generator's key for a model and a tensor.
fn stream(seed: f64, model: &str, tensor: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(seed as u64).to_le_bytes());
    hasher.update(&(model.len() as u64).to_le_bytes());
    hasher.update(model.as_bytes());
    hasher.update(tensor.as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}

/// mergekit's `int(share * count)`.
fn part(share: f64, count: usize) -> u64 {
    (share * count as f64) as u64
}

/// How many entries are in the outer and in the inner selection of breadcrumbs.
fn band(density: f64, gamma: f64, count: usize) -> (u64, u64) {
    let kept = part(density, count);
    // Fewer outliers are dropped where the density leaves no room.
    let dropped = part(gamma, count).min(count as u64 - kept);
    (kept + dropped, dropped)
}

impl Mask {
    /// Zeroes the entries that do not survive; `ranks` is scratch.
    fn apply(&self, walk: &Walk, range: &Range<usize>, deltas: &mut [f32], ranks: &mut Vec<u32>) {
        let entries = deltas.iter_mut().zip(range.clone());
        match *self {
            Self::All => {}
            Self::Top(cutoff) => match cutoff.bound(range) {
                Some(bound) => keep_from(deltas, bound),
                None => {
                    for (delta, index) in entries {
                        if !cutoff.selects(key(*delta), index) {
                            *delta = 0.0;
                        }
                    }
                }
            },
            Self::Band(outer, inner) => {
                for (delta, index) in entries {
                    let key = key(*delta);
                    if !outer.selects(key, index) || inner.selects(key, index) {
                        *delta = 0.0;
                    }
                }
            }
            Self::Random { seed, density } => {
                let bound = below(density);
                for (delta, index) in entries {
                    if draw(seed, index) >= bound {
                        *delta = 0.0;
                    }
                }
            }
            Self::Ranked {
                seed,
                density,
                epsilon,
            } => {
                for (at, row) in deltas.chunks_mut(walk.row).enumerate() {
                    ranks.clear();
                    ranks.extend(0..row.len() as u32);
                    ranks.sort_unstable_by_key(|i| (key(row[*i as usize]), *i));
                    let last = (row.len() - 1).max(1) as f64;
                    for (rank, i) in ranks.iter().enumerate() {
                        let survives = density - epsilon + rank as f64 / last * 2.0 * epsilon;
                        let index = range.start + at * walk.row + *i as usize;
                        if draw(seed, index) >= below(survives) {
                            row[*i as usize] = 0.0;
                        }
                    }
                }
            }
        }
    }
}

/// The masks of all models. Two or three passes where they go by magnitude, none otherwise.
fn masks(job: &Job<'_>, walk: &Walk, sparsify: Sparsify) -> Result<Vec<Mask>> {
    let n = job.count();
    let mut masks: Vec<Mask> = (0..n).map(|_| Mask::All).collect();
    let mut wanted = Vec::new();
    let count = walk.len;
    let fixed = |count: u64, stream| Wanted { stream, count };
    for (at, values) in job.per_model.iter().enumerate() {
        let density = values.number("density");
        if sparsify == Sparsify::None || density >= 1.0 {
            continue;
        }
        if density <= 0.0 {
            masks[at] = Mask::Top(Cutoff::NONE);
            continue;
        }
        let seed = || stream(job.values.number("random_seed"), job.models[at], job.name);
        match sparsify {
            Sparsify::None => {}
            Sparsify::Magnitude => wanted.push(fixed(part(density, count), at)),
            Sparsify::Outliers => {
                let (outer, inner) = band(density, values.number("gamma"), count);
                wanted.push(fixed(outer, at));
                wanted.push(fixed(inner, at));
            }
            Sparsify::Random => {
                masks[at] = Mask::Random {
                    seed: seed(),
                    density,
                };
            }
            Sparsify::RankedRandom => {
                let epsilon = values.number("epsilon");
                masks[at] = Mask::Ranked {
                    seed: seed(),
                    density,
                    epsilon,
                };
            }
        }
    }
    if wanted.is_empty() {
        return Ok(masks);
    }
    let magnitudes =
        |range: &Range<usize>, tiles: &mut Tiles, each: &mut dyn FnMut(usize, &[u32])| {
            tiles.read_deltas(&job.inputs, range);
            tiles.keys.resize(range.len(), 0);
            for (stream, model) in tiles.models.iter().enumerate() {
                keys(model, &mut tiles.keys);
                each(stream, &tiles.keys);
            }
        };
    let cutoffs = select(walk, &job.inputs, &wanted, &magnitudes)?;
    let mut cutoffs = wanted.iter().zip(cutoffs).peekable();
    while let Some((want, cutoff)) = cutoffs.next() {
        masks[want.stream] = match cutoffs.next_if(|(next, _)| next.stream == want.stream) {
            Some((_, inner)) => Mask::Band(cutoff, inner),
            None => Mask::Top(cutoff),
        };
    }
    Ok(masks)
}

/// The factor that restores each update's L1 norm. One pass.
fn rescales(job: &Job<'_>, walk: &Walk, masks: &[Mask]) -> Result<Vec<f64>> {
    let n = masks.len();
    let sums = walk.sum(&job.inputs, 2 * n, |at, tiles, sums| {
        let mut ranks = Vec::new();
        for range in walk.tiles(at) {
            tiles.read_deltas(&job.inputs, &range);
            for (model, (tile, mask)) in tiles.models.iter_mut().zip(masks).enumerate() {
                sums[2 * model] += sum_abs(tile);
                mask.apply(walk, &range, tile, &mut ranks);
                sums[2 * model + 1] += sum_abs(tile);
            }
        }
        Ok(())
    })?;
    Ok(sums
        .as_chunks::<2>()
        .0
        .iter()
        .map(|[before, after]| {
            if *before < 1e-7 || *after < 1e-7 {
                1.0
            } else {
                before / after
            }
        })
        .collect())
}

/// Merges by task arithmetic with the given sparsification and consensus.
pub(super) fn merge(
    job: &Job<'_>,
    sparsify: Sparsify,
    consensus: bool,
    output: &Output<'_>,
) -> Result<Outcome> {
    let n = job.count();
    let walk = match sparsify {
        Sparsify::RankedRandom => job.walk.by_rows(),
        _ => job.walk,
    };
    let masks = masks(job, &walk, sparsify)?;
    let sparse = masks.iter().any(|mask| !matches!(mask, Mask::All));
    let rescales = if job.values.flag("rescale") && sparse {
        rescales(job, &walk, &masks)?
    } else {
        vec![1.0; n]
    };
    let weights = job.weights();
    let normalize = job.values.flag("normalize");
    let lambda = job.values.number("lambda") as f32;
    let total: f64 = weights.iter().sum();
    let total_factor = match normalize && !consensus && total.abs() >= 1e-8 {
        true => lambda / total as f32,
        false => lambda,
    };
    let factors: Vec<f32> = weights
        .iter()
        .zip(&rescales)
        .map(|(w, r)| (w * r) as f32)
        .collect();
    let weights: Vec<f32> = weights.iter().map(|w| *w as f32).collect();

    // Per model: squared norm, survivors of sparsification, entries used.
    let sums = walk.produce(&job.inputs, output, 3 * n, |range, tiles, sums| {
        tiles.read_deltas(&job.inputs, range);
        let mut ranks = Vec::new();
        for (model, (tile, mask)) in tiles.models.iter_mut().zip(&masks).enumerate() {
            sums[3 * model] += dot(tile, tile);
            mask.apply(&walk, range, tile, &mut ranks);
            if !matches!(mask, Mask::All) {
                sums[3 * model + 1] += f64::from(non_zero(tile));
            }
        }
        let Tiles {
            base,
            models,
            merged,
            ..
        } = tiles;
        if consensus {
            for (tile, factor) in models.iter_mut().zip(&factors) {
                scale(tile, *factor);
            }
            let mut used = vec![0; n];
            agree(models, &weights, false, normalize, merged, &mut used);
            for (model, used) in used.iter().enumerate() {
                sums[3 * model + 2] += f64::from(*used);
            }
        } else {
            merged.fill(0.0);
            for (tile, factor) in models.iter().zip(&factors) {
                add(merged, *factor, tile);
            }
        }
        add_to(merged, total_factor, base);
    })?;
    let len = walk.len.max(1) as f64;
    let shares = (0..n)
        .map(|model| {
            let selected = match masks[model] {
                Mask::All => 1.0,
                _ => sums[3 * model + 1] / len,
            };
            Share {
                coefficient: f64::from(factors[model]),
                selected_fraction: selected,
                kept_fraction: match consensus {
                    true => sums[3 * model + 2] / len,
                    false => selected,
                },
                delta_norm: sums[3 * model].sqrt(),
            }
        })
        .collect();
    Ok(Outcome::new(shares, sums.last()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_uniform_and_independent_of_each_other() {
        let seed = stream(42.0, "a", "t");
        let n = 100_000;
        let mean = (0..n)
            .map(|i| draw(seed, i) as f64 / 2f64.powi(64))
            .sum::<f64>()
            / n as f64;
        // Standard error: 1/sqrt(12 n) = 0.0009.
        assert!((mean - 0.5).abs() < 0.004, "{mean}");
        let other = stream(42.0, "b", "t");
        let both = (0..n).filter(|i| draw(seed, *i) < below(0.5) && draw(other, *i) < below(0.5));
        let share = both.count() as f64 / n as f64;
        assert!((share - 0.25).abs() < 0.006, "{share}");
        assert_ne!(stream(42.0, "ab", "c"), stream(42.0, "a", "bc"));
    }

    #[test]
    fn a_band_keeps_the_density_and_drops_fewer_outliers_where_there_is_no_room() {
        assert_eq!(band(0.6, 0.05, 100), (65, 5));
        assert_eq!(band(0.9, 0.5, 100), (100, 10));
        assert_eq!(band(0.6, 0.01, 48), (28, 0));
    }
}
