//! DARE (arXiv:2311.03099): entries of the updates are dropped at random.

use super::method::Method;
use super::parameter::declare;
use super::updates::{DENSITY, LAMBDA, NO_NORMALIZE, RESCALE, SEED, WEIGHT, method};
use crate::merge::arithmetic::{Survivors, WeightedSum};

const PAPER: &str = "https://arxiv.org/abs/2311.03099";

pub const DARE_LINEAR: Method = method(
    "dare_linear",
    "drop entries of the updates at random, rescale, sum",
    PAPER,
    Dare::PARAMETERS,
    |configured| Ok(Box::new(Dare::read(configured)?.sum(false))),
);

pub const DARE_TIES: Method = method(
    "dare_ties",
    "drop entries of the updates at random, rescale, keep the majority sign",
    PAPER,
    Dare::PARAMETERS,
    |configured| Ok(Box::new(Dare::read(configured)?.sum(true))),
);

declare! {
    struct Dare {
        each {
            weight: f64 = WEIGHT,
            density: f64 = DENSITY,
        }
        all {
            lambda: f64 = LAMBDA,
            normalize: bool = NO_NORMALIZE,
            rescale: bool = RESCALE,
            random_seed: f64 = SEED,
        }
    }
}

impl Dare {
    fn sum(self, consensus: bool) -> WeightedSum {
        let random = |model: usize| Survivors::Random {
            density: self.density[model],
        };
        WeightedSum {
            lambda: self.lambda,
            normalize: self.normalize,
            rescale: self.rescale,
            consensus,
            seed: self.random_seed,
            ..WeightedSum::new(self.weight, random)
        }
    }
}
