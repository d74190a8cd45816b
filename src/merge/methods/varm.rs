//! VaRM (FuseLLM, arXiv:2402.16107): models are weighed by how much they moved each matrix.

use super::method::{Base, Kernel, MANY, Method};
use crate::error::Result;
use crate::merge::arithmetic::{Combination, Job, Outcome, Output, shares_of_sum, squares};

pub const VARM: Method = Method {
    name: "varm",
    summary: "weigh models by the mean squared update of each parameter matrix",
    paper: "https://arxiv.org/abs/2402.16107",
    base: Base::Required,
    models: (1, MANY),
    parameters: &[],
    kernel: |_| Ok(Box::new(Varm)),
};

#[derive(Debug)]
struct Varm;

impl Kernel for Varm {
    fn merge(&self, job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
        let squares = squares(&job.walk, &job.inputs)?;
        Combination::from(shares_of_sum(&squares)).write(job, output)
    }
}
