//! The Riemannian mean of the models' directions, times their mean norm.

use super::method::{Base, Kernel, MANY, Method};
use super::parameter::{declare, number};
use crate::error::Result;
use crate::merge::arithmetic::{
    Combination, Job, OPPOSITE, Outcome, Output, Remark, form, gram, opposite, pair,
};

pub const KARCHER: Method = Method {
    name: "karcher",
    summary: "Riemannian mean of the directions, scaled by the mean norm",
    paper: "https://en.wikipedia.org/wiki/Karcher_mean",
    base: Base::Listed,
    models: (1, MANY),
    parameters: Karcher::PARAMETERS,
    kernel: |configured| Ok(Box::new(Karcher::read(configured)?)),
};

declare! {
    struct Karcher {
        all {
            max_iter: f64 = number("most iterations").within(0.0, 1e6).or(10.0),
            tol: f64 = number("tolerance of convergence").within(0.0, 1.0).or(1e-5),
        }
    }
}

impl Kernel for Karcher {
    fn merge(&self, job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
        let combination = match job.count() {
            1 => vec![1.0].into(),
            n => self.combination(n, &gram(&job.walk, &job.inputs)?),
        };
        combination.write(job, output)
    }
}

impl Karcher {
    /// The combination of `n` models with inner products `g`. All is done in the space of factors.
    ///
    /// Directions that cancel out have no mean (opposite ones have a sphere of them): the
    /// first is kept, where mergekit's iteration starts. Models without a length have no
    /// direction; if all of them are so, their mean is the linear one.
    fn combination(&self, n: usize, g: &[f64]) -> Combination {
        let tol = self.tol;
        let norms: Vec<f64> = (0..n).map(|i| g[pair(n, i, i)].max(0.0).sqrt()).collect();
        let valid: Vec<usize> = (0..n).filter(|i| norms[*i] > tol).collect();
        if valid.is_empty() {
            return vec![1.0 / n as f64; n].into();
        }
        let share = 1.0 / valid.len() as f64;
        let unit = |i: usize| {
            let mut x = vec![0.0; n];
            x[i] = 1.0 / norms[i];
            x
        };
        let directions: Vec<Vec<f64>> = valid.iter().map(|i| unit(*i)).collect();
        let length = |x: &[f64]| form(n, g, x, x).max(0.0).sqrt();
        let mut mean = vec![0.0; n];
        for &i in &valid {
            mean[i] = share / norms[i];
        }
        let size = length(&mean);
        let cancelled = size < tol.max(OPPOSITE);
        if cancelled {
            mean = unit(valid[0]);
        } else {
            mean.iter_mut().for_each(|m| *m /= size);
        }
        for _ in 0..self.max_iter as usize {
            let step = self.step(n, g, &mean, &directions);
            let size = length(&step);
            if size.is_nan() || size < tol {
                break;
            }
            for (m, s) in mean.iter_mut().zip(&step) {
                *m = size.cos() * *m + size.sin() * s / size;
            }
            let size = length(&mean);
            if size > tol {
                mean.iter_mut().for_each(|m| *m /= size);
            }
        }
        let scale = norms.iter().sum::<f64>() / n as f64;
        Combination {
            factors: mean.iter().map(|m| scale * m).collect(),
            remark: cancelled.then_some(Remark::FirstDirection),
        }
    }

    /// The mean of the directions in the tangent space at `mean`. A direction that is opposite to
    /// it lies nowhere in particular there.
    fn step(&self, n: usize, g: &[f64], mean: &[f64], directions: &[Vec<f64>]) -> Vec<f64> {
        let share = 1.0 / directions.len() as f64;
        let mut step = vec![0.0; n];
        for direction in directions {
            let cosine = form(n, g, mean, direction).clamp(-1.0, 1.0);
            let angle = cosine.acos();
            if angle >= self.tol && !opposite(cosine) {
                let factor = share * angle / angle.sin();
                for k in 0..n {
                    step[k] += factor * (direction[k] - cosine * mean[k]);
                }
            }
        }
        step
    }
}
