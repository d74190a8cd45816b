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

mod cutoff;
mod histogram;
mod sample;

use crate::error::Result;

pub use cutoff::{Cutoff, Keyed, Wanted};
pub use sample::window;

impl Keyed<'_> {
    /// Makes the `wanted` selections.
    ///
    /// # Errors
    ///
    /// The user's wish to stop.
    pub fn select(&self, wanted: &[Wanted]) -> Result<Vec<Cutoff>> {
        let len = self.walk.len as u64;
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
        let found = sample::cutoffs(self, &asked)?;
        let mut missed = Vec::new();
        for (at, found) in open.into_iter().zip(found) {
            match found {
                Some(cutoff) => cutoffs[at] = cutoff,
                None => missed.push(at),
            }
        }
        if !missed.is_empty() {
            let asked: Vec<Wanted> = missed.iter().map(|at| wanted[*at]).collect();
            let exact = histogram::cutoffs(self, &asked)?;
            for (at, cutoff) in missed.into_iter().zip(exact) {
                cutoffs[at] = cutoff;
            }
        }
        Ok(cutoffs)
    }

    /// The thresholds of the `wanted` selections (of at least one element each), ties left open.
    /// Two passes over histograms.
    ///
    /// # Errors
    ///
    /// The user's wish to stop.
    pub fn thresholds(&self, wanted: &[Wanted]) -> Result<Vec<histogram::Threshold>> {
        histogram::thresholds(self, wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::arithmetic::blocks::{Inputs, Tiles, Walk};
    use crate::merge::arithmetic::vector::key;
    use std::ops::Range;

    fn indices(values: &[f32], cut: Cutoff) -> Vec<usize> {
        let places = values.iter().enumerate();
        places
            .filter(|(index, value)| cut.selects(key(**value), *index))
            .map(|(index, _)| index)
            .collect()
    }

    /// What [`select`] selects, and what histograms alone do.
    fn selected(values: &[f32], k: u64) -> [Vec<usize>; 2] {
        let elements = values.to_vec();
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
        let keyed = Keyed::new(&walk, &inputs, &keys);
        let cut = keyed.select(&wanted).unwrap()[0];
        let slow = if k == 0 {
            Cutoff::NONE
        } else {
            histogram::cutoffs(&keyed, &wanted).unwrap()[0]
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
