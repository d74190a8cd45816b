//! Selecting the positions where the models vary most.
//!
//! Order is by the population variance of the updates in `f64`, the lowest index first where
//! variances are equal. A cheaper [`spread`] tells most positions apart; the variance itself is
//! only computed for those near the threshold.
//!
//! Memory: 16 bytes and 4 for each model for every position near the threshold, of which there
//! are at most 2^21.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::blocks::{Inputs, Tiles, Walk};
use super::super::select::{Wanted, thresholds, window};
use super::super::vector::{above, between, spread, squares_above};
use crate::error::Result;

/// Spreads that differ by less than this factor may be in another order than the variances.
const MARGIN: f64 = 1.0 / (1 << 30) as f64;
/// Most positions near the threshold that are remembered.
const GATHERED: usize = 1 << 21;

/// Which positions are selected: those with a spread above `high`, and of those from `low` to
/// `high` the ones whose variance is above `variance` or equals it before index `end`. Where
/// `variance` is NaN, all from `low` to `high` count as equal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Selection {
    low: f64,
    pub high: f64,
    variance: f64,
    end: usize,
}

impl Selection {
    pub const ALL: Self = Self {
        low: -1.0,
        high: -1.0,
        variance: 0.0,
        end: 0,
    };
    const NONE: Self = Self::above(f64::INFINITY);

    /// Everything with a spread above `high`.
    const fn above(high: f64) -> Self {
        Self {
            low: f64::INFINITY,
            high,
            variance: f64::INFINITY,
            end: 0,
        }
    }

    /// The positions up to this variance of `n` models and, where it is reached, this index.
    fn down_to(variance: f64, end: usize, n: usize) -> Self {
        let spread = variance * (n * n) as f64;
        Self {
            low: spread * (1.0 - MARGIN),
            high: spread * (1.0 + MARGIN),
            variance,
            end,
        }
    }

    /// Leaves the spreads of a tile that was read in `tiles.measures`; those that are too close
    /// to call become infinite (selected) or negative (not).
    pub fn measure(&self, range: &Range<usize>, tiles: &mut Tiles) {
        tiles.measures.resize(range.len(), 0.0);
        spread(&tiles.models, &mut tiles.measures);
        between(&tiles.measures, self.low, self.high, &mut tiles.places);
        for at in &tiles.places {
            let at = *at as usize;
            let variance = variance(tiles.base[at], &tiles.models, at);
            let equal = variance == self.variance || self.variance.is_nan();
            let chosen = variance > self.variance || (equal && range.start + at < self.end);
            tiles.measures[at] = if chosen { f64::INFINITY } else { -1.0 };
        }
    }
}

/// The population variance of the updates at one place of a tile.
fn variance(base: f32, models: &[Vec<f32>], at: usize) -> f64 {
    let n = models.len() as f64;
    let base = f64::from(base);
    let deltas = || models.iter().map(|model| f64::from(model[at]) - base);
    let mean = deltas().sum::<f64>() / n;
    deltas()
        .map(|delta| (delta - mean) * (delta - mean))
        .sum::<f64>()
        / n
}

/// What the selecting pass finds.
pub(super) struct Survey {
    pub selection: Selection,
    /// How many positions are selected.
    pub selected: u64,
    /// Σ δ² over the selected positions, for each model.
    pub squares: Vec<f64>,
    /// Σ δ² over all positions, for each model.
    pub all: Vec<f64>,
}

/// What a block holds.
#[derive(Default)]
struct Block {
    above: u64,
    within: u64,
    nonzero: u64,
    squares: Vec<f64>,
    all: Vec<f64>,
    /// Variances and indices of the positions inside the window, and their δ², model by model.
    inside: Vec<(f64, usize)>,
    inside_squares: Vec<f32>,
}

/// Selects the `share` most varied of the positions that vary. One pass and a sample; five where
/// the sample misleads or very many positions are near the threshold.
pub(super) fn survey(walk: &Walk, inputs: &Inputs<'_>, share: f64) -> Result<Survey> {
    let (low, high) = guess(walk, inputs, share);
    let limit = (walk.len / 8).clamp(1 << 16, GATHERED);
    let blocks = pass(walk, inputs, low, high, limit)?;
    let nonzero: u64 = blocks.iter().map(|block| block.nonzero).sum();
    let k = (nonzero as f64 * share) as u64;
    if k == 0 {
        return Ok(Survey {
            selection: Selection::NONE,
            selected: 0,
            squares: vec![0.0; inputs.models.len()],
            all: total(&blocks, |block| &block.all),
        });
    }
    let found = resolve(&blocks, k, high, limit, inputs.models.len());
    // Another try remembers as much again.
    drop(blocks);
    match found {
        Some(survey) => Ok(survey),
        None => exhaustive(walk, inputs, k),
    }
}

/// Spreads between which the threshold must lie, as far as a sample says.
fn guess(walk: &Walk, inputs: &Inputs<'_>, share: f64) -> (f64, f64) {
    let mut sample: Vec<u64> = Vec::new();
    walk.sampled(inputs, |range, tiles| {
        tiles.read(inputs, range);
        tiles.measures.resize(range.len(), 0.0);
        spread(&tiles.models, &mut tiles.measures);
        let bits = tiles.measures.iter().map(|measure| measure.abs().to_bits());
        sample.extend(bits);
    });
    let nonzero = sample.iter().filter(|bits| **bits > 0).count();
    let share = share * nonzero as f64 / sample.len().max(1) as f64;
    let inside = window(&mut sample, share, walk.len);
    let ends = inside.first().zip(inside.last());
    ends.map_or((0.0, f64::INFINITY), |(low, high)| {
        (
            f64::from_bits(*low) * (1.0 - MARGIN),
            f64::from_bits(*high) * (1.0 + MARGIN),
        )
    })
}

/// Sums over the positions above a window of spreads; remembers those inside it, but no more than
/// `limit` or a few more.
fn pass(walk: &Walk, inputs: &Inputs<'_>, low: f64, high: f64, limit: usize) -> Result<Vec<Block>> {
    let n = inputs.models.len();
    let gathered = AtomicUsize::new(0);
    walk.each(inputs, |at, tiles| {
        let mut block = Block {
            squares: vec![0.0; n],
            all: vec![0.0; n],
            ..Block::default()
        };
        for range in walk.tiles(at) {
            tiles.read(inputs, &range);
            let Tiles {
                base,
                models,
                measures,
                places,
                ..
            } = &mut *tiles;
            measures.resize(range.len(), 0.0);
            spread(models, measures);
            let [above, nonzero] = above(measures, high);
            between(measures, low, high, places);
            block.above += u64::from(above);
            block.nonzero += u64::from(nonzero);
            for (j, model) in models.iter().enumerate() {
                let (all, above) = squares_above(model, base, measures, high);
                block.all[j] += all;
                block.squares[j] += above;
            }
            // Positions that do not vary are never selected.
            places.retain(|at| measures[*at as usize] != 0.0);
            block.within += places.len() as u64;
            let before = gathered.fetch_add(places.len(), Ordering::Relaxed);
            if before > limit {
                continue;
            }
            for at in places.iter().map(|at| *at as usize) {
                let variance = variance(base[at], models, at);
                block.inside.push((variance, range.start + at));
                for model in models.iter() {
                    let delta = model[at] - base[at];
                    block.inside_squares.push(delta * delta);
                }
            }
        }
        // Half of what growing vectors have may be empty.
        block.inside.shrink_to_fit();
        block.inside_squares.shrink_to_fit();
        Ok(block)
    })
}

fn total(blocks: &[Block], of: impl Fn(&Block) -> &Vec<f64>) -> Vec<f64> {
    let mut blocks = blocks.iter().map(of);
    let mut sums = blocks.next().cloned().unwrap_or_default();
    for block in blocks {
        for (sum, value) in sums.iter_mut().zip(block) {
            *sum += value;
        }
    }
    sums
}

/// The selection, if the k-th position lies in the window and all inside were remembered.
fn resolve(blocks: &[Block], k: u64, high: f64, limit: usize, n: usize) -> Option<Survey> {
    let above: u64 = blocks.iter().map(|block| block.above).sum();
    let left = usize::try_from(k.checked_sub(above)?).ok()?;
    let count = blocks.iter().map(|block| block.within).sum::<u64>() as usize;
    if left > count || count > limit {
        return None;
    }
    let mut squares = total(blocks, |block| &block.squares);
    let selection = if left == 0 {
        Selection::above(high)
    } else {
        let order = |(variance, index): &(f64, usize)| (Reverse(variance.to_bits()), *index);
        let mut inside: Vec<(f64, usize)> = Vec::with_capacity(count);
        inside.extend(blocks.iter().flat_map(|block| &block.inside));
        let (_, last, _) = inside.select_nth_unstable_by_key(left - 1, order);
        let last = *last;
        for block in blocks {
            let places = block
                .inside
                .iter()
                .zip(block.inside_squares.chunks_exact(n));
            for (_, values) in places.filter(|(place, _)| order(place) <= order(&last)) {
                for (sum, value) in squares.iter_mut().zip(values) {
                    *sum += f64::from(*value);
                }
            }
        }
        Selection::down_to(last.0, last.1 + 1, n)
    };
    Some(Survey {
        selection,
        selected: k,
        squares,
        all: total(blocks, |block| &block.all),
    })
}

/// [`survey`] for the `k` most varied positions without a guess: two histogram passes over the
/// variances as `f32`, then one over the positions that share the threshold's.
fn exhaustive(walk: &Walk, inputs: &Inputs<'_>, k: u64) -> Result<Survey> {
    let n = inputs.models.len();
    let wanted = [Wanted {
        stream: 0,
        count: k,
    }];
    let keys = |range: &Range<usize>, tiles: &mut Tiles, each: &mut dyn FnMut(usize, &[u32])| {
        tiles.read(inputs, range);
        let key = |at| (variance(tiles.base[at], &tiles.models, at) as f32).to_bits();
        let keys: Vec<u32> = (0..range.len()).map(key).collect();
        each(0, &keys);
    };
    let key = thresholds(walk, inputs, &wanted, &keys)?
        .first()
        .map_or(0, |threshold| threshold.key);
    // The spreads whose variances round to the threshold's.
    let value = |bits: u32| f64::from(f32::from_bits(bits));
    let between = |a: u32, b: u32| (value(a) + value(b)) / 2.0 * (n * n) as f64;
    let low = between(key.saturating_sub(1), key) * (1.0 - MARGIN);
    let high = between(key, key + 1) * (1.0 + MARGIN);
    let blocks = pass(walk, inputs, low, high, GATHERED)?;
    match resolve(&blocks, k, high, GATHERED, n) {
        Some(survey) => Ok(survey),
        None => lowest(walk, inputs, k, low, high, &blocks),
    }
}

/// Selects what is above the window, and of what is inside it the lowest indices: too many
/// positions are inside it to be put in order.
fn lowest(
    walk: &Walk,
    inputs: &Inputs<'_>,
    k: u64,
    low: f64,
    high: f64,
    blocks: &[Block],
) -> Result<Survey> {
    let n = inputs.models.len();
    let above: u64 = blocks.iter().map(|block| block.above).sum();
    let mut left = k.saturating_sub(above);
    let full = |block: &&Block| {
        let all = block.within < left;
        left -= if all { block.within } else { 0 };
        all
    };
    let last = blocks.iter().take_while(full).count();
    let mut end = 0;
    if last < blocks.len() {
        let mut tiles = Tiles::empty(n);
        for range in walk.tiles(last) {
            tiles.read(inputs, &range);
            tiles.measures.resize(range.len(), 0.0);
            spread(&tiles.models, &mut tiles.measures);
            between(&tiles.measures, low, high, &mut tiles.places);
            let places = tiles.places.iter().map(|at| *at as usize);
            for at in places.filter(|at| tiles.measures[*at] != 0.0) {
                if left > 0 {
                    left -= 1;
                    end = range.start + at + 1;
                }
            }
        }
    }
    let selection = Selection {
        low,
        high,
        variance: f64::NAN,
        end,
    };
    let squares = walk.sum(inputs, n, |at, tiles, sums| {
        for range in walk.tiles(at) {
            tiles.read(inputs, &range);
            selection.measure(&range, tiles);
            for (sum, model) in sums.iter_mut().zip(&tiles.models) {
                *sum += squares_above(model, &tiles.base, &tiles.measures, high).1;
            }
        }
        Ok(())
    })?;
    Ok(Survey {
        selection,
        selected: k,
        squares,
        all: total(blocks, |block| &block.all),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensors::Elements;

    /// Models whose values come from `value(model, index)`, and a base of zeros.
    fn models(
        n: usize,
        len: usize,
        value: impl Fn(usize, usize) -> f32,
    ) -> (Vec<f32>, Vec<Vec<f32>>) {
        let models = (0..n).map(|j| (0..len).map(|i| value(j, i)).collect());
        (vec![0.0; len], models.collect())
    }

    fn inputs<'a>(base: &'a Vec<f32>, models: &'a [Vec<f32>]) -> Inputs<'a> {
        Inputs {
            base: Some(base),
            models: models.iter().map(|model| model as &dyn Elements).collect(),
        }
    }

    fn indices(selection: Selection, walk: &Walk, inputs: &Inputs<'_>) -> Vec<usize> {
        let mut tiles = Tiles::empty(inputs.models.len());
        let mut found = Vec::new();
        for range in (0..walk.blocks()).flat_map(|at| walk.tiles(at)) {
            tiles.read(inputs, &range);
            selection.measure(&range, &mut tiles);
            let above = |at: &usize| tiles.measures[at - range.start] > selection.high;
            found.extend(range.clone().filter(above));
        }
        found
    }

    fn hash(j: usize, i: usize) -> u32 {
        let mut x = (j as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (i as u64) << 20;
        x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (x >> 36) as u32
    }

    #[test]
    fn the_most_varied_positions_are_selected() {
        let smooth = |j: usize, i: usize| hash(j, i) as f32 / 1e8 + 100.0;
        let coarse = |j: usize, i: usize| (hash(j, i) % 7) as f32;
        for value in [&smooth as &dyn Fn(usize, usize) -> f32, &coarse] {
            let (n, len) = (5, 300_000);
            let (base, models) = models(n, len, value);
            let inputs = inputs(&base, &models);
            let walk = Walk::new(len, 16, 1);
            let column = |i: usize| {
                models
                    .iter()
                    .map(|model| vec![model[i]])
                    .collect::<Vec<_>>()
            };
            let variances: Vec<f64> = (0..len).map(|i| variance(0.0, &column(i), 0)).collect();
            let nonzero = variances.iter().filter(|v| **v > 0.0).count();
            let mut order: Vec<usize> = (0..len).collect();
            order.sort_by(|a, b| variances[*b].total_cmp(&variances[*a]).then(a.cmp(b)));
            for share in [1e-7, 0.001, 0.1, 0.9] {
                let survey = survey(&walk, &inputs, share).unwrap();
                let k = (nonzero as f64 * share) as usize;
                let mut expected = order[..k].to_vec();
                expected.sort_unstable();
                assert_eq!(survey.selected, k as u64);
                assert_eq!(
                    indices(survey.selection, &walk, &inputs),
                    expected,
                    "{share}"
                );
                if k > 0 {
                    let slow = exhaustive(&walk, &inputs, k as u64).unwrap();
                    assert_eq!(indices(slow.selection, &walk, &inputs), expected, "{share}");
                }
                for (j, model) in models.iter().enumerate() {
                    let sum: f64 = expected.iter().map(|i| f64::from(model[*i]).powi(2)).sum();
                    assert!((survey.squares[j] - sum).abs() <= 1e-6 * sum, "{share}");
                }
            }
        }
    }

    #[test]
    fn too_many_ties_to_put_in_order_are_taken_from_the_front() {
        // Two models; the first million positions vary by 2, all others by 1.
        let len = 6_000_000;
        let (base, models) = models(2, len, |j, i| match (j, i < 1_000_000) {
            (0, _) => 0.0,
            (_, true) => 2.0,
            (_, false) => 1.0,
        });
        let inputs = inputs(&base, &models);
        let walk = Walk::new(len, 16, 1);
        let survey = survey(&walk, &inputs, 0.5).unwrap();
        let expected: Vec<usize> = (0..3_000_000).collect();
        assert_eq!(indices(survey.selection, &walk, &inputs), expected);
        assert_eq!(survey.squares, [0.0, 6_000_000.0]);
    }
}
