//! Thresholds by two histogram passes.

use rayon::prelude::*;

use super::cutoff::{Cutoff, Keyed, Wanted};
use crate::error::Result;
use crate::merge::arithmetic::blocks::Tiles;
use crate::progress::check_interrupt;

const HIGH: usize = 1 << 16;
const LOW_BITS: u32 = 15;
const LOW: usize = 1 << LOW_BITS;

/// The key of the last selected element, and how many of the elements that have it are selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// The k-th largest key.
    pub key: u32,
    /// How many of the elements with this key are selected.
    pub allowed: u64,
    /// How many elements have this key.
    pub tied: u64,
}

/// The cutoffs of the `wanted` selections (of at least one element each). Three passes.
///
/// # Errors
///
/// The user's wish to stop.
pub fn cutoffs(keyed: &Keyed<'_>, wanted: &[Wanted]) -> Result<Vec<Cutoff>> {
    let found = thresholds(keyed, wanted)?;
    break_ties(keyed, wanted, &found)
}

/// A histogram per selection, summed over threads.
fn histograms(
    keyed: &Keyed<'_>,
    width: usize,
    wanted: &[Wanted],
    fill: impl Fn(usize, &[u32], &mut [u64]) + Sync,
) -> Result<Vec<u64>> {
    let Keyed { walk, inputs, keys } = *keyed;
    // Few long runs of blocks: each costs a histogram.
    let runs = rayon::current_num_threads().min(walk.blocks()).max(1);
    let per_run = walk.blocks().div_ceil(runs);
    (0..runs)
        .into_par_iter()
        .map(|run| {
            let mut counts = vec![0u64; wanted.len() * width];
            let mut tiles = Tiles::empty(inputs.models.len());
            for at in run * per_run..((run + 1) * per_run).min(walk.blocks()) {
                check_interrupt()?;
                for range in walk.tiles(at) {
                    keys(&range, &mut tiles, &mut |stream, keys| {
                        let all = counts.chunks_exact_mut(width).zip(wanted).enumerate();
                        for (at, (counts, _)) in all.filter(|(_, (_, w))| w.stream == stream) {
                            fill(at, keys, counts);
                        }
                    });
                }
            }
            Ok(counts)
        })
        .try_reduce(Vec::new, |mut a, b| {
            if a.is_empty() {
                return Ok(b);
            }
            for (a, b) in a.iter_mut().zip(&b) {
                *a += b;
            }
            Ok(a)
        })
}

/// The bucket of a histogram that holds the `k`-th largest key (k ≥ 1), and how many keys are in
/// the buckets above it.
fn bucket(counts: &[u64], k: u64) -> (usize, u64) {
    let mut above = 0;
    for (at, count) in counts.iter().enumerate().rev() {
        if above + count >= k {
            return (at, above);
        }
        above += count;
    }
    (0, above)
}

/// The thresholds of the `wanted` selections (of at least one element each), ties left open. Two
/// passes.
///
/// # Errors
///
/// The user's wish to stop.
pub fn thresholds(keyed: &Keyed<'_>, wanted: &[Wanted]) -> Result<Vec<Threshold>> {
    let high = histograms(keyed, HIGH, wanted, |_, keys, counts| {
        for key in keys {
            counts[(key >> LOW_BITS) as usize] += 1;
        }
    })?;
    // The bucket, and how many keys of it are selected.
    let open: Vec<(usize, u64)> = high
        .chunks_exact(HIGH)
        .zip(wanted)
        .map(|(counts, want)| {
            let (bucket, above) = bucket(counts, want.count);
            (bucket, want.count - above)
        })
        .collect();
    let low = histograms(keyed, LOW, wanted, |at, keys, counts| {
        for key in keys {
            if (key >> LOW_BITS) as usize == open[at].0 {
                counts[*key as usize & (LOW - 1)] += 1;
            }
        }
    })?;
    let found = open.into_iter().zip(low.chunks_exact(LOW));
    Ok(found
        .map(|((high, k), counts)| {
            let (bucket, above) = bucket(counts, k);
            Threshold {
                key: (high << LOW_BITS | bucket) as u32,
                allowed: k - above,
                tied: counts[bucket],
            }
        })
        .collect())
}

/// The cutoffs of thresholds: where there are more elements than may be selected, one more pass
/// counts them.
fn break_ties(keyed: &Keyed<'_>, wanted: &[Wanted], found: &[Threshold]) -> Result<Vec<Cutoff>> {
    let Keyed { walk, inputs, keys } = *keyed;
    let is_tied = |threshold: &Threshold| threshold.allowed < threshold.tied;
    let mut counts = Vec::new();
    if found.iter().any(is_tied) {
        counts = walk.each(inputs, |at, tiles| {
            let mut counts = vec![0u64; wanted.len()];
            for range in walk.tiles(at) {
                keys(&range, tiles, &mut |stream, keys| {
                    let all = counts.iter_mut().zip(wanted).zip(found);
                    for ((count, _), threshold) in all.filter(|((_, w), _)| w.stream == stream) {
                        let equal = |key: &&u32| **key == threshold.key;
                        *count += keys.iter().filter(equal).count() as u64;
                    }
                });
            }
            Ok(counts)
        })?;
    }
    let cutoff = |(at, (want, threshold)): (usize, (&Wanted, &Threshold))| Cutoff {
        key: threshold.key,
        end: match is_tied(threshold) {
            true => {
                let counts = counts.iter().map(|counts| counts[at]);
                keyed.tie(want.stream, threshold.key, threshold.allowed, counts)
            }
            false => usize::MAX,
        },
    };
    Ok(wanted.iter().zip(found).enumerate().map(cutoff).collect())
}
