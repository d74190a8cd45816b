//! Loops over tiles of numbers, on the widest vectors that the machine has.
//!
//! Sums are taken in a fixed number of lanes that are added in order, so that they do not depend
//! on the width of the vectors.

use crate::tensors::simd::vectorised;

/// Lanes of a sum.
const LANES: usize = 32;
/// Positions that a loop over several models holds at a time.
const STRIP: usize = 128;
/// Positions that are looked at one by one where one of them is wanted.
const CHUNK: usize = 32;

/// The bits of a number's magnitude, which order like the magnitude; NaN is the largest.
#[inline(always)]
pub fn key(value: f32) -> u32 {
    value.to_bits() & 0x7fff_ffff
}

/// Σ of `term` over the places, in lanes.
#[inline(always)]
fn lanes(len: usize, mut term: impl FnMut(usize) -> f64) -> f64 {
    let mut sums = [0f64; LANES];
    let whole = len - len % LANES;
    let mut start = 0;
    while start < whole {
        for (lane, sum) in sums.iter_mut().enumerate() {
            *sum += term(start + lane);
        }
        start += LANES;
    }
    for place in whole..len {
        sums[place - whole] += term(place);
    }
    sums.iter().sum()
}

vectorised! {
    /// `values − base` in place.
    pub fn subtract(values: &mut [f32], base: &[f32]) {
        for (value, base) in values.iter_mut().zip(base) {
            *value -= base;
        }
    }

    /// `values · factor` in place.
    pub fn scale(values: &mut [f32], factor: f32) {
        for value in values {
            *value *= factor;
        }
    }

    /// `out + factor · values` in `out`.
    pub fn add(out: &mut [f32], factor: f32, values: &[f32]) {
        for (out, value) in out.iter_mut().zip(values) {
            *out += factor * value;
        }
    }

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

    /// Σ a·b.
    pub fn dot(a: &[f32], b: &[f32]) -> f64 {
        let len = a.len().min(b.len());
        let (a, b) = (&a[..len], &b[..len]);
        lanes(len, |at| f64::from(a[at]) * f64::from(b[at]))
    }

    /// Σ |a|.
    pub fn sum_abs(a: &[f32]) -> f64 {
        lanes(a.len(), |at| f64::from(a[at].abs()))
    }

    /// How many values are infinite or NaN.
    pub fn not_finite(values: &[f32]) -> u32 {
        values.iter().map(|value| u32::from(key(*value) >= 0x7f80_0000)).sum()
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
        within.clear();
        for (chunk, place) in keys.chunks(CHUNK).zip((0u32..).step_by(CHUNK)) {
            let mut some = 0;
            for key in chunk {
                let above = u32::from(*key > high);
                counts[0] += above;
                let mut other = u32::from(*key >= low) & !above;
                for (count, atom) in counts[1..].iter_mut().zip(atoms) {
                    let equal = u32::from(key == atom);
                    *count += equal;
                    other &= !equal;
                }
                some += other;
            }
            if some > 0 {
                let is_other = |key: u32| key >= low && key <= high && !atoms.contains(&key);
                let places = chunk.iter().zip(place..).filter(|(key, _)| is_other(**key));
                within.extend(places.map(|(key, place)| (*key, place)));
            }
        }
        counts
    }

    /// The sum of the updates, weighted, at each position over the models whose sign there is
    /// that of the plain sum of updates (zero counts as +; entries of zero are left out), divided
    /// by the sum of their weights where `normalize` is set and that is not zero. `used` counts
    /// the entries that were kept, by model.
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
        let len = out.len();
        for start in (0..len).step_by(STRIP) {
            let width = STRIP.min(len - start);
            let (mut total, mut mixed, mut divisor) = ([0f32; STRIP], [0f32; STRIP], [0f32; STRIP]);
            for update in updates {
                for (total, delta) in total.iter_mut().zip(&update[start..start + width]) {
                    *total += delta;
                }
            }
            for ((update, weight), used) in updates.iter().zip(weights).zip(used.iter_mut()) {
                let factor = if scaled { *weight } else { 1.0 };
                let mut kept = 0;
                let places = mixed.iter_mut().zip(&mut divisor).zip(&total);
                for (((mixed, divisor), total), delta) in places.zip(&update[start..start + width]) {
                    let keep = (*delta != 0.0) & ((*delta > 0.0) == (*total >= 0.0));
                    *mixed += if keep { factor * delta } else { 0.0 };
                    *divisor += if keep { *weight } else { 0.0 };
                    kept += u32::from(keep);
                }
                *used += kept;
            }
            let places = out[start..start + width].iter_mut().zip(&mixed).zip(&divisor);
            for ((out, mixed), divisor) in places {
                let by = if normalize & (*divisor != 0.0) { *divisor } else { 1.0 };
                *out = mixed / by;
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
        let len = out.len();
        for start in (0..len).step_by(STRIP) {
            let here = start..(start + STRIP).min(len);
            let (mut sum, mut squares) = ([0f64; STRIP], [0f64; STRIP]);
            for model in others {
                let places = sum.iter_mut().zip(&mut squares);
                let values = model[here.clone()].iter().zip(&first[here.clone()]);
                for ((sum, squares), (value, first)) in places.zip(values) {
                    let d = f64::from(*value) - f64::from(*first);
                    *sum += d;
                    *squares += d * d;
                }
            }
            for ((out, sum), squares) in out[here].iter_mut().zip(&sum).zip(&squares) {
                *out = n * squares - sum * sum;
            }
        }
    }

    /// How many measures are above `high` (or NaN), and how many are not zero; the places of
    /// those from `low` to `high` are left in `within`.
    pub fn classify(measures: &[f64], low: f64, high: f64, within: &mut Vec<u32>) -> [u32; 2] {
        let mut counts = [0u32; 2];
        within.clear();
        for (chunk, place) in measures.chunks(CHUNK).zip((0u32..).step_by(CHUNK)) {
            let mut some = 0u32;
            for measure in chunk {
                let above = u32::from(!(*measure <= high));
                counts[0] += above;
                counts[1] += u32::from(*measure != 0.0);
                some += u32::from(*measure >= low) & !above;
            }
            if some > 0 {
                let found = |measure: &f64| *measure >= low && *measure <= high;
                let places = (place..).zip(chunk).filter(|(_, measure)| found(measure));
                within.extend(places.map(|(place, _)| place));
            }
        }
        counts
    }

    /// Σ (value − base)² over all places, and over those whose measure is above `high` (or NaN).
    pub fn squares_above(values: &[f32], base: &[f32], measures: &[f64], high: f64) -> (f64, f64) {
        let len = values.len().min(base.len()).min(measures.len());
        let (values, base, measures) = (&values[..len], &base[..len], &measures[..len]);
        let square = |at: usize| {
            let delta = f64::from(values[at] - base[at]);
            delta * delta
        };
        let all = lanes(len, square);
        let above = lanes(len, |at| if measures[at] <= high { 0.0 } else { square(at) });
        (all, above)
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
        let counts = classify(&measures, 50.0, 89.0, &mut within);
        assert_eq!(counts, [11, 100]);
        assert_eq!(within, (50..90).collect::<Vec<u32>>());
    }

    #[test]
    fn values_that_are_not_finite_are_counted() {
        assert_eq!(
            not_finite(&[1.0, f32::NAN, f32::INFINITY, -0.0, f32::MAX]),
            2
        );
    }
}
