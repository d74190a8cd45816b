//! Which samples make up which optimiser step.
//!
//! In every epoch the parts are visited in another order, and the samples within a part in
//! another order, both drawn from (seed, epoch, part): a part is read once an epoch, and the
//! place in the training is just (epoch, ordinal). The tokens of an epoch are divided evenly
//! into ⌈tokens / `batch_tokens`⌉ steps, so that no step is a small rest.

use serde::{Deserialize, Serialize};

use super::TrainOptions;

/// The place after some step: the next sample is `ordinal` of the epoch's order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Epoch, from 0.
    pub epoch: u32,
    /// Samples of the epoch's order that are done, counting only those that are trained on.
    pub ordinal: u64,
}

/// How many positions of each sample are read by the model; 0 where nothing is supervised.
///
/// # Memory
/// 4 bytes a sample.
#[derive(Clone, Debug, Default)]
pub struct Lengths {
    /// By part, by sample in the part.
    pub parts: Vec<Vec<u32>>,
}

impl Lengths {
    /// Positions in one epoch.
    pub fn tokens(&self) -> u64 {
        self.parts.iter().flatten().map(|len| u64::from(*len)).sum()
    }

    /// Samples that are trained on.
    pub fn samples(&self) -> u64 {
        let used = |part: &Vec<u32>| part.iter().filter(|len| **len > 0).count() as u64;
        self.parts.iter().map(used).sum()
    }

    /// The longest sample.
    pub fn longest(&self) -> u32 {
        self.parts.iter().flatten().copied().max().unwrap_or(0)
    }
}

/// Order of the parts in `epoch`.
pub fn part_order(seed: u64, epoch: u32, parts: usize) -> Vec<u32> {
    shuffled(parts, &[seed, u64::from(epoch)])
}

/// Order of the samples of `part` in `epoch`, without those that are not trained on.
pub fn sample_order(seed: u64, epoch: u32, part: u32, lengths: &[u32]) -> Vec<u32> {
    let mut order = shuffled(lengths.len(), &[seed, u64::from(epoch), u64::from(part)]);
    order.retain(|sample| lengths.get(*sample as usize).is_some_and(|len| *len > 0));
    order
}

/// Where the steps of an epoch end.
#[derive(Clone, Debug)]
pub struct Divider {
    total: u64,
    steps: u64,
    seen: u64,
    closed: u64,
}

impl Divider {
    /// For epochs of `total` tokens.
    pub fn new(total: u64, batch_tokens: usize) -> Self {
        Self {
            total,
            steps: total.div_ceil(batch_tokens.max(1) as u64).max(1),
            seen: 0,
            closed: 0,
        }
    }

    /// Takes the next sample; says whether it is the last of its step.
    pub fn closes_after(&mut self, len: u32) -> bool {
        self.seen += u64::from(len);
        let due = u128::from(self.seen) * u128::from(self.steps) / u128::from(self.total.max(1));
        let closes = due > u128::from(self.closed);
        // A sample longer than a step's share closes several at once.
        self.closed = self.closed.max(due as u64);
        closes
    }
}

/// Steps of the whole training.
pub fn count_steps(lengths: &Lengths, options: &TrainOptions) -> u64 {
    let total = lengths.tokens();
    if let Some(steps) = options.max_steps {
        // Each epoch has a step, unless there is nothing to learn from.
        return if total > 0 { steps } else { 0 };
    }
    let mut steps = 0;
    for epoch in 0..options.epochs {
        let mut divider = Divider::new(total, options.batch_tokens);
        for part in part_order(options.seed, epoch, lengths.parts.len()) {
            let Some(in_part) = lengths.parts.get(part as usize) else {
                continue;
            };
            for sample in sample_order(options.seed, epoch, part, in_part) {
                let len = in_part.get(sample as usize).copied().unwrap_or(0);
                steps += u64::from(divider.closes_after(len));
            }
        }
    }
    steps
}

/// 0..n in an order drawn from `keys` (Fisher and Yates).
fn shuffled(n: usize, keys: &[u64]) -> Vec<u32> {
    let mut state = keys.iter().fold(0x6675_7365_6c6d, |state, key| {
        mix(state ^ key.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    });
    let mut order: Vec<u32> = (0..n as u32).collect();
    for i in (1..n).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let below = (u128::from(mix(state)) * (i as u128 + 1)) >> 64;
        order.swap(i, below as usize);
    }
    order
}

/// The output function of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(state: u64) -> u64 {
    let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_a_permutation_that_depends_on_every_key() {
        let order = shuffled(1000, &[1, 2, 3]);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..1000).collect::<Vec<u32>>());
        assert_eq!(order, shuffled(1000, &[1, 2, 3]));
        for other in [[0, 2, 3], [1, 0, 3], [1, 2, 0], [2, 1, 3]] {
            assert_ne!(order, shuffled(1000, &other));
        }
        assert_eq!(shuffled(0, &[1]), Vec::<u32>::new());
    }

    #[test]
    fn steps_share_the_tokens_evenly() {
        // 100 tokens, at most 30 a step: 4 steps of 25, not 3 of 30 and a rest of 10.
        let mut divider = Divider::new(100, 30);
        let ends: Vec<u32> = (1..=20).filter(|_| divider.closes_after(5)).collect();
        assert_eq!(ends, [5, 10, 15, 20]);
        // A sample longer than a step is a step of its own; the last sample always closes.
        let mut divider = Divider::new(100, 10);
        let ends = [60, 5, 5, 30].map(|len| divider.closes_after(len));
        assert_eq!(ends, [true, false, true, true]);
    }

    #[test]
    fn steps_are_counted_as_they_are_made() {
        let lengths = Lengths {
            parts: vec![vec![5, 0, 7, 5], vec![0], vec![3; 11]],
        };
        assert_eq!((lengths.tokens(), lengths.samples()), (50, 14));
        let options = TrainOptions {
            batch_tokens: 20,
            epochs: 3,
            ..TrainOptions::default()
        };
        assert_eq!(count_steps(&lengths, &options), 9);
        let options = TrainOptions {
            max_steps: Some(4),
            ..options
        };
        assert_eq!(count_steps(&lengths, &options), 4);
        let options = TrainOptions {
            max_steps: Some(20),
            ..options
        };
        assert_eq!(count_steps(&lengths, &options), 20);
        let nothing = Lengths {
            parts: vec![vec![0, 0]],
        };
        assert_eq!(count_steps(&nothing, &options), 0);
    }
}
