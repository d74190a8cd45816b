//! The work of one attention, block by block.

use candle_core::{DType, Result, bail};

use super::blocks::{Block, LIMIT, blocks};
use crate::model::causal::{Causal, Sizes};
use crate::model::cuda::enabled::blas::{Matrices, product};
use crate::model::cuda::enabled::launch::{ATTENTION, Arg, Grid, OPS, launch, long, typed};
use crate::model::cuda::enabled::memory::{Fresh, View};

/// One attention, forward or backward.
pub(super) struct Work<'a> {
    pub query: View,
    pub key: View,
    pub value: View,
    pub causal: &'a Causal,
    pub sizes: Sizes,
}

/// Scores of a block as matrices, one for each sample and key/value head: rows are the queries of
/// the heads that share it.
#[derive(Clone, Copy, Debug)]
struct Scores {
    /// Number of matrices.
    batch: usize,
    rows: usize,
    width: usize,
}

impl Work<'_> {
    fn blocks(&self) -> Vec<Block> {
        blocks(self.sizes, self.causal.offset, self.causal.window, LIMIT)
    }

    pub fn forward(&self) -> Result<Fresh> {
        let s = self.sizes;
        let out = self.fresh(s.batch * s.len * s.heads * s.d)?;
        for block in self.blocks() {
            let scores = self.scores(block);
            let query = self.queries(block)?;
            let weights = self.fresh(scores.batch * scores.rows * scores.width)?;
            self.weights(block, query.pointer, weights.pointer, weights.pointer)?;
            let mixed = self.fresh(scores.batch * scores.rows * s.d)?;
            // SAFETY: the sizes are those of the block.
            unsafe {
                self.product(
                    (scores.batch, scores.rows, s.d, scores.width),
                    self.matrices(weights.pointer, scores.rows, scores.width),
                    self.of_keys(&self.value, block),
                    self.matrices(mixed.pointer, scores.rows, s.d),
                    0.0,
                )
            }?;
            let (first, begin) = (block.samples.0, block.queries.0);
            let at = ((first * s.len + begin) * s.heads * s.d) as u64;
            self.copy(
                block,
                (mixed.pointer, self.block_strides(block)),
                (
                    out.pointer + at * self.query.dtype.size_in_bytes() as u64,
                    [s.len * s.heads * s.d, s.d, s.heads * s.d],
                ),
            )?;
        }
        Ok(out)
    }

    /// Gradients for queries (in their type), keys and values (in f32).
    pub fn backward(&self, grad: &View) -> Result<[Fresh; 3]> {
        let s = self.sizes;
        let dtype = self.query.dtype;
        if grad.dtype != dtype || grad.count != s.batch * s.len * s.heads * s.d {
            bail!("a gradient of {} {:?} elements", grad.count, grad.dtype);
        }
        let device = &self.query.device;
        let size = s.batch * s.groups * s.positions * s.d;
        let sums = [
            self.fresh(s.batch * s.heads * s.len * s.d)?,
            Fresh::zeros(device, size, DType::F32)?,
            Fresh::zeros(device, size, DType::F32)?,
        ];
        for block in self.blocks() {
            self.block_backward(block, grad, &sums)?;
        }
        Ok(sums)
    }

    /// The part of a block in the gradients of queries, keys and values.
    fn block_backward(
        &self,
        block: Block,
        grad: &View,
        [dquery, dkey, dvalue]: &[Fresh; 3],
    ) -> Result<()> {
        let s = self.sizes;
        let Scores { batch, rows, width } = self.scores(block);
        let query = self.queries(block)?;
        let mixed = self.fresh(batch * rows * s.d)?;
        let at = (block.samples.0 * s.len + block.queries.0) * s.heads * s.d;
        self.copy(
            block,
            (grad.at(at), [s.len * s.heads * s.d, s.d, s.heads * s.d]),
            (mixed.pointer, self.block_strides(block)),
        )?;
        let dmixed = self.matrices(mixed.pointer, rows, s.d);
        let weights = self.fresh(batch * rows * width)?;
        // The cap's slope needs the scores, else the weights take their place.
        let kept = match self.causal.softcap {
            Some(_) => Some(self.fresh(batch * rows * width)?),
            None => None,
        };
        let raw = kept.as_ref().map_or(weights.pointer, |kept| kept.pointer);
        self.weights(block, query.pointer, raw, weights.pointer)?;
        let p = self.matrices(weights.pointer, rows, width);
        let dscores = self.fresh(batch * rows * width)?;
        let ds = self.matrices(dscores.pointer, rows, width);
        // SAFETY: the sizes are those of the block.
        unsafe {
            let values = self.of_keys(&self.value, block);
            self.product((batch, rows, width, s.d), dmixed, values.t(), ds, 0.0)?;
            let sum = self.sum_of_keys(dvalue, block);
            self.product((batch, width, s.d, rows), p.t(), dmixed, sum, 1.0)?;
        }
        self.scores_backward(block, [dscores.pointer, weights.pointer, raw])?;
        // SAFETY: the sizes are those of the block; `mixed` is used no more.
        unsafe {
            let sizes = (batch, rows, s.d, width);
            self.product(sizes, ds, self.of_keys(&self.key, block), dmixed, 0.0)?;
            let q = self.matrices(query.pointer, rows, s.d);
            let sum = self.sum_of_keys(dkey, block);
            self.product((batch, width, s.d, rows), ds.t(), q, sum, 1.0)?;
        }
        self.copy(
            block,
            (mixed.pointer, self.block_strides(block)),
            (
                dquery.pointer + self.query_offset(block),
                [s.heads * s.len * s.d, s.len * s.d, s.d],
            ),
        )
    }

    /// The gradient of the weights becomes that of the products of queries and keys, in place,
    /// given the weights and the scores.
    fn scores_backward(&self, block: Block, [grad, weights, scores]: [u64; 3]) -> Result<()> {
        let Scores { batch, rows, width } = self.scores(block);
        let args = [
            Arg::Pointer(grad),
            Arg::Pointer(weights),
            Arg::Pointer(scores),
            long(width),
            Arg::Float(self.causal.scale as f32),
            Arg::Float(self.causal.softcap.unwrap_or(0.0) as f32),
        ];
        let kernel = typed("softmax_backward", self.query.dtype)?;
        let grid = Grid::rows(batch * rows, width);
        // SAFETY: all three have batch · rows rows of `width`.
        unsafe { launch(&self.query.device, &ATTENTION, &kernel, grid, &args) }
    }

    /// Gradients, in f32, of the keys or values of the block.
    fn sum_of_keys(&self, sum: &Fresh, block: Block) -> Matrices {
        let s = self.sizes;
        let at = (block.samples.0 * s.groups * s.positions + block.keys.0) * s.d;
        let pointer = sum.pointer + (at * 4) as u64;
        Matrices::new(pointer, DType::F32, s.d, s.positions * s.d)
    }

    fn scores(&self, block: Block) -> Scores {
        Scores {
            batch: block.samples.1 * self.sizes.groups,
            rows: self.sizes.heads / self.sizes.groups * block.queries.1,
            width: block.keys.1,
        }
    }

    fn fresh(&self, count: usize) -> Result<Fresh> {
        Fresh::new(&self.query.device, count, self.query.dtype)
    }

    /// Matrices one after another, in the type of the queries.
    fn matrices(&self, pointer: u64, rows: usize, width: usize) -> Matrices {
        Matrices::new(pointer, self.query.dtype, width, rows * width)
    }

    /// Keys or values of the block.
    fn of_keys(&self, of: &View, block: Block) -> Matrices {
        let s = self.sizes;
        let at = (block.samples.0 * s.groups * s.positions + block.keys.0) * s.d;
        Matrices::new(of.at(at), of.dtype, s.d, s.positions * s.d)
    }

    /// # Safety
    /// As for [`product`].
    unsafe fn product(
        &self,
        sizes: (usize, usize, usize, usize),
        a: Matrices,
        b: Matrices,
        c: Matrices,
        keep: f32,
    ) -> Result<()> {
        // SAFETY: as promised by the caller.
        unsafe { product(&self.query.device, sizes, a, b, c, keep) }
    }

    /// Bytes from the first query of all to the first of the block.
    fn query_offset(&self, block: Block) -> u64 {
        let s = self.sizes;
        let at = (block.samples.0 * s.heads * s.len + block.queries.0) * s.d;
        (at * self.query.dtype.size_in_bytes()) as u64
    }

    /// Strides of (samples, heads, queries) in memory that holds one block alone.
    fn block_strides(&self, block: Block) -> [usize; 3] {
        let (queries, d) = (block.queries.1, self.sizes.d);
        [self.sizes.heads * queries * d, queries * d, d]
    }

    /// Copies (samples, heads, queries) rows of a block.
    fn copy(
        &self,
        block: Block,
        (from, x): (u64, [usize; 3]),
        (to, y): (u64, [usize; 3]),
    ) -> Result<()> {
        let s = self.sizes;
        let counts = [block.samples.1, s.heads, block.queries.1, s.d];
        let mut args = vec![Arg::Pointer(from), Arg::Pointer(to)];
        args.extend(counts.iter().chain(&x).chain(&y).map(|n| long(*n)));
        let kernel = typed("copy_rows", self.query.dtype)?;
        let grid = Grid::elements(counts.iter().product());
        // SAFETY: both sides hold the rows of the block in those strides.
        unsafe { launch(&self.query.device, &OPS, &kernel, grid, &args) }
    }

    /// The queries of a block, one after another.
    fn queries(&self, block: Block) -> Result<Fresh> {
        let s = self.sizes;
        let queries = self.fresh(block.samples.1 * s.heads * block.queries.1 * s.d)?;
        let from = self.query.pointer + self.query_offset(block);
        self.copy(
            block,
            (from, [s.heads * s.len * s.d, s.len * s.d, s.d]),
            (queries.pointer, self.block_strides(block)),
        )?;
        Ok(queries)
    }

    /// Writes the scores of a block to `scores` and their softmax to `weights`, which may be the
    /// same.
    fn weights(&self, block: Block, query: u64, scores: u64, weights: u64) -> Result<()> {
        let (s, causal) = (self.sizes, self.causal);
        let Scores { batch, rows, width } = self.scores(block);
        // SAFETY: the sizes are those of the block.
        unsafe {
            self.product(
                (batch, rows, width, s.d),
                self.matrices(query, rows, s.d),
                self.of_keys(&self.key, block).t(),
                self.matrices(scores, rows, width),
                0.0,
            )
        }?;
        let slopes = causal.slopes.as_ref();
        let slopes = slopes.map(|slopes| View::typed(slopes, DType::F32));
        let starts = causal.starts.as_ref();
        let starts = starts.map(|starts| View::typed(starts, DType::U32));
        let args = [
            Arg::Pointer(scores),
            Arg::Pointer(weights),
            long(width),
            Arg::Float(causal.scale as f32),
            Arg::Float(causal.softcap.unwrap_or(0.0) as f32),
            Arg::Pointer(slopes.transpose()?.map_or(0, |slopes| slopes.pointer)),
            Arg::Pointer(
                starts
                    .transpose()?
                    .map_or(0, |starts| starts.at(block.samples.0 * s.len)),
            ),
            long(s.heads),
            long(block.queries.1),
            long(block.queries.0),
            long(causal.offset),
            long(causal.window.unwrap_or(0)),
            long(block.keys.0),
            long(s.len),
        ];
        let kernel = typed("softmax", self.query.dtype)?;
        let grid = Grid::rows(batch * rows, width);
        // SAFETY: batch · rows rows of `width`; slopes and starts have their shapes.
        unsafe { launch(&self.query.device, &ATTENTION, &kernel, grid, &args) }
    }
}
