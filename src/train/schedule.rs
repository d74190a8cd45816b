//! The learning rate at each step.

use serde::{Deserialize, Serialize};

/// How the learning rate falls after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Half a cosine, from the full rate towards zero.
    #[default]
    Cosine,
    /// A straight line, from the full rate towards zero.
    Linear,
    /// The full rate throughout.
    Constant,
}

impl Schedule {
    /// Learning rate of `step` (counted from 0) of `total`, for a peak of `lr`.
    ///
    /// The first ⌈`warmup_ratio` · `total`⌉ steps rise in a straight line towards `lr`, none of
    /// them at zero; step `total` would have the rate zero, so that no step is wasted.
    pub fn rate(self, lr: f64, step: u64, total: u64, warmup_ratio: f64) -> f64 {
        let warmup = (warmup_ratio * total as f64).ceil() as u64;
        if step < warmup {
            return lr * (step + 1) as f64 / (warmup + 1) as f64;
        }
        let span = total.saturating_sub(warmup).max(1);
        let progress = ((step - warmup) as f64 / span as f64).min(1.0);
        lr * match self {
            Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            Schedule::Linear => 1.0 - progress,
            Schedule::Constant => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: Schedule, total: u64, warmup_ratio: f64) -> Vec<f64> {
        (0..total)
            .map(|step| schedule.rate(8.0, step, total, warmup_ratio))
            .collect()
    }

    fn assert_near(found: &[f64], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 1e-12, "{found:?}, expected {expected:?}");
        }
    }

    #[test]
    fn rates_by_hand() {
        // 0.3 of 10 steps warm up: 3 steps at 1/4, 2/4 and 3/4 of the peak.
        let linear = rates(Schedule::Linear, 7, 0.4);
        assert_near(&linear, &[2.0, 4.0, 6.0, 8.0, 6.0, 4.0, 2.0]);
        let constant = rates(Schedule::Constant, 4, 0.25);
        assert_near(&constant, &[4.0, 8.0, 8.0, 8.0]);
        let cosine = rates(Schedule::Cosine, 4, 0.0);
        let half = std::f64::consts::FRAC_1_SQRT_2;
        assert_near(&cosine, &[8.0, 4.0 * (1.0 + half), 4.0, 4.0 * (1.0 - half)]);
    }

    #[test]
    fn no_step_is_wasted_and_none_exceeds_the_peak() {
        for schedule in [Schedule::Cosine, Schedule::Linear, Schedule::Constant] {
            for total in 1..40 {
                for warmup in [0.0, 0.03, 0.5, 1.0] {
                    for rate in rates(schedule, total, warmup) {
                        assert!(
                            rate > 0.0 && rate <= 8.0,
                            "{schedule:?} {total} {warmup}: {rate}"
                        );
                    }
                }
            }
        }
    }
}
