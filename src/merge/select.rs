//! Exact selection of the k largest of any number of keys in little memory.
//!
//! A key is the bit pattern of a non-negative `f32`: such patterns order like integers.
//!
//! A sample says between which keys the k-th largest must lie. One pass counts the keys above
//! that window and gathers those inside, which are few; keys that many elements share (updates of
//! models in bf16 are small multiples of a unit) are only counted. Where the sample misleads, two
//! histogram passes (upper 16 bits, then the lower 15 bits within the bucket that holds the k-th
//! largest) find it. Of the keys that equal the k-th largest, those with the lowest index are
//! selected.
//!
//! Memory: 8 bytes for each gathered key, of which there are at most 2^22, and 24 bytes for each
//! block and selection; histograms: 512 KiB per selection and run of blocks.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::blocks::{Inputs, Tiles, Walk};
use super::vector::count;
use crate::error::Result;
use crate::progress::check_interrupt;

const HIGH: usize = 1 << 16;
const LOW_BITS: u32 = 15;
const LOW: usize = 1 << LOW_BITS;

/// Most keys that are gathered; beyond that, histograms.
const GATHERED: usize = 1 << 22;
/// Half the width of the window in standard errors of a rank of the sample. Neighbouring elements
/// resemble each other, which makes a sample of runs less sure than it looks.
const ERRORS: f64 = 6.0;
/// No key: keys have 31 bits.
const NO_KEY: u32 = u32::MAX;

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
        key: NO_KEY,
        end: 0,
    };

    /// Whether the element `index` with this key is selected.
    #[inline(always)]
    pub fn selects(self, key: u32, index: usize) -> bool {
        key > self.key || (key == self.key && index < self.end)
    }

    /// The least key that is selected in `range`, if that is the same everywhere in it.
    pub fn bound(self, range: &Range<usize>) -> Option<u32> {
        if range.end <= self.end {
            Some(self.key)
        } else if range.start >= self.end {
            Some(self.key.saturating_add(1))
        } else {
            None
        }
    }
}

/// One selection to make: the `count` largest keys of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The stream.
    pub stream: usize,
    /// How many to select.
    pub count: u64,
}

/// Computes the keys of a tile and hands them over stream by stream.
pub type Keys<'a> = dyn Fn(&Range<usize>, &mut Tiles, &mut dyn FnMut(usize, &[u32])) + Sync + 'a;

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

/// Makes the `wanted` selections.
///
/// # Errors
///
/// The user's wish to stop.
pub fn select(
    walk: &Walk,
    inputs: &Inputs<'_>,
    wanted: &[Wanted],
    keys: &Keys<'_>,
) -> Result<Vec<Cutoff>> {
    let len = walk.len as u64;
    let mut cutoffs: Vec<Cutoff> = wanted
        .iter()
        .map(|want| match want.count {
            0 => Cutoff::NONE,
            _ => Cutoff::ALL,
        })
        .collect();
    let is_open = |want: &Wanted| want.count > 0 && want.count < len;
    let open: Vec<usize> = (0..wanted.len())
        .filter(|at| is_open(&wanted[*at]))
        .collect();
    if open.is_empty() {
        return Ok(cutoffs);
    }
    let asked: Vec<Wanted> = open.iter().map(|at| wanted[*at]).collect();
    let guesses = guess(walk, inputs, &asked, keys);
    let found = check(walk, inputs, &asked, &guesses, keys)?;
    let mut missed = Vec::new();
    for (at, found) in open.into_iter().zip(found) {
        match found {
            Some(cutoff) => cutoffs[at] = cutoff,
            None => missed.push(at),
        }
    }
    if !missed.is_empty() {
        let asked: Vec<Wanted> = missed.iter().map(|at| wanted[*at]).collect();
        let found = thresholds(walk, inputs, &asked, keys)?;
        let exact = break_ties(walk, inputs, &asked, &found, keys)?;
        for (at, cutoff) in missed.into_iter().zip(exact) {
            cutoffs[at] = cutoff;
        }
    }
    Ok(cutoffs)
}

/// Where a sample says that a threshold lies.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Guess {
    low: u32,
    high: u32,
    /// Keys in between that many elements share.
    atoms: [u32; 4],
}

fn guess(walk: &Walk, inputs: &Inputs<'_>, wanted: &[Wanted], keys: &Keys<'_>) -> Vec<Guess> {
    let streams = wanted.iter().map(|want| want.stream + 1).max().unwrap_or(0);
    let mut samples: Vec<Vec<u32>> = vec![Vec::new(); streams];
    walk.sampled(inputs, |range, tiles| {
        keys(range, tiles, &mut |stream, keys| {
            if let Some(sample) = samples.get_mut(stream) {
                sample.extend_from_slice(keys);
            }
        });
    });
    wanted
        .iter()
        .map(|want| {
            let share = want.count as f64 / walk.len as f64;
            guess_from(window(&mut samples[want.stream], share, walk.len))
        })
        .collect()
}

/// The part of a sample, sorted, in which the key lies that the `share` largest of all `len` keys
/// reach down to.
pub fn window<K: Copy + Ord>(sample: &mut [K], share: f64, len: usize) -> &[K] {
    let size = sample.len();
    let error = match size == len {
        // A sample that is everything is right.
        true => 0.0,
        false => ERRORS * (size as f64 * share * (1.0 - share)).sqrt() + 8.0,
    };
    let rank = size as f64 * (1.0 - share);
    let last = ((rank + error) as usize + 1).min(size.saturating_sub(1));
    let first = ((rank - error - 1.0).max(0.0) as usize).min(last);
    if size > 0 {
        sample.select_nth_unstable(first);
        sample[first..].select_nth_unstable(last - first);
    }
    let inside = sample.get_mut(first..=last).unwrap_or_default();
    inside.sort_unstable();
    inside
}

/// The guess that a sample leads to.
fn guess_from(inside: &[u32]) -> Guess {
    let ends = inside.first().zip(inside.last());
    let (low, high) = ends.map_or((0, NO_KEY - 1), |(low, high)| (*low, *high));
    // The commonest keys, where they are common.
    let common = (inside.len() / 16).max(8);
    let runs = inside
        .chunk_by(|a, b| a == b)
        .filter(|run| run.len() >= common);
    let mut runs: Vec<(usize, u32)> = runs.map(|run| (run.len(), run[0])).collect();
    runs.sort_unstable_by(|a, b| b.cmp(a));
    let mut atoms = [NO_KEY; 4];
    for (atom, (_, key)) in atoms.iter_mut().zip(runs) {
        *atom = key;
    }
    Guess { low, high, atoms }
}

/// What a block holds of the keys that a guess is about.
#[derive(Clone, Default)]
struct Counted {
    /// Keys above the window, then keys that equal each atom.
    counts: [u32; 5],
    /// The other keys inside the window, with their indices within the block.
    inside: Vec<(u32, u32)>,
}

/// The cutoffs where the guesses hold. One pass.
fn check(
    walk: &Walk,
    inputs: &Inputs<'_>,
    wanted: &[Wanted],
    guesses: &[Guess],
    keys: &Keys<'_>,
) -> Result<Vec<Option<Cutoff>>> {
    let gathered = AtomicUsize::new(0);
    let limit = walk.len.clamp(1 << 16, GATHERED);
    let blocks = walk.each(inputs, |at, tiles| {
        let mut counted = vec![Counted::default(); wanted.len()];
        let mut within = Vec::new();
        let start = walk.block(at).start;
        for range in walk.tiles(at) {
            let first = (range.start - start) as u32;
            keys(&range, tiles, &mut |stream, keys| {
                let all = counted.iter_mut().zip(wanted).zip(guesses);
                for ((counted, _), guess) in all.filter(|((_, want), _)| want.stream == stream) {
                    let Guess { low, high, atoms } = guess;
                    let counts = count(keys, *low, *high, atoms, &mut within);
                    for (total, count) in counted.counts.iter_mut().zip(counts) {
                        *total += count;
                    }
                    let before = gathered.fetch_add(within.len(), Ordering::Relaxed);
                    if before <= limit {
                        let places = within.iter().map(|(key, place)| (*key, first + place));
                        counted.inside.extend(places);
                    }
                }
            });
        }
        // Half of what growing vectors have may be empty.
        counted
            .iter_mut()
            .for_each(|counted| counted.inside.shrink_to_fit());
        Ok(counted)
    })?;
    // What the sum is does not depend on the order of the threads.
    if gathered.into_inner() > limit {
        return Ok(vec![None; wanted.len()]);
    }
    let one = |(at, (want, guess)): (usize, (&Wanted, &Guess))| {
        let blocks: Vec<&Counted> = blocks.iter().map(|block| &block[at]).collect();
        resolve(walk, inputs, *want, guess, &blocks, keys)
    };
    Ok(wanted.iter().zip(guesses).enumerate().map(one).collect())
}

/// The cutoff, if it lies in the window.
fn resolve(
    walk: &Walk,
    inputs: &Inputs<'_>,
    want: Wanted,
    guess: &Guess,
    blocks: &[&Counted],
    keys: &Keys<'_>,
) -> Option<Cutoff> {
    let total = |at: usize| {
        blocks
            .iter()
            .map(|block| u64::from(block.counts[at]))
            .sum::<u64>()
    };
    let mut left = want.count.checked_sub(total(0)).filter(|left| *left > 0)?;
    // Keys inside the window from the largest, with the lowest index first.
    let starts = (0..).map(|at| walk.block(at).start);
    let mut inside: Vec<(u32, usize)> = blocks
        .iter()
        .zip(starts)
        .flat_map(|(block, start)| {
            let place = move |(key, at): &(u32, u32)| (*key, start + *at as usize);
            block.inside.iter().map(place)
        })
        .collect();
    inside.sort_unstable_by_key(|(key, index)| (std::cmp::Reverse(*key), *index));
    let mut atoms: Vec<(u32, usize)> = guess.atoms.into_iter().zip(1..).collect();
    atoms.sort_unstable_by(|a, b| b.cmp(a));
    let mut inside = inside.as_slice();
    for (atom, slot) in atoms.into_iter().filter(|(atom, _)| *atom != NO_KEY) {
        let before = inside.iter().take_while(|(key, _)| *key > atom).count();
        if left <= before as u64 {
            break;
        }
        left -= before as u64;
        inside = &inside[before..];
        let tied = total(slot);
        if left < tied {
            let counts = blocks.iter().map(|block| u64::from(block.counts[slot]));
            let end = tie(walk, inputs, want.stream, atom, left, counts, keys);
            return Some(Cutoff { key: atom, end });
        }
        if left == tied {
            return Some(Cutoff {
                key: atom,
                end: usize::MAX,
            });
        }
        left -= tied;
    }
    let (key, index) = *inside.get(left as usize - 1)?;
    Some(Cutoff {
        key,
        end: index + 1,
    })
}

/// One past the index of the `left`-th element with `key`, from the number of such elements in
/// each block.
fn tie(
    walk: &Walk,
    inputs: &Inputs<'_>,
    stream: usize,
    key: u32,
    mut left: u64,
    counts: impl Iterator<Item = u64>,
    keys: &Keys<'_>,
) -> usize {
    let mut end = usize::MAX;
    for (block, count) in counts.enumerate() {
        if count < left {
            left -= count;
            continue;
        }
        let mut tiles = Tiles::empty(inputs.models.len());
        for range in walk.tiles(block) {
            keys(&range, &mut tiles, &mut |of, keys| {
                if of != stream {
                    return;
                }
                for (index, found) in range.clone().zip(keys) {
                    if left > 0 && *found == key {
                        left -= 1;
                        end = index + 1;
                    }
                }
            });
        }
        break;
    }
    end
}

/// A histogram per selection, summed over threads.
fn histograms(
    walk: &Walk,
    inputs: &Inputs<'_>,
    width: usize,
    wanted: &[Wanted],
    keys: &Keys<'_>,
    fill: impl Fn(usize, &[u32], &mut [u64]) + Sync,
) -> Result<Vec<u64>> {
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
pub fn thresholds(
    walk: &Walk,
    inputs: &Inputs<'_>,
    wanted: &[Wanted],
    keys: &Keys<'_>,
) -> Result<Vec<Threshold>> {
    let high = histograms(walk, inputs, HIGH, wanted, keys, |_, keys, counts| {
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
    let low = histograms(walk, inputs, LOW, wanted, keys, |at, keys, counts| {
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
fn break_ties(
    walk: &Walk,
    inputs: &Inputs<'_>,
    wanted: &[Wanted],
    found: &[Threshold],
    keys: &Keys<'_>,
) -> Result<Vec<Cutoff>> {
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
            true => tie(
                walk,
                inputs,
                want.stream,
                threshold.key,
                threshold.allowed,
                counts.iter().map(|counts| counts[at]),
                keys,
            ),
            false => usize::MAX,
        },
    };
    Ok(wanted.iter().zip(found).enumerate().map(cutoff).collect())
}

#[cfg(test)]
mod tests {
    use super::super::vector::key;
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

    fn indices(values: &[f32], cut: Cutoff) -> Vec<usize> {
        let places = values.iter().enumerate();
        places
            .filter(|(index, value)| cut.selects(key(**value), *index))
            .map(|(index, _)| index)
            .collect()
    }

    /// What [`select`] selects, and what histograms alone do.
    fn selected(values: &[f32], k: u64) -> [Vec<usize>; 2] {
        let elements = Values(values.to_vec());
        let walk = Walk::new(values.len(), 16, 1);
        let inputs = Inputs {
            base: None,
            models: vec![&elements],
        };
        let wanted = [Wanted {
            stream: 0,
            count: k,
        }];
        let keys =
            |range: &Range<usize>, tiles: &mut Tiles, each: &mut dyn FnMut(usize, &[u32])| {
                tiles.read(&inputs, range);
                let keys: Vec<u32> = tiles.models[0].iter().map(|v| key(*v)).collect();
                each(0, &keys);
            };
        let cut = select(&walk, &inputs, &wanted, &keys).unwrap()[0];
        let slow = if k == 0 {
            Cutoff::NONE
        } else {
            let found = thresholds(&walk, &inputs, &wanted, &keys).unwrap();
            break_ties(&walk, &inputs, &wanted, &found, &keys).unwrap()[0]
        };
        [indices(values, cut), indices(values, slow)]
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
            // Some ties, some not.
            let mixed: Vec<f32> = (0..size)
                .map(|i| {
                    if i % 3 == 0 {
                        spread[i as usize]
                    } else {
                        (random() % 40) as f32
                    }
                })
                .collect();
            for values in [tied, spread, mixed] {
                for k in [0, 1, size / 3, size - 1, size] {
                    let expected = reference(&values, k);
                    let [ours, slow] = selected(&values, k);
                    assert_eq!(ours, expected, "{size} {k}");
                    assert_eq!(slow, expected, "{size} {k}");
                }
            }
        }
    }

    #[test]
    fn a_sample_that_misleads_does_not_matter() {
        // Zero wherever the sample looks: the threshold is outside every window.
        let len = 3_000_000;
        let mut values: Vec<f32> = (0..len).map(|i| (i % 1000) as f32 + 1.0).collect();
        for range in Walk::new(len, 16, 1).sample() {
            values[range].fill(0.0);
        }
        for k in [1, 1_000_000] {
            assert_eq!(selected(&values, k)[0], reference(&values, k));
        }
    }

    #[test]
    fn the_window_of_a_whole_sample_is_the_key() {
        let mut sample: Vec<u32> = (0..1000).rev().collect();
        assert_eq!(window(&mut sample, 0.25, 1000), [749, 750, 751]);
        assert_eq!(window(&mut sample, 0.0, 1000), [999]);
        assert_eq!(window(&mut sample, 1.0, 1000), [0, 1]);
    }
}
