//! Task arithmetic and its descendants: sparsify × rescale × consensus × normalise.
//!
//! With updates δ_j = model_j − base, survivors m_j ∈ {0, 1} and weights w_j:
//! base + λ · Σ w_j r_j m_j δ_j \[sign agrees\] / (Σ w_j \[sign agrees\]), where r_j restores the
//! L1 norm that the survivors lost, the sign that a position agrees on is that of the sum (zero
//! counts as +), and the division takes place with `normalize` only.

use super::blocks::{Output, Tiles, Walk};
use super::job::{Job, Outcome, Share};
use super::mask::{Mask, Survivors, masks};
use super::vector::{add, add_to, agree, dot, non_zero, scale, sum_abs};
use crate::error::Result;

/// A weighted sum of updates.
#[derive(Clone, Debug)]
pub struct WeightedSum {
    /// The models' weights.
    pub weights: Vec<f64>,
    /// The factor of the sum.
    pub lambda: f64,
    /// Whether the sum is divided by the weights (that survive at a position).
    pub normalize: bool,
    /// Whether each update's L1 norm is restored.
    pub rescale: bool,
    /// Whether only entries with the sign of the sum count.
    pub consensus: bool,
    /// Which entries of each model survive.
    pub survivors: Vec<Survivors>,
    /// The seed of random draws.
    pub seed: f64,
}

/// What is the same for all tiles of a tensor.
struct Pass<'a> {
    sum: &'a WeightedSum,
    walk: Walk,
    masks: Vec<Mask>,
    weights: Vec<f32>,
    /// Weights times what restores the L1 norm.
    factors: Vec<f32>,
    /// Factor of the sum.
    total: f32,
}

impl WeightedSum {
    /// The plain sum of the updates of models with these weights, by number.
    pub fn new(weights: Vec<f64>, survivors: impl Fn(usize) -> Survivors) -> Self {
        Self {
            survivors: (0..weights.len()).map(survivors).collect(),
            weights,
            lambda: 1.0,
            normalize: false,
            rescale: false,
            consensus: false,
            seed: 0.0,
        }
    }

    /// The most passes over the inputs.
    pub fn passes(&self) -> u64 {
        if self.survivors.iter().all(|mask| mask.density() >= 1.0) {
            return 1;
        }
        let by_magnitude =
            |mask: &Survivors| matches!(mask, Survivors::Largest { .. } | Survivors::Band { .. });
        let select = self.survivors.iter().any(by_magnitude);
        1 + u64::from(select) + u64::from(self.rescale)
    }

    /// Computes and writes it.
    ///
    /// # Errors
    ///
    /// A failed write, or the user's wish to stop.
    pub fn write(&self, job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
        let pass = self.prepare(job)?;
        let n = job.count();
        // Per model: squared norm, survivors of sparsification, entries used.
        let sums = pass
            .walk
            .produce(&job.inputs, output, 3 * n, |range, tiles, sums| {
                tiles.read_deltas(&job.inputs, range);
                let mut ranks = Vec::new();
                for (model, (tile, mask)) in tiles.models.iter_mut().zip(&pass.masks).enumerate() {
                    sums[3 * model] += dot(tile, tile);
                    mask.apply(&pass.walk, range, tile, &mut ranks);
                    if !matches!(mask, Mask::All) {
                        sums[3 * model + 1] += f64::from(non_zero(tile));
                    }
                }
                pass.add_up(tiles, sums);
            })?;
        Ok(Outcome::new(pass.shares(&sums), sums.last()))
    }

    fn prepare(&self, job: &Job<'_>) -> Result<Pass<'_>> {
        let is_ranked = |mask: &Survivors| matches!(mask, Survivors::Ranked { .. });
        let walk = match self.survivors.iter().any(is_ranked) {
            true => job.walk.by_rows(),
            false => job.walk,
        };
        let masks = masks(job, &walk, &self.survivors, self.seed)?;
        let sparse = masks.iter().any(|mask| !matches!(mask, Mask::All));
        let rescales = match self.rescale && sparse {
            true => rescales(job, &walk, &masks)?,
            false => vec![1.0; job.count()],
        };
        let lambda = self.lambda as f32;
        let total: f64 = self.weights.iter().sum();
        let total = match self.normalize && !self.consensus && total.abs() >= 1e-8 {
            true => lambda / total as f32,
            false => lambda,
        };
        let factors = self.weights.iter().zip(&rescales);
        Ok(Pass {
            sum: self,
            walk,
            masks,
            weights: self.weights.iter().map(|w| *w as f32).collect(),
            factors: factors.map(|(w, r)| (w * r) as f32).collect(),
            total,
        })
    }
}

impl Pass<'_> {
    /// Leaves the sum of the surviving updates, added to the base, in `tiles.merged`.
    fn add_up(&self, tiles: &mut Tiles, sums: &mut [f64]) {
        let Tiles {
            base,
            models,
            merged,
            ..
        } = tiles;
        if self.sum.consensus {
            for (tile, factor) in models.iter_mut().zip(&self.factors) {
                scale(tile, *factor);
            }
            let mut used = vec![0; self.masks.len()];
            let normalize = self.sum.normalize;
            agree(models, &self.weights, false, normalize, merged, &mut used);
            for (model, used) in used.iter().enumerate() {
                sums[3 * model + 2] += f64::from(*used);
            }
        } else {
            merged.fill(0.0);
            for (tile, factor) in models.iter().zip(&self.factors) {
                add(merged, *factor, tile);
            }
        }
        add_to(merged, self.total, base);
    }

    fn shares(&self, sums: &[f64]) -> Vec<Share> {
        let len = self.walk.len.max(1) as f64;
        (0..self.masks.len())
            .map(|model| {
                let selected = match self.masks[model] {
                    Mask::All => 1.0,
                    _ => sums[3 * model + 1] / len,
                };
                Share {
                    coefficient: f64::from(self.factors[model]),
                    selected_fraction: selected,
                    kept_fraction: match self.sum.consensus {
                        true => sums[3 * model + 2] / len,
                        false => selected,
                    },
                    delta_norm: sums[3 * model].sqrt(),
                }
            })
            .collect()
    }
}

/// The factor that restores each update's L1 norm. One pass.
fn rescales(job: &Job<'_>, walk: &Walk, masks: &[Mask]) -> Result<Vec<f64>> {
    let n = masks.len();
    let sums = walk.sum(&job.inputs, 2 * n, |at, tiles, sums| {
        let mut ranks = Vec::new();
        for range in walk.tiles(at) {
            tiles.read_deltas(&job.inputs, &range);
            for (model, (tile, mask)) in tiles.models.iter_mut().zip(masks).enumerate() {
                sums[2 * model] += sum_abs(tile);
                mask.apply(walk, &range, tile, &mut ranks);
                sums[2 * model + 1] += sum_abs(tile);
            }
        }
        Ok(())
    })?;
    Ok(sums
        .as_chunks::<2>()
        .0
        .iter()
        .map(|[before, after]| {
            if *before < 1e-7 || *after < 1e-7 {
                1.0
            } else {
                before / after
            }
        })
        .collect())
}
