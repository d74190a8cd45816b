//! NearSwap: the other model's value within a distance, fading with distance beyond.

use super::method::{Base, Kernel, Method};
use super::parameter::{declare, number};
use crate::error::Result;
use crate::merge::arithmetic::{Job, Outcome, Output, Share, Tiles};

pub const NEARSWAP: Method = Method {
    name: "nearswap",
    summary: "move towards the other model where the two are close",
    paper: "https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    base: Base::Required,
    models: (1, 1),
    parameters: NearSwap::PARAMETERS,
    kernel: |configured| Ok(Box::new(NearSwap::read(configured)?)),
};

declare! {
    struct NearSwap {
        all {
            t: f64 = number("distance within which parameters are swapped").within(0.0, f64::MAX),
        }
    }
}

impl Kernel for NearSwap {
    fn passes(&self) -> u64 {
        1
    }

    fn merge(&self, job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
        let t = self.t as f32;
        let sums = job
            .walk
            .produce(&job.inputs, output, 2, |range, tiles, sums| {
                tiles.read(&job.inputs, range);
                let Tiles {
                    base,
                    models,
                    merged,
                    ..
                } = tiles;
                let (mut square, mut weights) = (0.0, 0.0);
                for ((out, a), b) in merged.iter_mut().zip(base.iter()).zip(&models[0]) {
                    let distance = (a - b).abs();
                    let weight = (t / distance.max(1e-6)).clamp(0.0, 1.0);
                    *out = weight * b + (1.0 - weight) * a;
                    square += f64::from(distance) * f64::from(distance);
                    weights += f64::from(weight);
                }
                sums[0] += square;
                sums[1] += weights;
            })?;
        let share = Share {
            coefficient: sums[1] / job.walk.len.max(1) as f64,
            selected_fraction: 1.0,
            kept_fraction: 1.0,
            delta_norm: sums[0].sqrt(),
        };
        Ok(Outcome::new(vec![share], sums.last()))
    }
}
