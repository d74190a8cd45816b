//! Task arithmetic: the weighted sum of the updates.

use super::method::Method;
use super::parameter::declare;
use super::updates::{LAMBDA, NO_NORMALIZE, WEIGHT, method};
use crate::merge::arithmetic::{Survivors, WeightedSum};

pub const TASK_ARITHMETIC: Method = method(
    "task_arithmetic",
    "weighted sum of the updates",
    "https://arxiv.org/abs/2212.04089",
    TaskArithmetic::PARAMETERS,
    |configured| Ok(Box::new(TaskArithmetic::read(configured)?.sum())),
);

declare! {
    struct TaskArithmetic {
        each { weight: f64 = WEIGHT, }
        all {
            lambda: f64 = LAMBDA,
            normalize: bool = NO_NORMALIZE,
        }
    }
}

impl TaskArithmetic {
    fn sum(self) -> WeightedSum {
        WeightedSum {
            lambda: self.lambda,
            normalize: self.normalize,
            ..WeightedSum::new(self.weight, |_| Survivors::All)
        }
    }
}
