//! Loops over tiles of numbers, on the widest vectors that the machine has.
//!
//! Sums are taken in a fixed number of lanes that are added in order, so that they do not depend
//! on the width of the vectors.

use crate::tensors::simd::vectorised;
// The plain loops, which adapters need as well.
pub use crate::tensors::vector::{add, dot, scale, subtract};

/// Lanes of a sum.
const LANES: usize = 16;
/// Positions that a loop over several models holds at a time.
const STRIP: usize = 256;
/// Positions that fit into registers.
const CHUNK: usize = 32;

/// The bits of a number's magnitude, which order like the magnitude; NaN is the largest.
#[inline(always)]
pub fn key(value: f32) -> u32 {
    value.to_bits() & 0x7fff_ffff
}

/// Calls `found` with the places where `is_wanted` holds, which are few.
#[inline(always)]
fn places<T: Copy>(values: &[T], is_wanted: impl Fn(T) -> bool, mut found: impl FnMut(u32, T)) {
    for (chunk, start) in values.chunks(CHUNK).zip((0..).step_by(CHUNK)) {
        let mut flags = [0u8; CHUNK];
        for (flag, value) in flags.iter_mut().zip(chunk) {
            *flag = u8::from(is_wanted(*value));
        }
        for (flags, start) in flags.as_chunks::<8>().0.iter().zip((start..).step_by(8)) {
            let mut left = u64::from_le_bytes(*flags);
            while left != 0 {
                let place = start + left.trailing_zeros() as usize / 8;
                found(place as u32, values[place]);
                left &= left - 1;
            }
        }
    }
}

/// What the sum of some of these weights may be where it is zero in exact arithmetic: 0.3 − 0.1 −
/// 0.2 is not zero in `f32`. Weights of one sign cannot cancel out.
fn rounding(weights: &[f32]) -> f32 {
    let positive: f32 = weights.iter().map(|weight| weight.max(0.0)).sum();
    let negative: f32 = weights.iter().map(|weight| weight.max(0.0) - weight).sum();
    match positive > 0.0 && negative > 0.0 {
        true => weights.len() as f32 * f32::EPSILON * (positive + negative),
        false => 0.0,
    }
}

vectorised! {
    /// `out + factor · (values − anchor)` in `out`.
    pub fn add_difference(out: &mut [f32], factor: f32, values: &[f32], anchor: &[f32]) {
        for ((out, value), anchor) in out.iter_mut().zip(values).zip(anchor) {
            *out += factor * (value - anchor);
        }
    }

    /// `base + factor · out` in `out`.
    pub fn add_to(out: &mut [f32], factor: f32, base: &[f32]) {
        for (out, base) in out.iter_mut().zip(base) {
            *out = base + *out * factor;
        }
    }

    /// Σ |a|.
    pub fn sum_abs(a: &[f32]) -> f64 {
        let mut sums = [0f64; LANES];
        let (a, rest) = a.as_chunks::<LANES>();
        for a in a {
            for (sum, a) in sums.iter_mut().zip(a) {
                *sum += f64::from(a.abs());
            }
        }
        for (sum, a) in sums.iter_mut().zip(rest) {
            *sum += f64::from(a.abs());
        }
        sums.iter().sum()
    }

    /// How many values have a [`key`] of at least `bound`.
    pub fn count_from(values: &[f32], bound: u32) -> u32 {
        values.iter().map(|value| u32::from(key(*value) >= bound)).sum()
    }

    /// How many values are not zero.
    pub fn non_zero(values: &[f32]) -> u32 {
        values.iter().map(|value| u32::from(*value != 0.0)).sum()
    }

    /// The [`key`] of each value.
    pub fn keys(values: &[f32], out: &mut [u32]) {
        for (out, value) in out.iter_mut().zip(values) {
            *out = key(*value);
        }
    }

    /// Zeroes the values whose [`key`] is below `bound`.
    pub fn keep_from(values: &mut [f32], bound: u32) {
        for value in values {
            *value = if key(*value) >= bound { *value } else { 0.0 };
        }
    }

    /// How many keys are above `high`, and how many equal each of `atoms`. The others that are
    /// at least `low` are left in `within`, with their places.
    pub fn count(
        keys: &[u32],
        low: u32,
        high: u32,
        atoms: &[u32; 4],
        within: &mut Vec<(u32, u32)>,
    ) -> [u32; 5] {
        let mut counts = [0u32; 5];
        let mut window = 0;
        for key in keys {
            counts[0] += u32::from(*key > high);
        }
        for key in keys {
            window += u32::from((*key >= low) & (*key <= high));
        }
        for (count, atom) in counts[1..].iter_mut().zip(atoms) {
            let mut equal = 0;
            for key in keys {
                equal += u32::from(key == atom);
            }
            *count = equal;
        }
        within.clear();
        if window > counts[1..].iter().sum() {
            let is_other = |key: u32| (key >= low) & (key <= high) & !atoms.contains(&key);
            places(keys, is_other, |place, key| within.push((key, place)));
        }
        counts
    }

    /// The sum of the updates, weighted, at each position over the models whose sign there is
    /// that of the plain sum of updates (zero counts as +; entries of zero are left out), divided
    /// by the sum of their weights where `normalize` is set and that is not zero (up to the
    /// rounding of weights of both signs). `used` counts the entries that were kept, by model.
    ///
    /// `scaled`: the updates are multiplied by their weights here; else they have been before.
    pub fn agree(
        updates: &[Vec<f32>],
        weights: &[f32],
        scaled: bool,
        normalize: bool,
        out: &mut [f32],
        used: &mut [u32],
    ) {
        let zero = rounding(weights);
        for start in (0..out.len()).step_by(STRIP) {
            let end = (start + STRIP).min(out.len());
            let (mut total, mut divisor) = ([0f32; STRIP], [0f32; STRIP]);
            let out = &mut out[start..end];
            out.fill(0.0);
            for update in updates {
                // From +0: a sum of zeros is positive.
                for (total, delta) in total.iter_mut().zip(&update[start..end]) {
                    *total += delta;
                }
            }
            for ((update, weight), used) in updates.iter().zip(weights).zip(used.iter_mut()) {
                let factor = if scaled { *weight } else { 1.0 };
                let mut kept = 0;
                let places = out.iter_mut().zip(&mut divisor).zip(&total);
                for (((out, divisor), total), delta) in places.zip(&update[start..end]) {
                    let same_sign = ((delta.to_bits() ^ total.to_bits()) as i32) >= 0;
                    let keep = same_sign & (*delta != 0.0);
                    // Masks, as branches and products of 0 would not do for infinities.
                    let mask = if keep { u32::MAX } else { 0 };
                    *out += f32::from_bits((factor * delta).to_bits() & mask);
                    *divisor += f32::from_bits(weight.to_bits() & mask);
                    kept += mask & 1;
                }
                *used += kept;
            }
            if normalize {
                for (out, divisor) in out.iter_mut().zip(&divisor) {
                    *out /= if divisor.abs() <= zero { 1.0 } else { *divisor };
                }
            }
        }
    }

    /// A measure of how much the models vary at each position: n Σ d² − (Σ d)² with d the
    /// difference from the first model, which is n² times the variance. In `f64`, and exact
    /// where the differences have few bits.
    pub fn spread(models: &[Vec<f32>], out: &mut [f64]) {
        let Some((first, others)) = models.split_first() else {
            return;
        };
        let n = models.len() as f64;
        let (first_chunks, first_rest) = first.as_chunks::<CHUNK>();
        let (out_chunks, out_rest) = out.as_chunks_mut::<CHUNK>();
        for (at, (out, first)) in out_chunks.iter_mut().zip(first_chunks).enumerate() {
            let (mut sum, mut squares) = ([0f64; CHUNK], [0f64; CHUNK]);
            for model in others {
                let model = &model.as_chunks::<CHUNK>().0[at];
                let sums = sum.iter_mut().zip(&mut squares);
                for (((sum, squares), value), first) in sums.zip(model).zip(first) {
                    let d = f64::from(*value) - f64::from(*first);
                    *sum += d;
                    *squares += d * d;
                }
            }
            for ((out, sum), squares) in out.iter_mut().zip(&sum).zip(&squares) {
                *out = n * squares - sum * sum;
            }
        }
        let start = first.len() - first_rest.len();
        for (at, (out, first)) in (start..).zip(out_rest.iter_mut().zip(first_rest)) {
            let (mut sum, mut squares) = (0.0, 0.0);
            for model in others {
                let d = f64::from(model[at]) - f64::from(*first);
                sum += d;
                squares += d * d;
            }
            *out = n * squares - sum * sum;
        }
    }

    /// How many measures are above `high` (or NaN), and how many are not zero.
    pub fn above(measures: &[f64], high: f64) -> [u32; 2] {
        let (mut up_to, mut nonzero) = (0u64, 0u64);
        for measure in measures {
            up_to += u64::from(*measure <= high);
            nonzero += u64::from(*measure != 0.0);
        }
        [measures.len() as u32 - up_to as u32, nonzero as u32]
    }

    /// The places of the measures from `low` to `high`, which are few.
    pub fn between(measures: &[f64], low: f64, high: f64, found: &mut Vec<u32>) {
        let is_between = |measure: f64| (measure >= low) & (measure <= high);
        let mut count = 0u64;
        for measure in measures {
            count += u64::from(is_between(*measure));
        }
        found.clear();
        if count > 0 {
            places(measures, is_between, |place, _| found.push(place));
        }
    }

    /// Σ (value − base)² over all places, and over those whose measure is above `high` (or NaN).
    pub fn squares_above(values: &[f32], base: &[f32], measures: &[f64], high: f64) -> (f64, f64) {
        let (mut all, mut above) = ([0f64; LANES], [0f64; LANES]);
        let (values, values_rest) = values.as_chunks::<LANES>();
        let (base, base_rest) = base.as_chunks::<LANES>();
        let (measures, measures_rest) = measures.as_chunks::<LANES>();
        for ((values, base), measures) in values.iter().zip(base).zip(measures) {
            for lane in 0..LANES {
                let delta = f64::from(values[lane] - base[lane]);
                let square = delta * delta;
                all[lane] += square;
                above[lane] += if measures[lane] <= high { 0.0 } else { square };
            }
        }
        let rest = values_rest.iter().zip(base_rest).zip(measures_rest);
        for (lane, ((value, base), measure)) in rest.enumerate() {
            let delta = f64::from(value - base);
            all[lane] += delta * delta;
            above[lane] += if *measure <= high { 0.0 } else { delta * delta };
        }
        (all.iter().sum(), above.iter().sum())
    }

    /// `values − base` in place where the measure is above `high` (or NaN), zero elsewhere.
    pub fn subtract_above(values: &mut [f32], base: &[f32], measures: &[f64], high: f64) {
        for ((value, base), measure) in values.iter_mut().zip(base).zip(measures) {
            let delta = *value - base;
            *value = if *measure <= high { 0.0 } else { delta };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize) -> Vec<f32> {
        (0..count as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 12) as f32 / 1e5 - 5.0)
            .collect()
    }

    #[test]
    fn sums_are_exact_on_small_integers_at_every_length() {
        for len in [0, 1, 31, 32, 33, 100, 1000] {
            let a: Vec<f32> = (0..len).map(|i| i as f32 - 7.0).collect();
            let squares: i64 = (0..len as i64).map(|i| (i - 7) * (i - 7)).sum();
            let magnitudes: i64 = (0..len as i64).map(|i| (i - 7).abs()).sum();
            assert_eq!(dot(&a, &a), squares as f64);
            assert_eq!(sum_abs(&a), magnitudes as f64);
        }
    }

    #[test]
    fn the_spread_is_the_variance_times_n_squared() {
        let models: Vec<Vec<f32>> = vec![
            vec![1.0, 5.0, 3.0],
            vec![2.0, 5.0, -3.0],
            vec![6.0, 5.0, 0.0],
        ];
        let mut out = [0.0; 3];
        spread(&models, &mut out);
        // Variances 14/3, 0, 6.
        assert_eq!(out, [42.0, 0.0, 54.0]);
    }

    #[test]
    fn keys_are_counted_once_each() {
        let keys: Vec<u32> = numbers(1000).iter().map(|x| key(*x)).collect();
        let mut sorted = keys.clone();
        sorted.sort_unstable();
        let (low, high) = (sorted[300], sorted[600]);
        let atoms = [sorted[400], sorted[500], u32::MAX, u32::MAX];
        let mut within = Vec::new();
        let counts = count(&keys, low, high, &atoms, &mut within);
        let all = |test: &dyn Fn(u32) -> bool| keys.iter().filter(|k| test(**k)).count() as u32;
        assert_eq!(counts[0], all(&|k| k > high));
        assert_eq!(counts[1], all(&|k| k == atoms[0]));
        assert_eq!(counts[3], 0);
        let window = all(&|k| k >= low && k <= high);
        assert_eq!(within.len() as u32, window - counts[1] - counts[2]);
        assert!(
            within
                .iter()
                .all(|(key, place)| keys[*place as usize] == *key)
        );
    }

    #[test]
    fn measures_are_told_apart_by_a_window() {
        let measures: Vec<f64> = (0..100).map(f64::from).chain([f64::NAN]).collect();
        let mut within = Vec::new();
        between(&measures, 50.0, 89.0, &mut within);
        assert_eq!(above(&measures, 89.0), [11, 100]);
        assert_eq!(within, (50..90).collect::<Vec<u32>>());
    }

    #[test]
    fn values_that_are_not_finite_are_counted() {
        let values = [1.0, f32::NAN, f32::INFINITY, -0.0, f32::MAX];
        assert_eq!(count_from(&values, key(f32::INFINITY)), 2);
    }
}
