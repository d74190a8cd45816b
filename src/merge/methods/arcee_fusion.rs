//! Arcee Fusion: changes whose importance (|δ| times the divergence between the rows' softmax
//! distributions) reaches the median plus 1.5 interquartile ranges are taken over. Quantiles are
//! exact (mergekit samples tensors of more than a million elements).

use std::ops::Range;

use super::method::{Base, Kernel, Method};
use crate::error::Result;
use crate::merge::arithmetic::vector::key;
use crate::merge::arithmetic::{
    Cutoff, Job, Keyed, Outcome, Output, Share, Tiles, Walk, Wanted, norms,
};

pub const ARCEE_FUSION: Method = Method {
    name: "arcee_fusion",
    summary: "take over the most important changes of one model",
    paper: "https://arcee.ai",
    base: Base::Required,
    models: (1, 1),
    parameters: &[],
    kernel: |_| Ok(Box::new(ArceeFusion)),
};

#[derive(Debug)]
struct ArceeFusion;

impl Kernel for ArceeFusion {
    fn selects(&self) -> bool {
        true
    }

    fn merge(&self, job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
        let walk = job.walk.by_rows();
        let threshold = threshold(job, &walk)?;
        let sums = walk.produce(&job.inputs, output, 2, |range, tiles, sums| {
            tiles.read(&job.inputs, range);
            let mut keys = Vec::new();
            importance(walk.row, tiles, &mut keys);
            let mut taken = 0u32;
            for (at, key) in keys.iter().enumerate() {
                let delta = tiles.models[0][at] - tiles.base[at];
                let take = *key >= threshold;
                tiles.models[0][at] = delta;
                tiles.merged[at] = tiles.base[at] + if take { delta } else { 0.0 };
                taken += u32::from(take);
            }
            norms(tiles, &mut sums[..1]);
            sums[1] += f64::from(taken);
        })?;
        let taken = sums[1] / walk.len.max(1) as f64;
        let share = Share {
            coefficient: 1.0,
            selected_fraction: taken,
            kept_fraction: taken,
            delta_norm: sums[0].sqrt(),
        };
        Ok(Outcome::new(vec![share], sums.last()))
    }
}

/// The key of the least importance that is taken over.
fn threshold(job: &Job<'_>, walk: &Walk) -> Result<u32> {
    let count = walk.len as u64;
    // The value at quantile x is the (count − floor(x·(count − 1)))-th largest.
    let wanted = [0.25f32, 0.5, 0.75].map(|x| {
        let below = (x * (count - 1) as f32) as u64;
        Wanted {
            stream: 0,
            count: count - below.min(count - 1),
        }
    });
    let keys = |range: &Range<usize>, tiles: &mut Tiles, each: &mut dyn FnMut(usize, &[u32])| {
        tiles.read(&job.inputs, range);
        let mut keys = Vec::new();
        importance(walk.row, tiles, &mut keys);
        each(0, &keys);
    };
    let cutoffs = Keyed::new(walk, &job.inputs, &keys).select(&wanted)?;
    let value = |at: usize| match cutoffs[at] {
        Cutoff::ALL => 0.0,
        cutoff => f32::from_bits(cutoff.key),
    };
    let (low, median, high) = (value(0), value(1), value(2));
    Ok(key(median + 1.5 * (high - low)))
}

/// The keys of the importance of each change in a tile of whole rows.
fn importance(row: usize, tiles: &Tiles, keys: &mut Vec<u32>) {
    let (mut p, mut q) = (Vec::new(), Vec::new());
    keys.clear();
    let rows = tiles.models[0].chunks(row).zip(tiles.base.chunks(row));
    for (model, base) in rows {
        distribution(model, &mut p);
        distribution(base, &mut q);
        let terms = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln());
        let divergence = terms.sum::<f64>().max(0.0);
        let pairs = model.iter().zip(base);
        keys.extend(pairs.map(|(x, b)| key(((f64::from(x - b)).abs() * divergence) as f32)));
    }
}

/// Softmax of a row plus a small constant, in place of the row, as `f64`.
fn distribution(row: &[f32], out: &mut Vec<f64>) {
    let top = row.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    out.clear();
    out.extend(row.iter().map(|x| f64::from(x - top).exp()));
    let total: f64 = out.iter().sum();
    out.iter_mut().for_each(|p| *p = *p / total + 1e-8);
}
