//! Which entries of an update survive.
//!
//! Random draws are keyed by (seed, model, tensor, index), so that they do not depend on the order
//! of the work.

use std::ops::Range;

use super::blocks::{Tiles, Walk};
use super::job::Job;
use super::select::{Cutoff, Keyed, Wanted};
use super::vector::{keep_from, key, keys};
use crate::error::Result;

/// Which entries of a model's update survive. Shares are of the tensor's entries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Survivors {
    /// Every entry.
    All,
    /// The `density` share with the largest magnitudes, at least one.
    Largest { density: f64 },
    /// The `density` share left after the `gamma` share with the largest magnitudes is dropped.
    Band { density: f64, gamma: f64 },
    /// Each entry with probability `density`.
    Random { density: f64 },
    /// Each entry with a probability within `density` ± `epsilon` that grows with the rank of its
    /// magnitude in its row (of one entry: `density`).
    Ranked { density: f64, epsilon: f64 },
}

impl Survivors {
    /// The share of entries that survive.
    pub fn density(self) -> f64 {
        match self {
            Self::All => 1.0,
            Self::Largest { density }
            | Self::Band { density, .. }
            | Self::Random { density }
            | Self::Ranked { density, .. } => density,
        }
    }
}

/// [`Survivors`] of one tensor and model.
pub enum Mask {
    /// All entries.
    All,
    /// Those of a selection.
    Top(Cutoff),
    /// Those of the first selection that are not in the second.
    Band(Cutoff, Cutoff),
    /// Each with a probability.
    Random { seed: u64, density: f64 },
    /// Each with a probability that grows with its rank in its row.
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
    pub fn apply(
        &self,
        walk: &Walk,
        range: &Range<usize>,
        deltas: &mut [f32],
        ranks: &mut Vec<u32>,
    ) {
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
                for (row, start) in deltas
                    .chunks_mut(walk.row)
                    .zip(range.clone().step_by(walk.row))
                {
                    let row_len = row.len();
                    let survives = |rank: usize| {
                        // The only entry is neither the smallest nor the largest.
                        let place = match row_len {
                            1 => 0.5,
                            len => rank as f64 / (len - 1) as f64,
                        };
                        density - epsilon + place * 2.0 * epsilon
                    };
                    drop_by_rank(row, ranks, |rank, at| {
                        draw(seed, start + at) >= below(survives(rank))
                    });
                }
            }
        }
    }
}

/// Zeroes the entries of a row for which `dropped(rank, place)` holds; the smallest magnitude has
/// rank 0.
fn drop_by_rank(row: &mut [f32], ranks: &mut Vec<u32>, dropped: impl Fn(usize, usize) -> bool) {
    ranks.clear();
    ranks.extend(0..row.len() as u32);
    ranks.sort_unstable_by_key(|i| (key(row[*i as usize]), *i));
    for (rank, i) in ranks.iter().enumerate() {
        if dropped(rank, *i as usize) {
            row[*i as usize] = 0.0;
        }
    }
}

/// The masks of all models. Two or three passes where they go by magnitude, none otherwise.
pub fn masks(job: &Job<'_>, walk: &Walk, survivors: &[Survivors], seed: f64) -> Result<Vec<Mask>> {
    let mut masks: Vec<Mask> = survivors.iter().map(|_| Mask::All).collect();
    let mut wanted = Vec::new();
    let count = walk.len;
    for (at, survivors) in survivors.iter().enumerate() {
        let density = survivors.density();
        if density >= 1.0 {
            continue;
        }
        if density <= 0.0 {
            masks[at] = Mask::Top(Cutoff::NONE);
            continue;
        }
        let seed = || stream(seed, job.models[at], job.name);
        let mut want = |count: u64| wanted.push(Wanted { stream: at, count });
        match *survivors {
            Survivors::All => {}
            Survivors::Largest { density } => want(part(density, count).max(1)),
            Survivors::Band { density, gamma } => {
                let (outer, inner) = band(density, gamma, count);
                want(outer);
                want(inner);
            }
            Survivors::Random { density } => {
                masks[at] = Mask::Random {
                    seed: seed(),
                    density,
                };
            }
            Survivors::Ranked { density, epsilon } => {
                masks[at] = Mask::Ranked {
                    seed: seed(),
                    density,
                    epsilon,
                };
            }
        }
    }
    if !wanted.is_empty() {
        by_magnitude(job, walk, &wanted, &mut masks)?;
    }
    Ok(masks)
}

/// Makes the masks of the models with a selection to make, or two for a band.
fn by_magnitude(job: &Job<'_>, walk: &Walk, wanted: &[Wanted], masks: &mut [Mask]) -> Result<()> {
    let magnitudes =
        |range: &Range<usize>, tiles: &mut Tiles, each: &mut dyn FnMut(usize, &[u32])| {
            tiles.read_deltas(&job.inputs, range);
            tiles.keys.resize(range.len(), 0);
            for (stream, model) in tiles.models.iter().enumerate() {
                keys(model, &mut tiles.keys);
                each(stream, &tiles.keys);
            }
        };
    let cutoffs = Keyed::new(walk, &job.inputs, &magnitudes).select(wanted)?;
    let mut cutoffs = wanted.iter().zip(cutoffs).peekable();
    while let Some((want, cutoff)) = cutoffs.next() {
        masks[want.stream] = match cutoffs.next_if(|(next, _)| next.stream == want.stream) {
            Some((_, inner)) => Mask::Band(cutoff, inner),
            None => Mask::Top(cutoff),
        };
    }
    Ok(())
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
