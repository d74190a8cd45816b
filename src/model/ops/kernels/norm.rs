//! Root-mean-square norm.

use rayon::prelude::*;

use super::scalar::sum2;
use super::tasks::rows_per_task;

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
