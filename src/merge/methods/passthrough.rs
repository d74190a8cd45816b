//! Copies of (scaled) tensors.

use super::method::{Base, Kernel, Method};
use super::parameter::{declare, number};
use crate::error::Result;
use crate::merge::arithmetic::{Combination, Job, Outcome, Output};

pub const PASSTHROUGH: Method = Method {
    name: "passthrough",
    summary: "copy (scaled) tensors; with `slices`, stack layers",
    paper: "https://arxiv.org/abs/2312.15166",
    base: Base::Listed,
    models: (1, 1),
    parameters: Passthrough::PARAMETERS,
    kernel: |configured| Ok(Box::new(Passthrough::read(configured)?)),
};

declare! {
    struct Passthrough {
        each {
            scale: f64 = number("factor of the tensor").or(1.0),
        }
    }
}

impl Kernel for Passthrough {
    fn passes(&self) -> u64 {
        1
    }

    fn merge(&self, job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
        Combination::from(self.scale.clone()).write(job, output)
    }
}
