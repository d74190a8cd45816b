//! Row kernels in f32 for the CPU, forward and backward.
//!
//! Plain loops over slices, written so that the compiler vectorises them, for the widest registers
//! that the machine has (`wide!`); rows are spread over the thread pool in chunks of fixed size.
//! Results depend neither on the number of threads nor on the machine: no operation is fused or
//! reordered.

use rayon::prelude::*;

/// Compiles a function for AVX2 and AVX-512 too, and calls the best that the machine has.
macro_rules! wide {
    ($(#[$meta:meta])* pub fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$meta])*
        pub fn $name($($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            fn plain($($arg: $type),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) $(-> $out)? {
                    plain($($arg),*)
                }
                #[target_feature(enable = "avx512f")]
                fn avx512($($arg: $type),*) $(-> $out)? {
                    plain($($arg),*)
                }
                if is_x86_feature_detected!("avx512f") {
                    // SAFETY: the machine has the instructions.
                    return unsafe { avx512($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the machine has the instructions.
                    return unsafe { avx2($($arg),*) };
                }
            }
            plain($($arg),*)
        }
    };
}

/// Elements per parallel task: enough to hide the cost of a task.
const TASK: usize = 1 << 14;

/// Rows of `width` elements that one task should take.
fn rows_per_task(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

/// Runs `f(row index, row)` over the rows of `out`.
pub fn for_rows(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = rows_per_task(width);
    if out.len() <= TASK {
        for (row, values) in out.chunks_exact_mut(width).enumerate() {
            f(row, values);
        }
        return;
    }
    out.par_chunks_mut(rows * width)
        .enumerate()
        .for_each(|(task, chunk)| {
            for (row, values) in chunk.chunks_exact_mut(width).enumerate() {
                f(task * rows + row, values);
            }
        });
}

/// Runs `f(row index, row of a, row of b)` over two outputs with rows of the same width.
pub fn for_rows2(
    a: &mut [f32],
    b: &mut [f32],
    width: usize,
    f: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    let rows = rows_per_task(width);
    a.par_chunks_mut(rows * width)
        .zip(b.par_chunks_mut(rows * width))
        .enumerate()
        .for_each(|(task, (a, b))| {
            let pairs = a.chunks_exact_mut(width).zip(b.chunks_exact_mut(width));
            for (row, (a, b)) in pairs.enumerate() {
                f(task * rows + row, a, b);
            }
        });
}

/// e^x within 2 ulp, in a form that vectorises. Results below e^-87 are that small number
/// instead of 0, those above e^88 are that large one; NaN stays NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer, which then sits in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.0 / 5040.0;
    for c in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        p = p * r + c;
    }
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    p * scale
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

const LANES: usize = 16;

/// Folds two rows into a sum, several lanes at a time.
#[inline(always)]
fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a_chunks
        .remainder()
        .iter()
        .zip(b_chunks.remainder())
        .map(|(&a, &b)| f(a, b))
        .sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += f(a[lane], b[lane]);
        }
    }
    lanes.iter().sum::<f32>() + tail
}

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

wide! {
    /// `out = x / rms(x) * weight` for one row.
    pub fn rms_norm_row(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let scale = inverse_rms(x, eps);
        for ((out, &x), &w) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * w;
        }
    }
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let mean = sum2(x, x, |a, b| a * b) / x.len() as f32;
    1.0 / (mean + eps).sqrt()
}

wide! {
    /// Gradient of [`rms_norm_row`] for `x`; that for the weight is added to `dw`.
    pub fn rms_norm_row_backward(
        x: &[f32],
        weight: &[f32],
        grad: &[f32],
        eps: f32,
        dx: &mut [f32],
        dw: &mut [f32],
    ) {
        let scale = inverse_rms(x, eps);
        for (((dx, dw), (&x, &g)), &w) in dx
            .iter_mut()
            .zip(dw.iter_mut())
            .zip(x.iter().zip(grad))
            .zip(weight)
        {
            *dw += g * x * scale;
            *dx = g * w;
        }
        let dot = sum2(dx, x, |a, b| a * b) * scale * scale / x.len() as f32;
        for (dx, &x) in dx.iter_mut().zip(x) {
            *dx = (*dx - x * dot) * scale;
        }
    }
}

/// Gradients of an RMS norm over rows: (for x, for the weight).
pub fn rms_norm_backward(
    x: &[f32],
    weight: &[f32],
    grad: &[f32],
    eps: f32,
) -> (Vec<f32>, Vec<f32>) {
    let width = weight.len();
    let chunk = rows_per_task(width) * width;
    let mut dx = vec![0f32; x.len()];
    // One partial sum per chunk, added in order: the same bits for any number of threads.
    let partial: Vec<Vec<f32>> = dx
        .par_chunks_mut(chunk)
        .zip(x.par_chunks(chunk).zip(grad.par_chunks(chunk)))
        .map(|(dx, (x, grad))| {
            let mut dw = vec![0f32; width];
            let rows = x.chunks_exact(width).zip(grad.chunks_exact(width));
            for (dx, (x, grad)) in dx.chunks_exact_mut(width).zip(rows) {
                rms_norm_row_backward(x, weight, grad, eps, dx, &mut dw);
            }
            dw
        })
        .collect();
    let mut dw = vec![0f32; width];
    for part in partial {
        for (sum, value) in dw.iter_mut().zip(part) {
            *sum += value;
        }
    }
    (dx, dw)
}

wide! {
    /// `silu(gate) * up`, elementwise.
    pub fn swiglu(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate * sigmoid(gate) * up;
        }
    }
}

wide! {
    /// Gradients of [`swiglu`] for `gate` and `up`.
    pub fn swiglu_backward(gate: &[f32], up: &[f32], grad: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        let outputs = dgate.iter_mut().zip(dup);
        for ((&gate, &up), (&grad, (dgate, dup))) in gate.iter().zip(up).zip(grad.iter().zip(outputs)) {
            let sigma = sigmoid(gate);
            let silu = gate * sigma;
            *dgate = grad * up * (sigma + silu * (1.0 - sigma));
            *dup = grad * silu;
        }
    }
}

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

wide! {
    /// `cap * tanh(x / cap)` for each x.
    pub fn softcap_row(row: &mut [f32], cap: f32) {
        for value in row {
            *value = cap * tanh(*value / cap);
        }
    }
}

/// Derivatives of [`softcap_row`] given its result.
pub fn softcap_derivative_row(capped: &[f32], cap: f32, out: &mut [f32]) {
    for (out, &capped) in out.iter_mut().zip(capped) {
        let t = capped / cap;
        *out = 1.0 - t * t;
    }
}

/// Adds `slope` times the distance to the last entry, which is 0, -1, -2, .. backwards.
pub fn add_distance_row(row: &mut [f32], slope: f32) {
    let last = row.len() as f32 - 1.0;
    for (index, value) in row.iter_mut().enumerate() {
        *value += slope * (index as f32 - last);
    }
}

/// tanh x within 3e-7, relative where it is small, in a form that vectorises.
#[inline(always)]
fn tanh(x: f32) -> f32 {
    let square = x * x;
    let small = x
        * (1.0
            + square
                * (-1.0 / 3.0
                    + square * (2.0 / 15.0 + square * (-17.0 / 315.0 + square * (62.0 / 2835.0)))));
    let large = (1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0)).copysign(x);
    if x.abs() < 0.25 { small } else { large }
}

wide! {
    /// Rotates the pairs `(i, i + half)` of `x` into `out`, `half` being the number of angles, and
    /// copies what is after them; `sign` -1 rotates backwards.
    pub fn rotate_row(x: &[f32], cos: &[f32], sin: &[f32], sign: f32, out: &mut [f32]) {
        let half = cos.len();
        let (x, rest) = x.split_at(2 * half);
        let (out, out_rest) = out.split_at_mut(2 * half);
        out_rest.copy_from_slice(rest);
        let (a, b) = x.split_at(half);
        let (out_a, out_b) = out.split_at_mut(half);
        let outputs = out_a.iter_mut().zip(out_b);
        let angles = cos.iter().zip(sin);
        for (((&a, &b), (&cos, &sin)), (out_a, out_b)) in a.iter().zip(b).zip(angles).zip(outputs) {
            let sin = sin * sign;
            *out_a = a * cos - b * sin;
            *out_b = a * sin + b * cos;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_and_keeps_nan() {
        let mut x = -86.5f32;
        while x < 87.5 {
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) - want).abs() / want;
            assert!(error < 2.5e-7, "exp({x}) is off by {error}");
            x += 0.0173;
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn tanh_is_accurate_and_keeps_nan() {
        let mut x = -12.0f32;
        while x < 12.0 {
            let want = f64::from(x).tanh();
            let error = (f64::from(tanh(x)) - want).abs() / want.abs().max(1e-30);
            assert!(error < 6e-7, "tanh({x}) is off by {error}");
            x += 0.00377;
        }
        assert_eq!((tanh(0.0), tanh(1e30), tanh(-1e30)), (0.0, 1.0, -1.0));
        assert!(tanh(f32::NAN).is_nan());
    }

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
