//! DELLA (arXiv:2406.11617): entries are dropped at random, small ones more often.

use super::method::Method;
use super::parameter::{declare, number};
use super::updates::{DENSITY, LAMBDA, NO_NORMALIZE, NORMALIZE, RESCALE, SEED, WEIGHT, method};
use crate::merge::arithmetic::{Survivors, WeightedSum};

const PAPER: &str = "https://arxiv.org/abs/2406.11617";

pub const DELLA: Method = method(
    "della",
    "drop entries at random by the rank of their magnitude, rescale, keep the majority sign",
    PAPER,
    Della::<true>::PARAMETERS,
    |configured| Ok(Box::new(Della::<true>::read(configured)?.sum())),
);

pub const DELLA_LINEAR: Method = method(
    "della_linear",
    "drop entries at random by the rank of their magnitude, rescale, sum",
    PAPER,
    Della::<false>::PARAMETERS,
    |configured| Ok(Box::new(Della::<false>::read(configured)?.sum())),
);

declare! {
    struct Della<CONSENSUS> {
        each {
            weight: f64 = WEIGHT,
            density: f64 = DENSITY,
            epsilon: f64 = number(
                "half the width of the range of survival probabilities; density ± epsilon stays in (0, 1)"
            )
            .within(0.0, 1.0)
            .or(0.15),
        }
        all {
            lambda: f64 = LAMBDA,
            normalize: bool = if CONSENSUS { NORMALIZE } else { NO_NORMALIZE },
            rescale: bool = RESCALE,
            random_seed: f64 = SEED,
        }
    }
}

impl<const CONSENSUS: bool> Della<CONSENSUS> {
    fn sum(self) -> WeightedSum {
        let ranked = |model: usize| Survivors::Ranked {
            density: self.density[model],
            epsilon: self.epsilon[model],
        };
        WeightedSum {
            lambda: self.lambda,
            normalize: self.normalize,
            rescale: self.rescale,
            consensus: CONSENSUS,
            seed: self.random_seed,
            ..WeightedSum::new(self.weight, ranked)
        }
    }
}
