//! Random draws from next-token distributions.
//!
//! Drawn independently from the full distribution, with replacement, each id's share of the draws
//! is an unbiased estimate of its probability (its importance weight under the distribution
//! itself), and so is the gradient of a loss that is linear in the target: random sampling
//! knowledge distillation (arXiv 2503.16870). A list of the most probable tokens is not.
//!
//! The generator counts instead of remembering: draw i at a position is a hash of (seed, sample,
//! position, i), whatever threads and batches do.

use crate::model::ops::kernels;
use crate::units::SampleId;

/// Logits summed at once.
const BLOCK: usize = 256;

/// How many ids are drawn at each position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draws {
    /// Number of draws; ids may repeat.
    pub count: usize,
    /// Another seed draws other ids.
    pub seed: u64,
}

impl Draws {
    /// The key of a position, from which its draws follow.
    pub(super) fn key(&self, sample: SampleId, pos: u32) -> u64 {
        mix(mix(mix(self.seed) ^ sample) ^ u64::from(pos))
    }
}

/// The finaliser of SplitMix64: every bit of the result depends on every bit of `x`.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Draw `at` of a position, in (0, 1).
fn uniform(key: u64, at: usize) -> f64 {
    let bits = mix(key ^ mix(at as u64)) >> 11;
    (bits as f64 + 0.5) / (1u64 << 53) as f64
}

/// Fills `ids` with draws from the softmax of `logits`, in rising order, and `logprobs` with the
/// logarithm of one draw's share; returns the log-probability of the target and of what is left
/// (nothing), or NaN for both if a logit is not finite.
pub(super) fn row(
    logits: &[f32],
    target: u32,
    key: u64,
    ids: &mut [u32],
    logprobs: &mut [f32],
) -> (f32, f32) {
    if !kernels::all_finite(logits) {
        return (f32::NAN, f32::NAN);
    }
    let shift = kernels::max(logits);
    let blocks: Vec<f64> = logits
        .chunks(BLOCK)
        .map(|block| f64::from(kernels::sum_exp(block, shift)))
        .collect();
    let total: f64 = blocks.iter().sum();
    let mut places: Vec<f64> = (0..ids.len()).map(|at| uniform(key, at) * total).collect();
    places.sort_unstable_by(f64::total_cmp);
    // One walk serves all draws, which are in order.
    let (mut block, mut before) = (0, 0.0);
    let (mut at, mut inside) = (0, 0.0);
    for (id, place) in ids.iter_mut().zip(&places) {
        while block + 1 < blocks.len() && before + blocks[block] < *place {
            before += blocks[block];
            block += 1;
            (at, inside) = (0, 0.0);
        }
        let values = &logits[block * BLOCK..logits.len().min((block + 1) * BLOCK)];
        loop {
            let next = inside + f64::from(kernels::exp(values[at] - shift));
            // The last one, if rounding has lost the rest.
            if before + next >= *place || at + 1 == values.len() {
                break;
            }
            inside = next;
            at += 1;
        }
        *id = (block * BLOCK + at) as u32;
    }
    logprobs.fill(-(ids.len() as f32).ln());
    let target = f64::from(logits[target as usize]) - f64::from(shift) - total.ln();
    (target as f32, f32::NEG_INFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shares of all draws at `positions` positions.
    fn shares(logits: &[f32], draws: Draws, positions: u32) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        let (mut ids, mut logprobs) = (vec![0; draws.count], vec![0.0; draws.count]);
        for pos in 0..positions {
            row(logits, 0, draws.key(3, pos), &mut ids, &mut logprobs);
            assert!(ids.is_sorted());
            for id in &ids {
                counts[*id as usize] += 1.0;
            }
        }
        let all = f64::from(positions) * draws.count as f64;
        counts.iter().map(|count| count / all).collect()
    }

    #[test]
    fn shares_are_unbiased() {
        let draws = Draws { count: 50, seed: 1 };
        // Across several blocks, with one likely token and many unlikely ones.
        let logits: Vec<f32> = (0..1000).map(|i| 6.0 / (1.0 + i as f32 / 7.0)).collect();
        let all: f64 = logits.iter().map(|x| f64::from(x.exp())).sum();
        let found = shares(&logits, draws, 20_000);
        let n: f64 = 1e6;
        let mut chi = 0.0;
        for (logit, share) in logits.iter().zip(&found) {
            let p = f64::from(logit.exp()) / all;
            let deviation = (p * (1.0 - p) / n).sqrt();
            assert!((share - p).abs() < 5.0 * deviation, "{share} of {p}");
            chi += n * (share - p) * (share - p) / p;
        }
        // 999 degrees of freedom: mean 999, deviation 45.
        assert!((chi - 999.0).abs() < 200.0, "{chi}");
    }

    #[test]
    fn draws_follow_from_seed_sample_and_position_alone() {
        let logits: Vec<f32> = (0..300).map(|i| ((i * 37) % 50) as f32 / 10.0).collect();
        let draw = |seed, sample, pos| {
            let (mut ids, mut logprobs) = ([0; 20], [0.0; 20]);
            let key = Draws { count: 20, seed }.key(sample, pos);
            let (target, tail) = row(&logits, 4, key, &mut ids, &mut logprobs);
            assert_eq!(tail, f32::NEG_INFINITY);
            assert!((logprobs[7] + 20f32.ln()).abs() < 1e-6);
            assert!(target < 0.0);
            ids
        };
        assert_eq!(draw(1, 2, 3), draw(1, 2, 3));
        for other in [draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4), draw(1, 3, 2)] {
            assert_ne!(other, draw(1, 2, 3));
        }
    }

    #[test]
    fn certainty_and_damage() {
        let (mut ids, mut logprobs) = ([9; 3], [0.0; 3]);
        let (target, _) = row(&[-90.0, 80.0, -90.0], 1, 5, &mut ids, &mut logprobs);
        assert_eq!((ids, target), ([1; 3], 0.0));
        let (target, _) = row(&[0.0, f32::NAN], 1, 5, &mut ids, &mut logprobs);
        assert!(target.is_nan());
    }
}
