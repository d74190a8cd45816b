//! What the descendants of task arithmetic share: parameters, and the kernel, a [`WeightedSum`].

use super::method::{Base, Kernel, MANY, Method};
use super::parameter::{Configured, Declared, Parameter, flag, number};
use crate::error::{Error, Result};
use crate::merge::arithmetic::{Job, Outcome, Output, Survivors, WeightedSum};

pub const WEIGHT: Declared<f64> = number("the model's weight");
pub const DENSITY: Declared<f64> = number("share of the update's entries that survive")
    .within(0.0, 1.0)
    .or(1.0);
pub const LAMBDA: Declared<f64> = number("factor of the summed update").or(1.0);
pub const NORMALIZE: Declared<bool> = flag(
    true,
    "divide by the sum of the weights that survive at a position",
);
pub const NO_NORMALIZE: Declared<bool> = flag(
    false,
    "divide by the sum of the weights (that survive at a position)",
);
pub const RESCALE: Declared<bool> = flag(true, RESCALE_DOC);
pub const NO_RESCALE: Declared<bool> = flag(false, RESCALE_DOC);
const RESCALE_DOC: &str = "restore each update's L1 norm";
pub const SEED: Declared<f64> =
    number("seed of the random draws, which are keyed by (seed, model, tensor, index)")
        .whole(9_007_199_254_740_992.0)
        .or(0.0);

/// A row of the table.
pub const fn method(
    name: &'static str,
    summary: &'static str,
    paper: &'static str,
    parameters: &'static [Parameter],
    kernel: fn(&dyn Configured) -> Result<Box<dyn Kernel>>,
) -> Method {
    Method {
        name,
        summary,
        paper,
        base: Base::Required,
        models: (1, MANY),
        parameters,
        kernel,
    }
}

impl Kernel for WeightedSum {
    fn check(&self, tensor: &str) -> Result<()> {
        for survivors in &self.survivors {
            if let Survivors::Ranked { density, epsilon } = *survivors
                && density > 0.0
                && density < 1.0
                && !(density - epsilon > 0.0 && density + epsilon < 1.0)
            {
                return Err(Error::usage(format!(
                    "density {density} ± epsilon {epsilon} leaves 0..1 (tensor `{tensor}`)"
                ))
                .remedy("choose a smaller `epsilon`"));
            }
        }
        Ok(())
    }

    fn passes(&self) -> u64 {
        self.passes()
    }

    fn selects(&self) -> bool {
        true
    }

    fn merge(&self, job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
        self.write(job, output)
    }
}
