//! Methods of two models with a rule of their own at each position.

use std::ops::Range;

use super::super::blocks::Tiles;
use super::super::select::{Cutoff, Wanted, select};
use super::super::vector::key;
use super::affine::norms;
use super::{Job, Outcome, Output, Result, Share};

/// NearSwap: the other model's value within distance `t`, fading with distance beyond.
pub(super) fn nearswap(job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
    let t = job.values.number("t") as f32;
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

/// Softmax of a row plus a small constant, in place of the row, as `f64`.
fn distribution(row: &[f32], out: &mut Vec<f64>) {
    let top = row.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    out.clear();
    out.extend(row.iter().map(|x| f64::from(x - top).exp()));
    let total: f64 = out.iter().sum();
    out.iter_mut().for_each(|p| *p = *p / total + 1e-8);
}

/// Arcee Fusion: changes whose importance (|δ| times the divergence between the rows' softmax
/// distributions) reaches the median plus 1.5 interquartile ranges are taken over. Quantiles are
/// exact (mergekit samples tensors of more than a million elements).
pub(super) fn arcee_fusion(job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
    let walk = job.walk.by_rows();
    let count = walk.len as u64;
    let importance = |tiles: &mut Tiles, keys: &mut Vec<u32>| {
        let (mut p, mut q) = (Vec::new(), Vec::new());
        keys.clear();
        let rows = tiles.models[0]
            .chunks(walk.row)
            .zip(tiles.base.chunks(walk.row));
        for (model, base) in rows {
            distribution(model, &mut p);
            distribution(base, &mut q);
            let terms = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln());
            let divergence = terms.sum::<f64>().max(0.0);
            let pairs = model.iter().zip(base);
            keys.extend(pairs.map(|(x, b)| key(((f64::from(x - b)).abs() * divergence) as f32)));
        }
    };
    // The value at quantile x is the (count − floor(x·(count − 1)))-th largest.
    let wanted = [0.25f32, 0.5, 0.75].map(|x| Wanted {
        stream: 0,
        count: {
            let below = (x * (count - 1) as f32) as u64;
            count - below.min(count - 1)
        },
    });
    let keys = |range: &Range<usize>, tiles: &mut Tiles, each: &mut dyn FnMut(usize, &[u32])| {
        tiles.read(&job.inputs, range);
        let mut keys = Vec::new();
        importance(tiles, &mut keys);
        each(0, &keys);
    };
    let cutoffs = select(&walk, &job.inputs, &wanted, &keys)?;
    let value = |at: usize| {
        f32::from_bits(if cutoffs[at] == Cutoff::ALL {
            0
        } else {
            cutoffs[at].key
        })
    };
    let (low, median, high) = (value(0), value(1), value(2));
    let threshold = key(median + 1.5 * (high - low));
    let sums = walk.produce(&job.inputs, output, 2, |range, tiles, sums| {
        tiles.read(&job.inputs, range);
        let mut keys = Vec::new();
        importance(tiles, &mut keys);
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
    let share = sums[1] / walk.len.max(1) as f64;
    let share = Share {
        coefficient: 1.0,
        selected_fraction: share,
        kept_fraction: share,
        delta_norm: sums[0].sqrt(),
    };
    Ok(Outcome::new(vec![share], sums.last()))
}
