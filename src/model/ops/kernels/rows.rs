//! Sums, maxima and maps of a row.

use super::scalar::{LANES, exp, sum2};

wide! {
    /// The largest value of a row; NaN only if all are.
    pub fn max(row: &[f32]) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let chunks = row.chunks_exact(LANES);
        let mut best = f32::NEG_INFINITY;
        for &value in chunks.remainder() {
            best = if value > best { value } else { best };
        }
        for chunk in chunks {
            for lane in 0..LANES {
                let value = chunk[lane];
                lanes[lane] = if value > lanes[lane] {
                    value
                } else {
                    lanes[lane]
                };
            }
        }
        lanes.iter().fold(best, |a, &b| if b > a { b } else { a })
    }
}

wide! {
    /// Sum of e^(value - shift) over a row, in f32 lanes; NaN if a value is NaN or +inf.
    pub fn sum_exp(row: &[f32], shift: f32) -> f32 {
        sum2(row, row, |value, _| exp(value - shift))
    }
}

wide! {
    /// Replaces each value by e^(value - shift) and returns the sum: f32 in blocks, which are added in
    /// f64. NaN if a value is NaN or +inf.
    pub fn exp_row(row: &mut [f32], shift: f32) -> f64 {
        let mut total = 0.0;
        for block in row.chunks_mut(64 * LANES) {
            for value in block.iter_mut() {
                *value = exp(*value - shift);
            }
            total += f64::from(sum2(block, block, |value, _| value));
        }
        total
    }
}

wide! {
    /// `value * scale + shift` for each value.
    pub fn affine_row(row: &mut [f32], scale: f32, shift: f32) {
        for value in row {
            *value = *value * scale + shift;
        }
    }
}

wide! {
    /// Whether no value is NaN or infinite.
    pub fn all_finite(row: &[f32]) -> bool {
        // 0 times anything else is 0.
        sum2(row, row, |value, _| value * 0.0) == 0.0
    }
}
