//! Sums and products of slices, on the widest vectors that the machine has.
//!
//! Sums are taken in a fixed number of lanes that are added in order, so that they do not depend
//! on the width of the vectors.

use super::simd::vectorised;

/// Lanes of a sum.
const LANES: usize = 16;

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

    /// Σ a·b.
    pub fn dot(a: &[f32], b: &[f32]) -> f64 {
        let mut sums = [0f64; LANES];
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
        for (a, b) in a.iter().zip(b) {
            for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                *sum += f64::from(*a) * f64::from(*b);
            }
        }
        for ((sum, a), b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
            *sum += f64::from(*a) * f64::from(*b);
        }
        sums.iter().sum()
    }
}
