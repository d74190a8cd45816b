//! TIES (arXiv:2306.01708): the largest entries of each update, then the majority sign.

use super::method::Method;
use super::parameter::declare;
use super::updates::{DENSITY, LAMBDA, NO_RESCALE, NORMALIZE, WEIGHT, method};
use crate::merge::arithmetic::{Survivors, WeightedSum};

pub const TIES: Method = method(
    "ties",
    "keep each update's largest entries, then the majority sign",
    "https://arxiv.org/abs/2306.01708",
    Ties::PARAMETERS,
    |configured| Ok(Box::new(Ties::read(configured)?.sum())),
);

declare! {
    struct Ties {
        each {
            weight: f64 = WEIGHT,
            density: f64 = DENSITY,
        }
        all {
            lambda: f64 = LAMBDA,
            normalize: bool = NORMALIZE,
            rescale: bool = NO_RESCALE,
        }
    }
}

impl Ties {
    fn sum(self) -> WeightedSum {
        let largest = |model: usize| Survivors::Largest {
            density: self.density[model],
        };
        WeightedSum {
            lambda: self.lambda,
            normalize: self.normalize,
            rescale: self.rescale,
            consensus: true,
            ..WeightedSum::new(self.weight, largest)
        }
    }
}
