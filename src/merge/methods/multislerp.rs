//! The barycentre on the hypersphere, to first order in the tangent space of the mean direction.

use super::method::{Base, Kernel, MANY, Method, check_sum};
use super::parameter::{declare, flag, number};
use crate::error::Result;
use crate::merge::arithmetic::{
    Combination, Job, OPPOSITE, Outcome, Output, Remark, form, gram, pair,
};

pub const MULTISLERP: Method = Method {
    name: "multislerp",
    summary: "weighted barycentre on the hypersphere, in the tangent space of the mean",
    paper: "https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    base: Base::Optional,
    models: (1, MANY),
    parameters: MultiSlerp::PARAMETERS,
    kernel: |configured| Ok(Box::new(MultiSlerp::read(configured)?)),
};

declare! {
    struct MultiSlerp {
        each {
            weight: f64 = number("the model's weight"),
        }
        all {
            normalize_weights: bool = flag(true, "divide the weights by their sum"),
            eps: f64 = number("guards divisions").within(0.0, 1.0).or(1e-8),
        }
    }
}

impl MultiSlerp {
    /// The factors that follow from the inner products `g`.
    fn combination(&self, g: &[f64]) -> Combination {
        let (n, eps) = (self.weight.len(), self.eps);
        let mut weights = self.weight.clone();
        if self.normalize_weights {
            let total: f64 = weights.iter().sum();
            weights.iter_mut().for_each(|w| *w /= total);
        }
        let norms: Vec<f64> = (0..n).map(|i| g[pair(n, i, i)].max(0.0).sqrt()).collect();
        // Two equally weighted directions whose mean is shorter than this are opposite.
        let cancelled = OPPOSITE.sqrt() * weights.iter().map(|w| w.abs()).sum::<f64>();
        let inverse = |norm: f64| if norm > 0.0 { 1.0 / (norm + eps) } else { 0.0 };
        let mut mean: Vec<f64> = (0..n).map(|i| weights[i] * inverse(norms[i])).collect();
        let length = form(n, g, &mean, &mean).max(0.0).sqrt();
        if length <= eps.max(cancelled) {
            let cancels = norms.iter().any(|norm| *norm > eps);
            return Combination {
                factors: weights,
                remark: cancels.then_some(Remark::Antipodal),
            };
        }
        let mut tangent = mean.clone();
        mean.iter_mut().for_each(|m| *m /= length);
        // Σ w_i (u_i − (u_i·mean) mean); Σ w_i u_i is `tangent` so far.
        let along: f64 = form(n, g, &tangent, &mean);
        for (t, m) in tangent.iter_mut().zip(&mean) {
            *t -= along * m;
        }
        let angle = form(n, g, &tangent, &tangent).max(0.0).sqrt() + eps;
        let ratio = if angle > 0.0 {
            angle.sin() / angle
        } else {
            1.0
        };
        let scale: f64 = norms.iter().zip(&weights).map(|(norm, w)| norm * w).sum();
        let factor = |(m, t): (&f64, &f64)| scale * (m * angle.cos() + t * ratio);
        Combination::from(mean.iter().zip(&tangent).map(factor).collect::<Vec<_>>())
    }
}

impl Kernel for MultiSlerp {
    fn check(&self, tensor: &str) -> Result<()> {
        match self.normalize_weights && self.weight.len() > 1 {
            true => check_sum(&self.weight, tensor),
            false => Ok(()),
        }
    }

    fn merge(&self, job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
        let combination = match job.count() {
            1 => vec![1.0].into(),
            _ => self.combination(&gram(&job.walk, &job.inputs)?),
        };
        combination.write(job, output)
    }
}
