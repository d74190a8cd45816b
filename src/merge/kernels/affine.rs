//! Methods whose result is a linear combination of the tensors, with coefficients that follow
//! from weights and inner products of whole tensors.

use super::super::blocks::{Tiles, gram, pair, squares};
use super::super::methods::Family;
use super::super::vector::{add, add_difference, dot};
use super::{Job, Outcome, Output, Remark, Result, Share};

/// `base_factor · base + Σ factors[j] · (model_j − base)`, or `Σ factors[j] · model_j` where
/// there is no base.
struct Combination {
    factors: Vec<f64>,
    remark: Option<Remark>,
}

impl From<Vec<f64>> for Combination {
    fn from(factors: Vec<f64>) -> Self {
        Self {
            factors,
            remark: None,
        }
    }
}

/// Merges by the job's method (one of those that are linear combinations).
pub(super) fn merge(job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
    let n = job.count();
    let products = |job: &Job<'_>| gram(&job.walk, &job.inputs);
    let combination: Combination = match job.method.family {
        Family::Passthrough => vec![job.per_model[0].number("scale")].into(),
        Family::Varm => uniform_or_share(squares(&job.walk, &job.inputs)?).into(),
        Family::Slerp => return slerp(job, output),
        Family::NuSlerp => {
            let weights = job.weights();
            let total = weights[0] + weights[1];
            let t = if total.abs() < 1e-6 {
                0.5
            } else {
                weights[1] / total
            };
            let g = products(job)?;
            spherical(t, g[pair(2, 0, 0)], g[pair(2, 1, 1)], g[pair(2, 0, 1)]).into()
        }
        Family::MultiSlerp if n > 1 => multislerp(job, &products(job)?),
        Family::Karcher if n > 1 => karcher(job, &products(job)?).into(),
        Family::ModelStock => {
            let t = stock(n, &products(job)?);
            vec![t / n as f64; n].into()
        }
        // One model of karcher or multislerp, or linear.
        Family::Linear => return linear(job, output),
        _ => vec![1.0; n].into(),
    };
    combine(job, output, &combination)
}

/// η_j = x_j / Σ x, or 1/n where the sum is zero.
pub(super) fn uniform_or_share(squares: Vec<f64>) -> Vec<f64> {
    let total: f64 = squares.iter().sum();
    let n = squares.len() as f64;
    squares
        .iter()
        .map(|x| if total > 0.0 { x / total } else { 1.0 / n })
        .collect()
}

fn combine(job: &Job<'_>, output: &Output<'_>, combination: &Combination) -> Result<Outcome> {
    let n = job.count();
    let factors: Vec<f32> = combination.factors.iter().map(|f| *f as f32).collect();
    let sums = job
        .walk
        .produce(&job.inputs, output, n, |range, tiles, sums| {
            tiles.read_deltas(&job.inputs, range);
            norms(tiles, sums);
            let Tiles {
                base,
                models,
                merged,
                ..
            } = tiles;
            merged.fill(0.0);
            for (factor, model) in factors.iter().zip(models.iter()) {
                add(merged, *factor, model);
            }
            if job.inputs.base.is_some() {
                add(merged, 1.0, base);
            }
        })?;
    let shares = shares(&combination.factors, &sums);
    Ok(Outcome::new(shares, sums.last()).with(combination.remark))
}

/// The weighted mean. Where the weights are divided by their sum it is taken around the first
/// model, so that merging copies gives back the copy exactly.
fn linear(job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
    let weights = job.weights();
    let total: f64 = weights.iter().sum();
    let normalize = job.values.flag("normalize");
    let factors: Vec<f64> = if normalize {
        weights.iter().map(|w| w / total).collect()
    } else {
        weights
    };
    let rounded: Vec<f32> = factors.iter().map(|f| *f as f32).collect();
    let n = factors.len();
    let sums = job
        .walk
        .produce(&job.inputs, output, n, |range, tiles, sums| {
            tiles.read(&job.inputs, range);
            norms(tiles, sums);
            let Tiles { models, merged, .. } = tiles;
            let Some((first, others)) = models.split_first() else {
                return;
            };
            if normalize {
                merged.copy_from_slice(first);
                for (factor, model) in rounded[1..].iter().zip(others) {
                    add_difference(merged, *factor, model, first);
                }
            } else {
                merged.fill(0.0);
                for (factor, model) in rounded.iter().zip(models.iter()) {
                    add(merged, *factor, model);
                }
            }
        })?;
    Ok(Outcome::new(shares(&factors, &sums), sums.last()))
}

/// Adds the squared norm of each model's tile to `sums`.
pub(super) fn norms(tiles: &Tiles, sums: &mut [f64]) {
    for (sum, model) in sums.iter_mut().zip(&tiles.models) {
        *sum += dot(model, model);
    }
}

/// Shares of models that move every position.
pub(super) fn shares(coefficients: &[f64], squares: &[f64]) -> Vec<Share> {
    coefficients
        .iter()
        .zip(squares)
        .map(|(coefficient, square)| Share {
            coefficient: *coefficient,
            selected_fraction: 1.0,
            kept_fraction: 1.0,
            delta_norm: square.sqrt(),
        })
        .collect()
}

/// Base and model, interpolated on the sphere: angles are between the tensors themselves.
fn slerp(job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
    let t = job.values.number("t");
    let raw = super::Inputs {
        base: None,
        models: job
            .inputs
            .base
            .into_iter()
            .chain(job.inputs.models.iter().copied())
            .collect(),
    };
    let g = gram(&job.walk, &raw)?;
    let (a, b, ab) = (g[pair(2, 0, 0)], g[pair(2, 1, 1)], g[pair(2, 0, 1)]);
    let unit = |square: f64| {
        if square.sqrt() > 1e-8 {
            square.sqrt()
        } else {
            1.0
        }
    };
    let cosine = ab / (unit(a) * unit(b));
    let (from, to) = if cosine.abs() > 0.9995 {
        (1.0 - t, t)
    } else {
        let angle = cosine.acos();
        (
            (angle - angle * t).sin() / angle.sin(),
            (angle * t).sin() / angle.sin(),
        )
    };
    // from·base + to·model = (from + to)·base + to·(model − base)
    let (whole, part) = ((from + to) as f32, to as f32);
    let sums = job
        .walk
        .produce(&job.inputs, output, 1, |range, tiles, sums| {
            tiles.read_deltas(&job.inputs, range);
            norms(tiles, sums);
            let deltas = tiles.base.iter().zip(&tiles.models[0]);
            for (out, (base, delta)) in tiles.merged.iter_mut().zip(deltas) {
                *out = whole * base + part * delta;
            }
        })?;
    Ok(Outcome::new(shares(&[to], &sums), sums.last()))
}

/// Factors of two vectors with squared norms `a`, `b` and inner product `ab`, interpolated on
/// the sphere at `t`; linear where they are colinear.
pub(super) fn spherical(t: f64, a: f64, b: f64, ab: f64) -> Vec<f64> {
    let cosine = (ab / (a.sqrt().max(1e-7) * b.sqrt().max(1e-7))).clamp(-1.0, 1.0);
    let angle = cosine.acos();
    let sine = angle.sin();
    if sine.abs() < 1e-8 {
        return vec![1.0 - t, t];
    }
    vec![((1.0 - t) * angle).sin() / sine, (t * angle).sin() / sine]
}

/// xᵀ G y for a triangle `g` of inner products.
fn form(n: usize, g: &[f64], x: &[f64], y: &[f64]) -> f64 {
    (0..n)
        .flat_map(|i| (0..n).map(move |j| (i, j)))
        .map(|(i, j)| x[i] * y[j] * g[pair(n, i, j)])
        .sum()
}

/// The barycentre on the hypersphere, to first order in the tangent space of the mean direction.
fn multislerp(job: &Job<'_>, g: &[f64]) -> Combination {
    let n = job.count();
    let eps = job.values.number("eps");
    let mut weights = job.weights();
    if job.values.flag("normalize_weights") {
        let total: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= total);
    }
    let norms: Vec<f64> = (0..n).map(|i| g[pair(n, i, i)].max(0.0).sqrt()).collect();
    let mut mean: Vec<f64> = (0..n).map(|i| weights[i] / (norms[i] + eps)).collect();
    let length = form(n, g, &mean, &mean).max(0.0).sqrt();
    if length < eps {
        let cancels = norms.iter().any(|norm| *norm > eps);
        return Combination {
            factors: weights,
            remark: cancels.then_some(Remark::Antipodal),
        };
    }
    let mut tangent = mean.clone();
    mean.iter_mut().for_each(|m| *m /= length);
    // Σ w_i (u_i − (u_i·mean) mean); Σ w_i u_i is `tangent` so far.
    let along: f64 = form(n, g, &tangent, &mean);
    for (t, m) in tangent.iter_mut().zip(&mean) {
        *t -= along * m;
    }
    let angle = form(n, g, &tangent, &tangent).max(0.0).sqrt() + eps;
    let scale: f64 = norms.iter().zip(&weights).map(|(norm, w)| norm * w).sum();
    let factor = |(m, t): (&f64, &f64)| scale * (m * angle.cos() + t * angle.sin() / angle);
    Combination::from(mean.iter().zip(&tangent).map(factor).collect::<Vec<_>>())
}

/// The Riemannian mean of the directions, times the mean norm. All in the space of factors.
fn karcher(job: &Job<'_>, g: &[f64]) -> Vec<f64> {
    let n = job.count();
    let tol = job.values.number("tol");
    let norms: Vec<f64> = (0..n).map(|i| g[pair(n, i, i)].max(0.0).sqrt()).collect();
    let valid: Vec<usize> = (0..n).filter(|i| norms[*i] > tol).collect();
    if valid.is_empty() {
        return vec![0.0; n];
    }
    let share = 1.0 / valid.len() as f64;
    let unit = |i: usize| {
        let mut x = vec![0.0; n];
        x[i] = 1.0 / norms[i];
        x
    };
    let length = |x: &[f64]| form(n, g, x, x).max(0.0).sqrt();
    let mut mean = vec![0.0; n];
    for &i in &valid {
        mean[i] = share / norms[i];
    }
    let size = length(&mean);
    if size < tol {
        mean = unit(valid[0]);
    } else {
        mean.iter_mut().for_each(|m| *m /= size);
    }
    for _ in 0..job.values.number("max_iter") as usize {
        let mut step = vec![0.0; n];
        for &i in &valid {
            let direction = unit(i);
            let cosine = form(n, g, &mean, &direction).clamp(-1.0, 1.0);
            let angle = cosine.acos();
            if angle >= tol {
                let factor = share * angle / angle.sin();
                for k in 0..n {
                    step[k] += factor * (direction[k] - cosine * mean[k]);
                }
            }
        }
        let size = length(&step);
        if size.is_nan() || size < tol {
            break;
        }
        for (m, s) in mean.iter_mut().zip(&step) {
            *m = size.cos() * *m + size.sin() * s / size;
        }
        let size = length(&mean);
        if size > tol {
            mean.iter_mut().for_each(|m| *m /= size);
        }
    }
    let scale = norms.iter().sum::<f64>() / n as f64;
    mean.iter().map(|m| scale * m).collect()
}

/// Model Stock's interpolation ratio from the mean cosine between the updates.
pub(super) fn stock(n: usize, g: &[f64]) -> f64 {
    let mut cosines = 0.0;
    for i in 0..n {
        for j in i + 1..n {
            let norms = (g[pair(n, i, i)].max(0.0) * g[pair(n, j, j)].max(0.0)).sqrt();
            cosines += (g[pair(n, i, j)] / norms.max(1e-6)).clamp(-1.0, 1.0);
        }
    }
    let pairs = n * (n - 1) / 2;
    let cosine = cosines / pairs.max(1) as f64;
    let t = n as f64 * cosine / (1.0 + (n as f64 - 1.0) * cosine);
    if t.is_finite() { t } else { 0.0 }
}
