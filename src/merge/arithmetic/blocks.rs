//! How a tensor is walked: in fixed blocks, shared out over threads in chunks.
//!
//! A block is the unit of every sum: within a block values are added in a fixed order, and
//! block sums are added in the order of the blocks. Results therefore do not depend on the
//! number of threads or the chunk size, which only say how many blocks a thread takes at once.
//!
//! Memory: each thread holds one tile (1,024 elements, or whole rows where a kernel needs rows)
//! of every model as `f32`, and one block of output.

use std::ops::Range;

use rayon::prelude::*;

use crate::error::Result;
use crate::progress::check_interrupt;
use crate::tensors::{Dtype, Elements};

use super::vector::{count_from, dot, key, subtract};

/// Elements of a block, and of a tile within it.
const BLOCK: usize = 1 << 16;
const TILE: usize = 1 << 10;
/// Elements of a run of a sample.
const RUN: usize = 64;
/// Neighbouring blocks whose pages are given back together: each time costs an interrupt of all
/// threads.
const GROUP: usize = 8;

/// The walk over one tensor.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// Elements of the tensor.
    pub len: usize,
    /// Elements of a row (the last dimension).
    pub row: usize,
    block: usize,
    tile: usize,
    /// Elements of a run of a sample.
    run: usize,
    chunk: usize,
}

impl Walk {
    /// A walk over `len` elements with rows of `row`; `chunk` is in elements.
    pub fn new(len: usize, row: usize, chunk: usize) -> Self {
        Self {
            len,
            row: row.clamp(1, len.max(1)),
            block: BLOCK,
            tile: TILE,
            run: RUN,
            chunk: chunk.div_ceil(BLOCK).max(1),
        }
    }

    /// A walk over a tensor of this shape, whose rows are its last dimension (a tensor of one
    /// dimension is one row); `chunk` is in elements.
    pub fn over(shape: &[usize], chunk: usize) -> Self {
        let len = shape.iter().product();
        match shape {
            [_, .., row] => Self::new(len, *row, chunk),
            _ => Self::new(len, len, chunk),
        }
    }

    /// The same walk with tiles that are whole rows.
    pub fn by_rows(mut self) -> Self {
        self.block = (BLOCK / self.row).max(1) * self.row;
        self.tile = (TILE / self.row).max(1) * self.row;
        self.run = self.tile;
        self
    }

    /// The number of blocks.
    pub fn blocks(&self) -> usize {
        self.len.div_ceil(self.block)
    }

    /// The elements of block `at`.
    pub fn block(&self, at: usize) -> Range<usize> {
        at * self.block..((at + 1) * self.block).min(self.len)
    }

    /// The tiles of block `at`.
    pub fn tiles(&self, at: usize) -> impl Iterator<Item = Range<usize>> {
        let Range { start, end } = self.block(at);
        let tile = self.tile;
        (start..end)
            .step_by(tile)
            .map(move |begin| begin..(begin + tile).min(end))
    }

    /// Calls `visit` with the ranges of a sample.
    pub fn sampled(&self, inputs: &Inputs<'_>, mut visit: impl FnMut(&Range<usize>, &mut Tiles)) {
        let mut tiles = Tiles::empty(inputs.models.len());
        tiles.peeking = true;
        for range in self.sample() {
            visit(&range, &mut tiles);
        }
    }

    /// Short ranges, spread over the tensor in the same way every time, that give an idea of its
    /// values: about one element of 128 and at least 8,192, or all of them.
    pub fn sample(&self) -> Vec<Range<usize>> {
        let run = self.run;
        let wanted = (self.len / 128).max(8192).div_ceil(run);
        let runs = self.len.div_ceil(run);
        let clip = |begin: usize| begin..(begin + run).min(self.len);
        if runs <= wanted {
            return (0..runs).map(|at| clip(at * run)).collect();
        }
        // One run somewhere in each of `wanted` equal parts.
        (0..wanted)
            .map(|at| {
                let (begin, end) = (at * runs / wanted, (at + 1) * runs / wanted);
                let somewhere = (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
                clip((begin + somewhere as usize % (end - begin)) * run)
            })
            .collect()
    }

    /// Calls `work` for every block, in parallel; the results come in the order of the blocks.
    ///
    /// # Errors
    ///
    /// The first error of `work`, or the user's wish to stop.
    pub fn each<T: Send>(
        &self,
        inputs: &Inputs<'_>,
        work: impl Fn(usize, &mut Tiles) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        (0..self.blocks())
            .into_par_iter()
            .with_min_len(self.chunk)
            .map_init(
                || Tiles::new(inputs.models.len(), self.tile.min(self.len)),
                |tiles, at| {
                    check_interrupt()?;
                    let result = work(at, tiles)?;
                    if (at + 1).is_multiple_of(GROUP) {
                        inputs.done(self.block(at + 1 - GROUP).start..self.block(at).end);
                    }
                    Ok(result)
                },
            )
            .collect()
    }

    /// [`Walk::each`], adding up what the blocks give in the order of the blocks.
    ///
    /// # Errors
    ///
    /// As [`Walk::each`].
    pub fn sum(
        &self,
        inputs: &Inputs<'_>,
        width: usize,
        work: impl Fn(usize, &mut Tiles, &mut [f64]) -> Result<()> + Sync,
    ) -> Result<Vec<f64>> {
        let blocks = self.each(inputs, |at, tiles| {
            let mut sums = vec![0.0; width];
            work(at, tiles, &mut sums)?;
            Ok(sums)
        })?;
        let mut total = vec![0.0; width];
        for block in blocks {
            for (total, sum) in total.iter_mut().zip(block) {
                *total += sum;
            }
        }
        Ok(total)
    }

    /// The output pass: `compute(range, tiles, sums)` reads a tile and leaves the merged one in
    /// `tiles.merged`; it is stored, and `sums` (of `width` numbers) are added up as in
    /// [`Walk::sum`]. The last number given back counts values that are not finite as they are stored.
    ///
    /// # Errors
    ///
    /// A failed write, or the user's wish to stop.
    pub fn produce(
        &self,
        inputs: &Inputs<'_>,
        output: &Output<'_>,
        width: usize,
        compute: impl Fn(&Range<usize>, &mut Tiles, &mut [f64]) + Sync,
    ) -> Result<Vec<f64>> {
        let size = output.dtype.size();
        let bound = key(output.dtype.overflow());
        self.sum(inputs, width + 1, |at, tiles, sums| {
            let block = self.block(at);
            let mut bytes = std::mem::take(&mut tiles.bytes);
            bytes.resize(block.len() * size, 0);
            for range in self.tiles(at) {
                compute(&range, tiles, &mut sums[..width]);
                let place = (range.start - block.start) * size;
                let bytes = &mut bytes[place..place + range.len() * size];
                output.dtype.encode(&tiles.merged, bytes);
                sums[width] += f64::from(count_from(&tiles.merged, bound));
            }
            (output.write)(block.start as u64 * size as u64, &bytes)?;
            tiles.bytes = bytes;
            Ok(())
        })
    }
}

/// Where a merged tensor goes.
pub struct Output<'a> {
    /// The dtype that it is stored in.
    pub dtype: Dtype,
    /// Writes bytes at a byte offset within the tensor.
    pub write: &'a (dyn Fn(u64, &[u8]) -> Result<()> + Sync),
}

/// The tensors that are merged into one: equal shapes, an optional base.
pub struct Inputs<'a> {
    /// The base, if the method has one.
    pub base: Option<&'a dyn Elements>,
    /// The models besides the base.
    pub models: Vec<&'a dyn Elements>,
}

impl Inputs<'_> {
    /// Says that a range is not needed again for a while.
    pub fn done(&self, range: Range<usize>) {
        for input in self.base.iter().chain(&self.models) {
            input.done(range.clone());
        }
    }
}

/// A thread's buffers: a tile of the base and of each model.
pub struct Tiles {
    /// The base's tile (zeros where there is no base).
    pub base: Vec<f32>,
    /// The models' tiles; after [`Tiles::read_deltas`] their differences from the base.
    pub models: Vec<Vec<f32>>,
    /// One more buffer of the same length: the merged tile.
    pub merged: Vec<f32>,
    /// A number for each position: how much the models vary there.
    pub measures: Vec<f64>,
    /// What positions are selected by.
    pub keys: Vec<u32>,
    /// Places within the tile.
    pub places: Vec<u32>,
    bytes: Vec<u8>,
    /// Whether what is read lies apart.
    peeking: bool,
}

impl Tiles {
    fn new(models: usize, tile: usize) -> Self {
        Self {
            base: vec![0.0; tile],
            models: vec![vec![0.0; tile]; models],
            merged: vec![0.0; tile],
            measures: Vec::new(),
            keys: Vec::new(),
            places: Vec::new(),
            bytes: Vec::new(),
            peeking: false,
        }
    }

    /// Buffers that grow when they are first used.
    pub fn empty(models: usize) -> Self {
        Self::new(models, 0)
    }

    /// Reads the tile at `range`. All buffers get exactly its length.
    pub fn read(&mut self, inputs: &Inputs<'_>, range: &Range<usize>) {
        self.base.resize(range.len(), 0.0);
        self.merged.resize(range.len(), 0.0);
        let read = if self.peeking {
            <dyn Elements>::peek
        } else {
            <dyn Elements>::read
        };
        if let Some(base) = inputs.base {
            read(base, range.start, &mut self.base);
        }
        for (tile, model) in self.models.iter_mut().zip(&inputs.models) {
            tile.resize(range.len(), 0.0);
            read(*model, range.start, tile);
        }
    }

    /// [`Tiles::read`], then subtracts the base from every model.
    pub fn read_deltas(&mut self, inputs: &Inputs<'_>, range: &Range<usize>) {
        self.read(inputs, range);
        if inputs.base.is_some() {
            for tile in &mut self.models {
                subtract(tile, &self.base);
            }
        }
    }
}

/// The place of the product of models `i <= j` in a triangle of `n` models.
pub fn pair(n: usize, i: usize, j: usize) -> usize {
    let (i, j) = (i.min(j), i.max(j));
    i * n - i * (i + 1) / 2 + j
}

/// The inner products of all pairs of models (of their updates, where there is a base), as the
/// upper triangle addressed by [`pair`]. One pass.
///
/// # Errors
///
/// The user's wish to stop.
pub fn gram(walk: &Walk, inputs: &Inputs<'_>) -> Result<Vec<f64>> {
    let n = inputs.models.len();
    walk.sum(inputs, n * (n + 1) / 2, |at, tiles, sums| {
        for range in walk.tiles(at) {
            tiles.read_deltas(inputs, &range);
            for i in 0..n {
                for j in i..n {
                    sums[pair(n, i, j)] += dot(&tiles.models[i], &tiles.models[j]);
                }
            }
        }
        Ok(())
    })
}

/// The squared norm of each model's update. One pass.
///
/// # Errors
///
/// The user's wish to stop.
pub fn squares(walk: &Walk, inputs: &Inputs<'_>) -> Result<Vec<f64>> {
    walk.sum(inputs, inputs.models.len(), |at, tiles, sums| {
        for range in walk.tiles(at) {
            tiles.read_deltas(inputs, &range);
            for (sum, tile) in sums.iter_mut().zip(&tiles.models) {
                *sum += dot(tile, tile);
            }
        }
        Ok(())
    })
}
