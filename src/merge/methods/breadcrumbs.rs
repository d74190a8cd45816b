//! Model Breadcrumbs (arXiv:2312.06795): each update's largest and smallest entries are dropped.

use super::method::Method;
use super::parameter::{declare, number};
use super::updates::{DENSITY, LAMBDA, NO_NORMALIZE, NO_RESCALE, WEIGHT, method};
use crate::merge::arithmetic::{Survivors, WeightedSum};

const PAPER: &str = "https://arxiv.org/abs/2312.06795";

pub const BREADCRUMBS: Method = method(
    "breadcrumbs",
    "drop each update's largest and smallest entries, sum",
    PAPER,
    Breadcrumbs::PARAMETERS,
    |configured| Ok(Box::new(Breadcrumbs::read(configured)?.sum(false))),
);

pub const BREADCRUMBS_TIES: Method = method(
    "breadcrumbs_ties",
    "drop each update's largest and smallest entries, keep the majority sign",
    PAPER,
    Breadcrumbs::PARAMETERS,
    |configured| Ok(Box::new(Breadcrumbs::read(configured)?.sum(true))),
);

declare! {
    struct Breadcrumbs {
        each {
            weight: f64 = WEIGHT,
            density: f64 = DENSITY,
            gamma: f64 = number("share of the largest entries that are dropped first")
                .within(0.0, 1.0)
                .or(0.01),
        }
        all {
            lambda: f64 = LAMBDA,
            normalize: bool = NO_NORMALIZE,
            rescale: bool = NO_RESCALE,
        }
    }
}

impl Breadcrumbs {
    fn sum(self, consensus: bool) -> WeightedSum {
        let band = |model: usize| Survivors::Band {
            density: self.density[model],
            gamma: self.gamma[model],
        };
        WeightedSum {
            lambda: self.lambda,
            normalize: self.normalize,
            rescale: self.rescale,
            consensus,
            ..WeightedSum::new(self.weight, band)
        }
    }
}
