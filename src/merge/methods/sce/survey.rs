//! Selecting the positions where the models vary most: a sample says where the threshold should
//! be, one pass finds it.

use super::exhaustive::exhaustive;
use super::pass::{GATHERED, Window, pass, resolve, total};
use super::selection::{MARGIN, Selection, Survey};
use crate::error::Result;
use crate::merge::arithmetic::vector::spread;
use crate::merge::arithmetic::{Inputs, Walk, window};

/// Selects the `share` most varied of the positions that vary. One pass and a sample; five where
/// the sample misleads or very many positions are near the threshold.
pub fn survey(walk: &Walk, inputs: &Inputs<'_>, share: f64) -> Result<Survey> {
    let (low, high) = guess(walk, inputs, share);
    let window = Window {
        low,
        high,
        limit: (walk.len / 8).clamp(1 << 16, GATHERED),
    };
    let blocks = pass(walk, inputs, window)?;
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
    let found = resolve(&blocks, k, window, inputs.models.len());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::arithmetic::Tiles;
    use crate::merge::methods::sce::selection::variance;
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
