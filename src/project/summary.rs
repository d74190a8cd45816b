//! How good a projection is.

use serde::Serialize;

use super::index_of;
use super::projector::Projected;
use crate::artifact::distribution::Projection;

/// The probability that a true token outside the list counts with, as in the SQL query
/// `projection_quality`: training on the list gives it none.
const LEAST: f64 = 1e-6;

/// Figures of the rows of one projection case. Sums are in nats; a true token outside the list
/// counts with 1e-6.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Quality {
    /// Rows.
    pub rows: u64,
    /// Rows with the true next token in the list.
    pub in_list: u64,
    /// Rows whose most probable token is the true one.
    pub top1: u64,
    /// Sum of −`target_logprob`.
    pub nll: f64,
    /// Rows for which the pivot's own figure is known.
    pub compared: u64,
    /// Sum of −`target_logprob` over the compared rows.
    pub compared_nll: f64,
    /// Sum of the pivot's own −`target_logprob` over the compared rows.
    pub pivot_nll: f64,
}

/// What was projected. Parts that an earlier run finished are not counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Pivot positions whose next token is supervised.
    pub positions: u64,
    /// Positions left to the pivot's own distribution (`fallback: pivot`), without a row.
    pub left_to_pivot: u64,
    /// Figures by case, in the order of [`Projection::ALL`].
    pub by_projection: [Quality; 7],
}

impl Summary {
    pub(super) fn count(&mut self, row: &Projected<'_>, pivot_nll: Option<f32>) {
        self.positions += 1;
        if !row.written {
            self.left_to_pivot += 1;
            return;
        }
        let quality = &mut self.by_projection[index_of(row.projection)];
        let target = row.distribution.target_id;
        let nll = (-f64::from(row.distribution.target_logprob)).min(-LEAST.ln());
        quality.rows += 1;
        quality.in_list += u64::from(row.distribution.ids.contains(&target));
        quality.top1 += u64::from(row.distribution.ids.first() == Some(&target));
        quality.nll += nll;
        if let Some(pivot_nll) = pivot_nll {
            quality.compared += 1;
            quality.compared_nll += nll;
            quality.pivot_nll += f64::from(pivot_nll);
        }
    }

    pub(super) fn add(&mut self, other: &Summary) {
        self.positions += other.positions;
        self.left_to_pivot += other.left_to_pivot;
        for (sum, part) in self.by_projection.iter_mut().zip(&other.by_projection) {
            sum.rows += part.rows;
            sum.in_list += part.in_list;
            sum.top1 += part.top1;
            sum.nll += part.nll;
            sum.compared += part.compared;
            sum.compared_nll += part.compared_nll;
            sum.pivot_nll += part.pivot_nll;
        }
    }

    /// Figures of one case.
    pub fn of(&self, projection: Projection) -> &Quality {
        &self.by_projection[index_of(projection)]
    }

    /// Cross-entropy of the projected distributions on the true next pivot token, and the
    /// pivot's own at the same positions, in nats per token, over the rows that carry the
    /// source's knowledge; `None` if nothing could be compared.
    pub fn cross_entropies(&self) -> Option<(f64, f64)> {
        let cases = [
            Projection::SameEnd,
            Projection::Followed,
            Projection::Conditioned,
            Projection::Averaged,
        ];
        let cases = cases.map(|case| self.of(case));
        let rows: u64 = cases.iter().map(|case| case.compared).sum();
        if rows == 0 {
            return None;
        }
        let mean = |nll: fn(&Quality) -> f64| {
            cases.iter().map(|case| nll(case)).sum::<f64>() / rows as f64
        };
        Some((mean(|case| case.compared_nll), mean(|case| case.pivot_nll)))
    }
}
