//! The pass that looks into a window of spreads, and what follows from it.
//!
//! Memory: 16 bytes and 4 for each model for every position near the threshold, of which there
//! are at most 2^21.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::selection::{Selection, Survey, variance};
use crate::error::Result;
use crate::merge::arithmetic::vector::{above, between, spread, squares_above};
use crate::merge::arithmetic::{Inputs, Tiles, Walk};

/// Most positions near the threshold that are remembered.
pub const GATHERED: usize = 1 << 21;

/// Where the threshold should be, and what may be remembered of it.
#[derive(Clone, Copy)]
pub struct Window {
    /// The least spread inside it.
    pub low: f64,
    /// The largest one.
    pub high: f64,
    /// Most positions that are remembered.
    pub limit: usize,
}

/// What a block holds.
#[derive(Default)]
pub struct Block {
    /// Positions above the window.
    pub above: u64,
    /// Positions inside it that vary.
    pub within: u64,
    /// Positions that vary.
    pub nonzero: u64,
    /// Σ δ² above the window, for each model.
    squares: Vec<f64>,
    /// Σ δ² everywhere.
    pub all: Vec<f64>,
    /// Variances and indices of the positions inside the window, and their δ², model by model.
    inside: Vec<(f64, usize)>,
    inside_squares: Vec<f32>,
}

impl Block {
    /// Adds a tile that was read.
    fn add(
        &mut self,
        range: &Range<usize>,
        tiles: &mut Tiles,
        window: Window,
        gathered: &AtomicUsize,
    ) {
        let Window { low, high, limit } = window;
        let Tiles {
            base,
            models,
            measures,
            places,
            ..
        } = tiles;
        measures.resize(range.len(), 0.0);
        spread(models, measures);
        let [above, nonzero] = above(measures, high);
        between(measures, low, high, places);
        self.above += u64::from(above);
        self.nonzero += u64::from(nonzero);
        for (j, model) in models.iter().enumerate() {
            let (all, above) = squares_above(model, base, measures, high);
            self.all[j] += all;
            self.squares[j] += above;
        }
        // Positions that do not vary are never selected.
        places.retain(|at| measures[*at as usize] != 0.0);
        self.within += places.len() as u64;
        if gathered.fetch_add(places.len(), Ordering::Relaxed) > limit {
            return;
        }
        for at in places.iter().map(|at| *at as usize) {
            self.inside
                .push((variance(base[at], models, at), range.start + at));
            for model in models.iter() {
                let delta = model[at] - base[at];
                self.inside_squares.push(delta * delta);
            }
        }
    }
}

/// Sums over the positions above a window of spreads; remembers those inside it, but no more than
/// its limit or a few more.
pub fn pass(walk: &Walk, inputs: &Inputs<'_>, window: Window) -> Result<Vec<Block>> {
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
            block.add(&range, tiles, window, &gathered);
        }
        // Half of what growing vectors have may be empty.
        block.inside.shrink_to_fit();
        block.inside_squares.shrink_to_fit();
        Ok(block)
    })
}

/// Sums of what all blocks have, for each model.
pub fn total(blocks: &[Block], of: impl Fn(&Block) -> &Vec<f64>) -> Vec<f64> {
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
pub fn resolve(blocks: &[Block], k: u64, window: Window, n: usize) -> Option<Survey> {
    let above: u64 = blocks.iter().map(|block| block.above).sum();
    let left = usize::try_from(k.checked_sub(above)?).ok()?;
    let count = blocks.iter().map(|block| block.within).sum::<u64>() as usize;
    if left > count || count > window.limit {
        return None;
    }
    let mut squares = total(blocks, |block| &block.squares);
    let selection = if left == 0 {
        Selection::above(window.high)
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
