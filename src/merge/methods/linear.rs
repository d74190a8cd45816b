//! The weighted mean.

use super::method::{Base, Kernel, MANY, Method, check_sum};
use super::parameter::{declare, flag, number};
use crate::error::Result;
use crate::merge::arithmetic::vector::{add, add_difference};
use crate::merge::arithmetic::{Job, Outcome, Output, Tiles, norms, shares};

pub const LINEAR: Method = Method {
    name: "linear",
    summary: "weighted mean of the parameters",
    paper: "https://arxiv.org/abs/2203.05482",
    base: Base::Listed,
    models: (1, MANY),
    parameters: Linear::PARAMETERS,
    kernel: |configured| Ok(Box::new(Linear::read(configured)?)),
};

declare! {
    struct Linear {
        each {
            weight: f64 = number("the model's weight"),
        }
        all {
            normalize: bool = flag(true, "divide by the sum of the weights"),
        }
    }
}

impl Kernel for Linear {
    fn check(&self, tensor: &str) -> Result<()> {
        match self.normalize {
            true => check_sum(&self.weight, tensor),
            false => Ok(()),
        }
    }

    fn passes(&self) -> u64 {
        1
    }

    /// Where the weights are divided by their sum the mean is taken around the first model, so
    /// that merging copies gives back the copy exactly.
    fn merge(&self, job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
        let total: f64 = self.weight.iter().sum();
        let factors: Vec<f64> = match self.normalize {
            true => self.weight.iter().map(|w| w / total).collect(),
            false => self.weight.clone(),
        };
        let rounded: Vec<f32> = factors.iter().map(|f| *f as f32).collect();
        let n = factors.len();
        let sums = job
            .walk
            .produce(&job.inputs, output, n, |range, tiles, sums| {
                tiles.read(&job.inputs, range);
                norms(tiles, sums);
                let Tiles { models, merged, .. } = tiles;
                let Some((first, others)) = models.split_first() else {
                    return;
                };
                if self.normalize {
                    merged.copy_from_slice(first);
                    for (factor, model) in rounded[1..].iter().zip(others) {
                        add_difference(merged, *factor, model, first);
                    }
                } else {
                    merged.fill(0.0);
                    for (factor, model) in rounded.iter().zip(models.iter()) {
                        add(merged, *factor, model);
                    }
                }
            })?;
        Ok(Outcome::new(shares(&factors, &sums), sums.last()))
    }
}
