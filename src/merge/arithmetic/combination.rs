//! Linear combinations of whole tensors, with factors that follow from weights and inner products.

use super::blocks::{Output, Tiles, pair};
use super::job::{Job, Outcome, Remark, Share};
use super::vector::{add, dot};
use crate::error::Result;

/// `base + Σ factors[j] · (model_j − base)`, or `Σ factors[j] · model_j` where there is no base.
pub struct Combination {
    /// One for each model.
    pub factors: Vec<f64>,
    /// What a user should know.
    pub remark: Option<Remark>,
}

impl From<Vec<f64>> for Combination {
    fn from(factors: Vec<f64>) -> Self {
        Self {
            factors,
            remark: None,
        }
    }
}

impl Combination {
    /// Computes and writes it. One pass.
    ///
    /// # Errors
    ///
    /// A failed write, or the user's wish to stop.
    pub fn write(&self, job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
        let n = job.count();
        let factors: Vec<f32> = self.factors.iter().map(|f| *f as f32).collect();
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
        let shares = shares(&self.factors, &sums);
        Ok(Outcome::new(shares, sums.last()).with(self.remark))
    }
}

/// x_j / Σ x, or 1/n where the sum is zero.
pub fn shares_of_sum(values: &[f64]) -> Vec<f64> {
    let total: f64 = values.iter().sum();
    let n = values.len() as f64;
    values
        .iter()
        .map(|x| if total > 0.0 { x / total } else { 1.0 / n })
        .collect()
}

/// Adds the squared norm of each model's tile to `sums`.
pub fn norms(tiles: &Tiles, sums: &mut [f64]) {
    for (sum, model) in sums.iter_mut().zip(&tiles.models) {
        *sum += dot(model, model);
    }
}

/// Shares of models that move every position.
pub fn shares(coefficients: &[f64], squares: &[f64]) -> Vec<Share> {
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

/// Whether vectors with this cosine are opposite up to the rounding of numbers stored as `f32`:
/// what is left of their sum is rounding, and has no direction. mergekit's bound for Model Stock.
pub fn opposite(cosine: f64) -> bool {
    1.0 + cosine < OPPOSITE
}

/// What one plus a cosine must be at least.
pub const OPPOSITE: f64 = 1e-6;

/// Factors of two vectors with squared norms `a`, `b` and inner product `ab`, interpolated on
/// the sphere at `t`, and whether the vectors are [`opposite`]; linear where they are, or where
/// they are colinear.
pub fn spherical(t: f64, a: f64, b: f64, ab: f64) -> ([f64; 2], bool) {
    let cosine = (ab / (a.sqrt().max(1e-7) * b.sqrt().max(1e-7))).clamp(-1.0, 1.0);
    let angle = cosine.acos();
    let sine = angle.sin();
    if sine.abs() < 1e-8 || opposite(cosine) {
        return ([1.0 - t, t], opposite(cosine));
    }
    let factors = [((1.0 - t) * angle).sin() / sine, (t * angle).sin() / sine];
    (factors, false)
}

/// xᵀ G y for a triangle `g` of inner products of `n` vectors.
pub fn form(n: usize, g: &[f64], x: &[f64], y: &[f64]) -> f64 {
    (0..n)
        .flat_map(|i| (0..n).map(move |j| (i, j)))
        .map(|(i, j)| x[i] * y[j] * g[pair(n, i, j)])
        .sum()
}
