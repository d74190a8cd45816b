//! Spherical interpolation between the base model and another one.

use super::method::{Base, Kernel, Method};
use super::parameter::{declare, number};
use crate::error::Result;
use crate::merge::arithmetic::{Inputs, Job, Outcome, Output, gram, norms, pair, shares};

pub const SLERP: Method = Method {
    name: "slerp",
    summary: "spherical interpolation from the base model to the other one",
    paper: "https://en.wikipedia.org/wiki/Slerp",
    base: Base::Required,
    models: (1, 1),
    parameters: Slerp::PARAMETERS,
    kernel: |configured| Ok(Box::new(Slerp::read(configured)?)),
};

declare! {
    struct Slerp {
        all {
            t: f64 = number("0 is the base model, 1 the other one"),
        }
    }
}

impl Slerp {
    /// The factors of base and model for tensors with squared norms `a`, `b` and inner product
    /// `ab`.
    fn factors(&self, a: f64, b: f64, ab: f64) -> (f64, f64) {
        let t = self.t;
        let unit = |square: f64| match square.sqrt() > 1e-8 {
            true => square.sqrt(),
            false => 1.0,
        };
        let cosine = ab / (unit(a) * unit(b));
        if cosine.abs() > 0.9995 {
            return (1.0 - t, t);
        }
        let angle = cosine.acos();
        (
            (angle - angle * t).sin() / angle.sin(),
            (angle * t).sin() / angle.sin(),
        )
    }
}

impl Kernel for Slerp {
    /// Angles are between the tensors themselves.
    fn merge(&self, job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
        let models = job.inputs.base.iter().chain(&job.inputs.models);
        let tensors = Inputs {
            base: None,
            models: models.copied().collect(),
        };
        let g = gram(&job.walk, &tensors)?;
        let (from, to) = self.factors(g[pair(2, 0, 0)], g[pair(2, 1, 1)], g[pair(2, 0, 1)]);
        // from·base + to·model = (from + to)·base + to·(model − base)
        let (whole, part) = ((from + to) as f32, to as f32);
        let sums = job
            .walk
            .produce(&job.inputs, output, 1, |range, tiles, sums| {
                tiles.read_deltas(&job.inputs, range);
                norms(tiles, sums);
                let deltas = tiles.base.iter().zip(&tiles.models[0]);
                for (out, (base, delta)) in tiles.merged.iter_mut().zip(deltas) {
                    *out = whole * base + part * delta;
                }
            })?;
        Ok(Outcome::new(shares(&[to], &sums), sums.last()))
    }
}
