//! Selecting the most varied positions where a sample misleads or too many are tied.

use std::ops::Range;

use super::pass::{Block, GATHERED, Window, pass, resolve, total};
use super::selection::{MARGIN, Selection, Survey, variance};
use crate::error::Result;
use crate::merge::arithmetic::vector::{between, spread, squares_above};
use crate::merge::arithmetic::{Inputs, Keyed, Tiles, Walk, Wanted};

/// The survey for the `k` most varied positions without a guess: two histogram passes over the
/// variances as `f32`, then one over the positions that share the threshold's.
pub fn exhaustive(walk: &Walk, inputs: &Inputs<'_>, k: u64) -> Result<Survey> {
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
    let key = Keyed::new(walk, inputs, &keys)
        .thresholds(&wanted)?
        .first()
        .map_or(0, |threshold| threshold.key);
    // The spreads whose variances round to the threshold's.
    let value = |bits: u32| f64::from(f32::from_bits(bits));
    let between = |a: u32, b: u32| (value(a) + value(b)) / 2.0 * (n * n) as f64;
    let window = Window {
        low: between(key.saturating_sub(1), key) * (1.0 - MARGIN),
        high: between(key, key + 1) * (1.0 + MARGIN),
        limit: GATHERED,
    };
    let blocks = pass(walk, inputs, window)?;
    match resolve(&blocks, k, window, n) {
        Some(survey) => Ok(survey),
        None => lowest(walk, inputs, k, window, &blocks),
    }
}

/// Selects what is above the window, and of what is inside it the lowest indices: too many
/// positions are inside it to be put in order.
fn lowest(
    walk: &Walk,
    inputs: &Inputs<'_>,
    k: u64,
    window: Window,
    blocks: &[Block],
) -> Result<Survey> {
    let Window { low, high, .. } = window;
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
