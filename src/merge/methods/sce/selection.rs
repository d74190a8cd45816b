//! Which positions are selected: those where the models vary most.
//!
//! Order is by the population variance of the updates in `f64`, the lowest index first where
//! variances are equal. A cheaper [`spread`] tells most positions apart; the variance itself is
//! only computed for those near the threshold.

use std::ops::Range;

use crate::merge::arithmetic::vector::{between, spread};
use crate::merge::arithmetic::{Share, Tiles};

/// Spreads that differ by less than this factor may be in another order than the variances.
pub const MARGIN: f64 = 1.0 / (1 << 30) as f64;

/// Which positions are selected: those with a spread above `high`, and of those from `low` to
/// `high` the ones whose variance is above `variance` or equals it before index `end`. Where
/// `variance` is NaN, all from `low` to `high` count as equal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Selection {
    /// Where spreads are too close to call.
    pub low: f64,
    /// Above it, all are selected.
    pub high: f64,
    /// The variance that is reached down to.
    pub variance: f64,
    /// Where equal ones end.
    pub end: usize,
}

impl Selection {
    /// Everything.
    pub const ALL: Self = Self {
        low: -1.0,
        high: -1.0,
        variance: 0.0,
        end: 0,
    };
    /// Nothing.
    pub const NONE: Self = Self::above(f64::INFINITY);

    /// Everything with a spread above `high`.
    pub const fn above(high: f64) -> Self {
        Self {
            low: f64::INFINITY,
            high,
            variance: f64::INFINITY,
            end: 0,
        }
    }

    /// The positions up to this variance of `n` models and, where it is reached, this index.
    pub fn down_to(variance: f64, end: usize, n: usize) -> Self {
        let spread = variance * (n * n) as f64;
        Self {
            low: spread * (1.0 - MARGIN),
            high: spread * (1.0 + MARGIN),
            variance,
            end,
        }
    }

    /// Leaves the spreads of a tile that was read in `tiles.measures`; those that are too close
    /// to call become infinite (selected) or negative (not).
    pub fn measure(&self, range: &Range<usize>, tiles: &mut Tiles) {
        tiles.measures.resize(range.len(), 0.0);
        spread(&tiles.models, &mut tiles.measures);
        between(&tiles.measures, self.low, self.high, &mut tiles.places);
        for at in &tiles.places {
            let at = *at as usize;
            let variance = variance(tiles.base[at], &tiles.models, at);
            let equal = variance == self.variance || self.variance.is_nan();
            let chosen = variance > self.variance || (equal && range.start + at < self.end);
            tiles.measures[at] = if chosen { f64::INFINITY } else { -1.0 };
        }
    }
}

/// The population variance of the updates at one place of a tile.
pub fn variance(base: f32, models: &[Vec<f32>], at: usize) -> f64 {
    let n = models.len() as f64;
    let base = f64::from(base);
    let deltas = || models.iter().map(|model| f64::from(model[at]) - base);
    let mean = deltas().sum::<f64>() / n;
    deltas()
        .map(|delta| (delta - mean) * (delta - mean))
        .sum::<f64>()
        / n
}

/// What the selecting pass finds.
pub struct Survey {
    /// The positions.
    pub selection: Selection,
    /// How many positions are selected.
    pub selected: u64,
    /// Σ δ² over the selected positions, for each model.
    pub squares: Vec<f64>,
    /// Σ δ² over all positions, for each model.
    pub all: Vec<f64>,
}

/// What each model contributed to a tensor of `len` elements: from the coefficients, the number of
/// selected positions, the entries that were kept and the squared norms of the updates.
pub fn shares(
    coefficients: &[f64],
    selected: f64,
    kept: &[f64],
    squares: &[f64],
    len: usize,
) -> Vec<Share> {
    let len = len.max(1) as f64;
    let models = coefficients.iter().zip(kept).zip(squares);
    models
        .map(|((coefficient, kept), square)| Share {
            coefficient: *coefficient,
            selected_fraction: selected / len,
            kept_fraction: kept / len,
            delta_norm: square.sqrt(),
        })
        .collect()
}
