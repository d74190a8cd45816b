//! Cutoffs by a sample and one pass over everything.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::cutoff::{Cutoff, Keyed, NO_KEY, Wanted};
use crate::error::Result;
use crate::merge::arithmetic::vector::count;

/// Most keys that are gathered; beyond that, histograms.
const GATHERED: usize = 1 << 22;
/// Half the width of the window in standard errors of a rank of the sample. Neighbouring elements
/// resemble each other, which makes a sample of runs less sure than it looks.
const ERRORS: f64 = 6.0;

/// The cutoffs of the `wanted` selections (of at least one element each), where the sample does
/// not mislead. One pass.
///
/// # Errors
///
/// The user's wish to stop.
pub fn cutoffs(keyed: &Keyed<'_>, wanted: &[Wanted]) -> Result<Vec<Option<Cutoff>>> {
    let guesses = guess(keyed, wanted);
    check(keyed, wanted, &guesses)
}

/// Where a sample says that a threshold lies.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Guess {
    low: u32,
    high: u32,
    /// Keys in between that many elements share.
    atoms: [u32; 4],
}

fn guess(keyed: &Keyed<'_>, wanted: &[Wanted]) -> Vec<Guess> {
    let Keyed { walk, inputs, keys } = *keyed;
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
fn check(keyed: &Keyed<'_>, wanted: &[Wanted], guesses: &[Guess]) -> Result<Vec<Option<Cutoff>>> {
    let Keyed { walk, inputs, keys } = *keyed;
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
        resolve(keyed, *want, guess, &blocks)
    };
    Ok(wanted.iter().zip(guesses).enumerate().map(one).collect())
}

/// The cutoff, if it lies in the window.
fn resolve(keyed: &Keyed<'_>, want: Wanted, guess: &Guess, blocks: &[&Counted]) -> Option<Cutoff> {
    let total = |at: usize| {
        blocks
            .iter()
            .map(|block| u64::from(block.counts[at]))
            .sum::<u64>()
    };
    let mut left = want.count.checked_sub(total(0)).filter(|left| *left > 0)?;
    // Keys inside the window from the largest, with the lowest index first.
    let starts = (0..).map(|at| keyed.walk.block(at).start);
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
            let end = keyed.tie(want.stream, atom, left, counts);
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
