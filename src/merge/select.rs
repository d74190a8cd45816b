//! Exact selection of the k largest of any number of keys in constant memory.
//!
//! A key is the bit pattern of a non-negative `f32`: such patterns order like integers. Two
//! histogram passes (upper 16 bits, then the lower 15 bits within the bucket that holds the k-th
//! largest) find it exactly; where only some of the keys that equal it belong to the selection,
//! those with the lowest index are taken, and one more pass counts them by block.
//!
//! Memory: 512 KiB per stream of keys and thread.

use rayon::prelude::*;

use super::blocks::{Inputs, Tiles, Walk};
use crate::error::Result;
use crate::progress::check_interrupt;

const HIGH: usize = 1 << 16;
const LOW_BITS: u32 = 15;
const LOW: usize = 1 << LOW_BITS;

/// A selection: the elements whose key is above `key`, and of those that equal it the ones
/// before index `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cutoff {
    /// The k-th largest key.
    pub key: u32,
    /// Elements with this key are selected before this index.
    pub end: usize,
}

impl Cutoff {
    /// Selects everything.
    pub const ALL: Self = Self {
        key: 0,
        end: usize::MAX,
    };
    /// Selects nothing.
    pub const NONE: Self = Self {
        key: u32::MAX,
        end: 0,
    };

    /// Whether the element `index` with this key is selected.
    #[inline(always)]
    pub fn selects(self, key: u32, index: usize) -> bool {
        key > self.key || (key == self.key && index < self.end)
    }
}

/// The key of a number: the bits of its magnitude.
#[inline(always)]
pub fn key(value: f32) -> u32 {
    value.to_bits() & 0x7fff_ffff
}

/// One selection to make: from which stream of keys, and how many of its keys, given how many
/// are not zero.
pub struct Wanted<'a> {
    /// The stream.
    pub stream: usize,
    /// How many to select, from the number of non-zero keys.
    pub count: Box<dyn Fn(u64) -> u64 + Sync + 'a>,
}

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

/// What [`thresholds`] found for a selection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Everything is selected.
    All,
    /// Nothing is selected.
    Nothing,
    /// Those above the threshold, and some that equal it.
    Above(Threshold),
}

/// A histogram per stream, summed over threads.
fn histograms(
    walk: &Walk,
    inputs: &Inputs<'_>,
    streams: usize,
    width: usize,
    fill: impl Fn(usize, &mut Tiles, &mut [u64]) -> Result<()> + Sync,
) -> Result<Vec<u64>> {
    // Few long runs of blocks: each costs a histogram.
    let runs = (rayon::current_num_threads() * 4).min(walk.blocks()).max(1);
    let per_run = walk.blocks().div_ceil(runs);
    (0..runs)
        .into_par_iter()
        .map(|run| {
            let mut counts = vec![0u64; streams * width];
            let mut tiles = Tiles::empty(inputs.models.len());
            for at in run * per_run..((run + 1) * per_run).min(walk.blocks()) {
                check_interrupt()?;
                fill(at, &mut tiles, &mut counts)?;
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

/// Makes the `wanted` selections. `keys(block, tiles, each)` computes the keys of a block and
/// calls `each(stream, first index, keys)` for consecutive pieces of it.
///
/// # Errors
///
/// The user's wish to stop.
pub fn select(
    walk: &Walk,
    inputs: &Inputs<'_>,
    streams: usize,
    wanted: &[Wanted<'_>],
    keys: impl Fn(usize, &mut Tiles, &mut dyn FnMut(usize, usize, &[u32])) -> Result<()> + Sync,
) -> Result<Vec<Cutoff>> {
    let found = thresholds(walk, inputs, streams, wanted, &keys)?;
    let mut tied = Vec::new();
    let mut cutoffs = Vec::new();
    for (at, found) in found.into_iter().enumerate() {
        cutoffs.push(match found {
            Found::All => Cutoff::ALL,
            Found::Nothing => Cutoff::NONE,
            Found::Above(threshold) => {
                if threshold.allowed < threshold.tied {
                    tied.push((at, threshold.allowed));
                }
                Cutoff {
                    key: threshold.key,
                    end: usize::MAX,
                }
            }
        });
    }
    break_ties(walk, inputs, wanted, &tied, &mut cutoffs, keys)?;
    Ok(cutoffs)
}

/// The thresholds of the `wanted` selections, ties left open. Two passes; `keys` as in
/// [`select`].
///
/// # Errors
///
/// The user's wish to stop.
pub fn thresholds(
    walk: &Walk,
    inputs: &Inputs<'_>,
    streams: usize,
    wanted: &[Wanted<'_>],
    keys: impl Fn(usize, &mut Tiles, &mut dyn FnMut(usize, usize, &[u32])) -> Result<()> + Sync,
) -> Result<Vec<Found>> {
    // One slot more than buckets: zeros are counted there.
    let width = HIGH + 1;
    let high = histograms(walk, inputs, streams, width, |at, tiles, counts| {
        keys(at, tiles, &mut |stream, _, keys| {
            let counts = &mut counts[stream * width..(stream + 1) * width];
            let mut zeros = 0;
            for key in keys {
                counts[(key >> LOW_BITS) as usize] += 1;
                zeros += u64::from(*key == 0);
            }
            counts[HIGH] += zeros;
        })
    })?;
    let mut found = vec![Found::Nothing; wanted.len()];
    // (wanted, bucket, how many keys of the bucket are selected)
    let mut open = Vec::new();
    for (at, want) in wanted.iter().enumerate() {
        let counts = &high[want.stream * width..][..width];
        let k = (want.count)(walk.len as u64 - counts[HIGH]);
        if k >= walk.len as u64 {
            found[at] = Found::All;
        } else if k > 0 {
            let (bucket, above) = bucket(&counts[..HIGH], k);
            open.push((at, bucket, k - above));
        }
    }
    if open.is_empty() {
        return Ok(found);
    }
    let low = histograms(walk, inputs, open.len(), LOW, |at, tiles, counts| {
        keys(at, tiles, &mut |stream, _, keys| {
            for (place, (at, bucket, _)) in open.iter().enumerate() {
                if wanted[*at].stream == stream {
                    let counts = &mut counts[place * LOW..(place + 1) * LOW];
                    for key in keys {
                        if (key >> LOW_BITS) as usize == *bucket {
                            counts[*key as usize & (LOW - 1)] += 1;
                        }
                    }
                }
            }
        })
    })?;
    for (place, (at, high, k)) in open.into_iter().enumerate() {
        let counts = &low[place * LOW..(place + 1) * LOW];
        let (bucket, above) = bucket(counts, k);
        found[at] = Found::Above(Threshold {
            key: (high << LOW_BITS | bucket) as u32,
            allowed: k - above,
            tied: counts[bucket],
        });
    }
    Ok(found)
}

/// Sets `end` of the cutoffs whose key has more elements than may be selected.
fn break_ties(
    walk: &Walk,
    inputs: &Inputs<'_>,
    wanted: &[Wanted<'_>],
    tied: &[(usize, u64)],
    cutoffs: &mut [Cutoff],
    keys: impl Fn(usize, &mut Tiles, &mut dyn FnMut(usize, usize, &[u32])) -> Result<()> + Sync,
) -> Result<()> {
    if tied.is_empty() {
        return Ok(());
    }
    let cut = cutoffs.to_vec();
    let counts = walk.each(inputs, |at, tiles| {
        let mut counts = vec![0u64; tied.len()];
        keys(at, tiles, &mut |stream, _, keys| {
            for (count, (at, _)) in counts.iter_mut().zip(tied) {
                if wanted[*at].stream == stream {
                    *count += keys
                        .iter()
                        .map(|k| u64::from(*k == cut[*at].key))
                        .sum::<u64>();
                }
            }
        })?;
        Ok(counts)
    })?;
    let mut tiles = Tiles::empty(inputs.models.len());
    for (place, (at, allowed)) in tied.iter().enumerate() {
        let mut left = *allowed;
        let block = counts.iter().position(|counts| {
            let here = counts[place] >= left;
            if !here {
                left -= counts[place];
            }
            here
        });
        let Some(block) = block else { continue };
        let mut end = walk.block(block).start;
        keys(block, &mut tiles, &mut |stream, first, keys| {
            if wanted[*at].stream == stream && left > 0 {
                for (offset, key) in keys.iter().enumerate() {
                    if *key == cut[*at].key {
                        left -= 1;
                        if left == 0 {
                            end = first + offset + 1;
                            break;
                        }
                    }
                }
            }
        })?;
        cutoffs[*at].end = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::Elements;

    struct Values(Vec<f32>);
    impl Elements for Values {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn read(&self, start: usize, out: &mut [f32]) {
            out.copy_from_slice(&self.0[start..start + out.len()]);
        }
    }

    fn selected(values: &[f32], k: u64) -> Vec<usize> {
        let values = Values(values.to_vec());
        let walk = Walk::new(values.len(), 1, 1);
        let inputs = Inputs {
            base: None,
            models: vec![&values],
        };
        let wanted = [Wanted {
            stream: 0,
            count: Box::new(move |_| k),
        }];
        let mut bits = Vec::new();
        let cut = select(&walk, &inputs, 1, &wanted, |at, tiles, each| {
            for range in walk.tiles(at) {
                tiles.read(&inputs, &range);
                let keys: Vec<u32> = tiles.models[0].iter().map(|v| key(*v)).collect();
                each(0, range.start, &keys);
            }
            Ok(())
        })
        .unwrap()[0];
        for (index, value) in values.0.iter().enumerate() {
            if cut.selects(key(*value), index) {
                bits.push(index);
            }
        }
        bits
    }

    fn reference(values: &[f32], k: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by_key(|at| (std::cmp::Reverse(key(values[*at])), *at));
        order.truncate(k as usize);
        order.sort_unstable();
        order
    }

    #[test]
    fn the_k_largest_with_the_lowest_indices_are_selected() {
        let mut state = 1u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 40) as u32
        };
        for size in [1, 5, 3000, 200_000] {
            // Many ties: few distinct values; a third zeros.
            let tied: Vec<f32> = (0..size)
                .map(|_| [0.0, 0.0, 1.0, -1.0, 0.25, 3.0][random() as usize % 6])
                .collect();
            // Few ties, all magnitudes, signs.
            let spread: Vec<f32> = (0..size)
                .map(|_| f32::from_bits(random().wrapping_mul(173)) % 1e30)
                .map(|v| if v.is_nan() { 1.0 } else { v })
                .collect();
            for values in [tied, spread] {
                for k in [0, 1, size / 3, size - 1, size] {
                    assert_eq!(selected(&values, k), reference(&values, k), "{size} {k}");
                }
            }
        }
    }
}
