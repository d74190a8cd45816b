//! Copies of (scaled) tensors.

use super::method::{Base, Kernel, Method};
use super::parameter::{declare, number};
use crate::error::Result;
use crate::merge::arithmetic::{Combination, Job, Outcome, Output, shares};
use crate::tensors::Dtype;

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
        match job.compute_dtype {
            Dtype::F64 => in_f64(self.scale[0], job, output),
            _ => Combination::from(self.scale.clone()).write(job, output),
        }
    }
}

/// The scaled tensor with all digits of `f64`. One pass; memory: a block in `f64` for each thread.
fn in_f64(scale: f64, job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
    let size = output.dtype.size();
    let sums = job.walk.sum(&job.inputs, 2, |at, _, sums| {
        let block = job.walk.block(at);
        let mut values = vec![0.0; block.len()];
        job.inputs.models[0].read_f64(block.start, &mut values);
        sums[0] += values.iter().map(|value| value * value).sum::<f64>();
        values.iter_mut().for_each(|value| *value *= scale);
        let mut bytes = vec![0; block.len() * size];
        sums[1] += output.dtype.encode_f64(&values, &mut bytes) as f64;
        (output.write)(block.start as u64 * size as u64, &bytes)
    })?;
    // Squares may be beyond the range where the numbers are not.
    let square = sums[0].min(f64::MAX);
    Ok(Outcome::new(shares(&[scale], &[square]), sums.last()))
}
