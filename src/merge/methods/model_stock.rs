//! Model Stock (arXiv:2403.19522): between base and mean, by the angle between the updates.

use super::method::{Base, Kernel, MANY, Method};
use super::parameter::{declare, flag};
use crate::error::Result;
use crate::merge::arithmetic::vector::dot;
use crate::merge::arithmetic::{
    Combination, Job, OPPOSITE, Outcome, Output, Remark, gram, norms, pair, shares,
};

pub const MODEL_STOCK: Method = Method {
    name: "model_stock",
    summary: "interpolate between base and mean by the angle between the updates",
    paper: "https://arxiv.org/abs/2403.19522",
    base: Base::Required,
    models: (2, MANY),
    parameters: ModelStock::PARAMETERS,
    kernel: |configured| Ok(Box::new(ModelStock::read(configured)?)),
};

declare! {
    struct ModelStock {
        all {
            filter_wise: bool = flag(false, "one angle for each row"),
        }
    }
}

impl Kernel for ModelStock {
    fn merge(&self, job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
        if self.filter_wise {
            return by_row(job, output);
        }
        let n = job.count();
        let t = ratio(n, &gram(&job.walk, &job.inputs)?);
        let combination = Combination {
            factors: vec![t.unwrap_or(0.0) / n as f64; n],
            remark: t.is_none().then_some(Remark::Cancelled),
        };
        combination.write(job, output)
    }
}

/// The interpolation ratio from the mean cosine between the updates; none where they cancel out,
/// as two opposed ones do: the ratio is infinite there, and near there it multiplies rounding.
fn ratio(n: usize, g: &[f64]) -> Option<f64> {
    let mut cosines = 0.0;
    for i in 0..n {
        for j in i + 1..n {
            let norms = (g[pair(n, i, i)].max(0.0) * g[pair(n, j, j)].max(0.0)).sqrt();
            cosines += (g[pair(n, i, j)] / norms.max(1e-6)).clamp(-1.0, 1.0);
        }
    }
    let pairs = n * (n - 1) / 2;
    let cosine = cosines / pairs.max(1) as f64;
    let divisor = 1.0 + (n as f64 - 1.0) * cosine;
    (divisor.abs() >= OPPOSITE).then(|| n as f64 * cosine / divisor)
}

/// One interpolation ratio per row. One pass; memory: one tile of whole rows per model and thread.
fn by_row(job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
    let n = job.count();
    let row = job.walk.row;
    let walk = job.walk.by_rows();
    let sums = walk.produce(&job.inputs, output, n + 2, |range, tiles, sums| {
        tiles.read_deltas(&job.inputs, range);
        norms(tiles, sums);
        for start in (0..range.len()).step_by(row) {
            let at = start..(start + row).min(range.len());
            let mut g = vec![0.0; n * (n + 1) / 2];
            for i in 0..n {
                for j in i..n {
                    let (a, b) = (&tiles.models[i][at.clone()], &tiles.models[j][at.clone()]);
                    g[pair(n, i, j)] = dot(a, b);
                }
            }
            let t = ratio(n, &g);
            sums[n + 1] += f64::from(u8::from(t.is_none()));
            let t = t.unwrap_or(0.0);
            sums[n] += t / n as f64;
            let factor = (t / n as f64) as f32;
            for place in at {
                let update: f32 = tiles.models.iter().map(|model| model[place]).sum();
                tiles.merged[place] = tiles.base[place] + factor * update;
            }
        }
    })?;
    let coefficient = sums[n] / walk.len.div_ceil(row) as f64;
    let shares = shares(&vec![coefficient; n], &sums[..n]);
    let remark = (sums[n + 1] > 0.0).then_some(Remark::Cancelled);
    Ok(Outcome::new(shares, sums.last()).with(remark))
}
