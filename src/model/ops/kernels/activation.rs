//! Gated activation, soft cap, rotation.

use super::scalar::{sigmoid, tanh};

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
