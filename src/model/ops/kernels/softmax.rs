//! The causal softmax.

use super::rows::max;
use super::scalar::{exp, sum2};

/// The causal window of query position `position`: `begin..end` of the keys that it sees.
#[inline]
pub fn visible(position: usize, window: Option<usize>) -> std::ops::Range<usize> {
    let end = position + 1;
    end.saturating_sub(window.unwrap_or(end))..end
}

wide! {
    /// Softmax of `scale * row` over the `visible` entries, in place; all others become 0.
    pub fn softmax_row(row: &mut [f32], visible: std::ops::Range<usize>, scale: f32) {
        let (before, rest) = row.split_at_mut(visible.start);
        let (row, after) = rest.split_at_mut(visible.end - visible.start);
        before.fill(0.0);
        after.fill(0.0);
        let shift = max(row) * scale;
        for value in row.iter_mut() {
            *value = exp(*value * scale - shift);
        }
        let sum = sum2(row, row, |value, _| value);
        let inverse = 1.0 / sum;
        for value in row {
            *value *= inverse;
        }
    }
}

wide! {
    /// Gradient of [`softmax_row`] given its result `p` and the gradient `out` of it, in place.
    pub fn softmax_row_backward(p: &[f32], out: &mut [f32], scale: f32) {
        let dot = sum2(p, out, |p, g| p * g);
        for (out, &p) in out.iter_mut().zip(p) {
            *out = scale * p * (*out - dot);
        }
    }
}

/// Adds `slope` times the distance to the last entry, which is 0, -1, -2, .. backwards.
pub fn add_distance_row(row: &mut [f32], slope: f32) {
    let last = row.len() as f32 - 1.0;
    for (index, value) in row.iter_mut().enumerate() {
        *value += slope * (index as f32 - last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_end_at_the_token_itself() {
        assert_eq!(visible(0, None), 0..1);
        assert_eq!(visible(5, None), 0..6);
        assert_eq!(visible(5, Some(2)), 4..6);
        assert_eq!(visible(1, Some(8)), 0..2);
    }

    #[test]
    fn softmax_masks_and_sums_to_one() {
        let mut row = [9.0, 1.0, 2.0, 3.0, 9.0];
        softmax_row(&mut row, 1..4, 0.5);
        let e = [0.5f64.exp(), 1.0f64.exp(), 1.5f64.exp()];
        let sum: f64 = e.iter().sum();
        assert_eq!((row[0], row[4]), (0.0, 0.0));
        for (got, want) in row[1..4].iter().zip(e) {
            assert!((f64::from(*got) - want / sum).abs() < 1e-6);
        }
        let mut bad = [1.0, f32::INFINITY];
        softmax_row(&mut bad, 0..2, 1.0);
        assert!(bad[0].is_nan());
    }
}
