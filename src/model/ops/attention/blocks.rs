//! Attention on the CPU: blocks of queries times the keys that they see.

use std::cell::RefCell;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};
use rayon::prelude::*;

use crate::model::attach::wrap;
use crate::model::causal::{Causal, Sizes};
use crate::model::ops::kernels;
use crate::model::ops::products::{Matrix, product};

/// Queries of one head that are computed at once. More waste work on keys that only the last of
/// them see, fewer make the matrix products small.
const BLOCK: usize = 64;

/// Attention over f32 tensors; shapes are those of [`super::attention`].
pub(super) fn attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    causal: &Causal,
    sizes: Sizes,
) -> Result<Tensor> {
    let op = Blocks::new(causal, sizes)?;
    contiguous_rows(query)?.apply_op3(&contiguous_rows(key)?, &contiguous_rows(value)?, op)
}

/// Gradients of query, key and value, given that of the result; without a graph.
pub(super) fn backward(
    [query, key, value]: [&Tensor; 3],
    causal: &Causal,
    sizes: Sizes,
    grad: &Tensor,
) -> Result<[Tensor; 3]> {
    let args = [
        contiguous_rows(query)?,
        contiguous_rows(key)?,
        contiguous_rows(value)?,
    ];
    Blocks::new(causal, sizes)?.gradients(args.each_ref(), grad)
}

/// Heads may lie anywhere, but the numbers of a row must be neighbours.
fn contiguous_rows(tensor: &Tensor) -> Result<Tensor> {
    match tensor.stride().last() {
        Some(1) => Ok(tensor.clone()),
        _ => tensor.contiguous(),
    }
}

struct Blocks {
    sizes: Sizes,
    scale: f32,
    offset: usize,
    window: Option<usize>,
    softcap: Option<f32>,
    slopes: Option<Vec<f32>>,
    /// (batch · len)
    starts: Option<Vec<u32>>,
}

/// A (batch, heads, rows, d) tensor whose rows are contiguous.
struct Heads<'a> {
    values: &'a [f32],
    strides: [usize; 3],
    d: usize,
}

impl<'a> Heads<'a> {
    fn new(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let (_, _, _, d) = layout.shape().dims4()?;
        let [batch, head, row, 1] = layout.stride() else {
            bail!("attention needs contiguous rows");
        };
        match storage.as_slice::<f32>()?.get(layout.start_offset()..) {
            Some(values) => Ok(Self {
                values,
                strides: [*batch, *head, *row],
                d,
            }),
            None => bail!("layout outside of its storage"),
        }
    }

    /// `count` rows of a head, from `first` on: (count, d).
    fn rows(&self, batch: usize, head: usize, first: usize, count: usize) -> Matrix<'a> {
        let begin = batch * self.strides[0] + head * self.strides[1] + first * self.strides[2];
        Matrix::new(&self.values[begin..], count, self.d, self.strides[2])
    }
}

/// Queries `first..first + count` of a sequence, and the keys `begin..end` that they see.
struct Block {
    batch: usize,
    first: usize,
    count: usize,
    begin: usize,
    end: usize,
}

impl Block {
    fn width(&self) -> usize {
        self.end - self.begin
    }

    /// (count, width)
    fn scores<'a>(&self, values: &'a [f32]) -> Matrix<'a> {
        Matrix::new(values, self.count, self.width(), self.width())
    }
}

/// Memory for the scores of a block, kept by each thread.
struct Scratch {
    weights: Vec<f32>,
    grad: Vec<f32>,
    /// Derivatives of capped scores.
    derivatives: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const {
        RefCell::new(Scratch { weights: Vec::new(), grad: Vec::new(), derivatives: Vec::new() })
    };
}

/// The first `len` elements of a buffer that only grows; what they hold is arbitrary.
fn room(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

impl Blocks {
    fn new(causal: &Causal, sizes: Sizes) -> Result<Self> {
        Ok(Self {
            sizes,
            scale: causal.scale as f32,
            offset: causal.offset,
            window: causal.window,
            softcap: causal.softcap.map(|cap| cap as f32),
            slopes: causal.slopes.as_ref().map(Tensor::to_vec1).transpose()?,
            starts: match &causal.starts {
                Some(starts) => Some(starts.flatten_all()?.to_vec1()?),
                None => None,
            },
        })
    }

    /// Keys that query `t` of sequence `batch` sees.
    fn visible(&self, batch: usize, t: usize) -> std::ops::Range<usize> {
        let seen = kernels::visible(self.offset + t, self.window);
        match &self.starts {
            Some(starts) => {
                let start = starts[batch * self.sizes.len + t] as usize;
                seen.start.max(start.min(seen.end - 1))..seen.end
            }
            None => seen,
        }
    }

    fn block(&self, batch: usize, first: usize) -> Block {
        let count = BLOCK.min(self.sizes.len - first);
        let begins = (first..first + count).map(|t| self.visible(batch, t).start);
        Block {
            batch,
            first,
            count,
            begin: begins.min().unwrap_or(0),
            end: self.offset + first + count,
        }
    }

    /// Keys that query `row` of a block sees, counted from the first that any of them sees.
    fn seen(&self, block: &Block, row: usize) -> std::ops::Range<usize> {
        let seen = self.visible(block.batch, block.first + row);
        seen.start - block.begin..seen.end - block.begin
    }

    /// Softmax weights (count, width) of a block of queries of one head. Where scores are capped
    /// and `derivatives` are asked for, these are those of the cap.
    fn weights(
        &self,
        block: &Block,
        head: &Head<'_>,
        weights: &mut [f32],
        mut derivatives: Option<&mut [f32]>,
    ) {
        let width = block.width();
        product(self.scale, head.queries, head.keys.t(), 0.0, weights, width);
        for (row, scores) in weights.chunks_exact_mut(width).enumerate() {
            let seen = self.seen(block, row);
            let visible = &mut scores[seen.clone()];
            if let Some(cap) = self.softcap {
                kernels::softcap_row(visible, cap);
                if let Some(out) = &mut derivatives {
                    let out = &mut out[row * width..][..width][seen.clone()];
                    kernels::softcap_derivative_row(visible, cap, out);
                }
            }
            if let Some(slopes) = &self.slopes {
                kernels::add_distance_row(visible, slopes[head.index]);
            }
            kernels::softmax_row(scores, seen, 1.0);
        }
    }
}

/// What a block reads of one query head.
struct Head<'a> {
    index: usize,
    /// (count, d)
    queries: Matrix<'a>,
    /// (width, d)
    keys: Matrix<'a>,
    /// (width, d)
    values: Matrix<'a>,
}

impl CustomOp3 for Blocks {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        query: &CpuStorage,
        query_layout: &Layout,
        key: &CpuStorage,
        key_layout: &Layout,
        value: &CpuStorage,
        value_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let query = Heads::new(query, query_layout)?;
        let key = Heads::new(key, key_layout)?;
        let value = Heads::new(value, value_layout)?;
        let Sizes {
            batch,
            heads,
            len,
            d,
            ..
        } = self.sizes;
        let mut out = vec![0f32; batch * len * heads * d];
        let run = |batch: usize, first: usize, out: &mut [f32]| {
            let block = self.block(batch, first);
            SCRATCH.with_borrow_mut(|scratch| {
                let weights = room(&mut scratch.weights, block.count * block.width());
                for head in 0..heads {
                    let group = head / self.sizes.group();
                    let read = Head {
                        index: head,
                        queries: query.rows(batch, head, block.first, block.count),
                        keys: key.rows(batch, group, block.begin, block.width()),
                        values: value.rows(batch, group, block.begin, block.width()),
                    };
                    self.weights(&block, &read, weights, None);
                    let (scores, out) = (block.scores(weights), &mut out[head * d..]);
                    product(1.0, scores, read.values, 0.0, out, heads * d);
                }
            });
        };
        out.par_chunks_mut(len * heads * d)
            .enumerate()
            .for_each(|(batch, out)| {
                out.par_chunks_mut(BLOCK * heads * d)
                    .enumerate()
                    .for_each(|(block, out)| run(batch, block * BLOCK, out));
            });
        Ok((CpuStorage::F32(out), Shape::from((batch, len, heads, d))))
    }

    fn bwd(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [query, key, value] = self.gradients([query, key, value], grad)?;
        Ok((Some(query), Some(key), Some(value)))
    }
}

/// What the backward reads.
struct Args<'a> {
    query: Heads<'a>,
    key: Heads<'a>,
    value: Heads<'a>,
    /// Of the result, with heads before queries.
    grad: Heads<'a>,
}

/// Calls `f` with the elements of an f32 tensor on the CPU.
fn with_heads<R>(tensor: &Tensor, f: impl FnOnce(Heads<'_>) -> Result<R>) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => f(Heads::new(storage, layout)?),
        _ => bail!("expected a tensor on the CPU"),
    }
}

impl Blocks {
    /// Gradients of the arguments, given that of the result.
    fn gradients(&self, [query, key, value]: [&Tensor; 3], grad: &Tensor) -> Result<[Tensor; 3]> {
        let Sizes {
            heads,
            groups,
            len,
            positions,
            d,
            batch,
        } = self.sizes;
        let mut dq = vec![0f32; batch * heads * len * d];
        let mut dk = vec![0f32; batch * groups * positions * d];
        let mut dv = vec![0f32; dk.len()];
        // (batch, len, heads, d) as (batch, heads, len, d)
        let grad = contiguous_rows(&grad.transpose(1, 2)?)?;
        with_heads(query, |query| {
            with_heads(key, |key| {
                with_heads(value, |value| {
                    with_heads(&grad, |grad| {
                        let args = Args {
                            query,
                            key,
                            value,
                            grad,
                        };
                        dq.par_chunks_mut(self.sizes.group() * len * d)
                            .zip(dk.par_chunks_mut(positions * d))
                            .zip(dv.par_chunks_mut(positions * d))
                            .enumerate()
                            .for_each(|(i, ((dq, dk), dv))| {
                                self.group_backward((i / groups, i % groups), &args, [dq, dk, dv]);
                            });
                        Ok(())
                    })
                })
            })
        })?;
        Ok([
            wrap(dq, query.shape())?,
            wrap(dk, key.shape())?,
            wrap(dv, value.shape())?,
        ])
    }

    /// Gradients of the queries (heads of the group, len, d), keys and values (positions, d) of
    /// one key/value head; all are zero before.
    fn group_backward(
        &self,
        (batch, group): (usize, usize),
        args: &Args<'_>,
        [dq, dk, dv]: [&mut [f32]; 3],
    ) {
        let Sizes { len, d, .. } = self.sizes;
        SCRATCH.with_borrow_mut(|scratch| {
            for first in (0..len).step_by(BLOCK) {
                let block = self.block(batch, first);
                let (width, count) = (block.width(), block.count);
                let weights = room(&mut scratch.weights, count * width);
                let scores = room(&mut scratch.grad, count * width);
                let mut derivatives = self
                    .softcap
                    .map(|_| room(&mut scratch.derivatives, count * width));
                let keys = args.key.rows(batch, group, block.begin, width);
                let values = args.value.rows(batch, group, block.begin, width);
                let seen = block.begin * d..block.end * d;
                for (place, dq) in dq.chunks_exact_mut(len * d).enumerate() {
                    let head = group * self.sizes.group() + place;
                    let read = Head {
                        index: head,
                        queries: args.query.rows(batch, head, first, count),
                        keys,
                        values,
                    };
                    let grad = args.grad.rows(batch, head, first, count);
                    self.weights(&block, &read, weights, derivatives.as_deref_mut());
                    let (dv, dk) = (&mut dv[seen.clone()], &mut dk[seen.clone()]);
                    product(1.0, block.scores(weights).t(), grad, 1.0, dv, d);
                    product(1.0, grad, values.t(), 0.0, scores, width);
                    self.scores_backward(&block, weights, derivatives.as_deref(), scores);
                    let scores = block.scores(scores);
                    product(self.scale, scores, keys, 0.0, &mut dq[first * d..], d);
                    product(self.scale, scores.t(), read.queries, 1.0, dk, d);
                }
            }
        });
    }

    /// The gradient of the weights becomes that of the scaled scores, in place.
    fn scores_backward(
        &self,
        block: &Block,
        weights: &[f32],
        derivatives: Option<&[f32]>,
        grad: &mut [f32],
    ) {
        let width = block.width();
        let rows = weights
            .chunks_exact(width)
            .zip(grad.chunks_exact_mut(width));
        for (row, (weights, grad)) in rows.enumerate() {
            let seen = self.seen(block, row);
            grad[..seen.start].fill(0.0);
            grad[seen.end..].fill(0.0);
            let visible = &mut grad[seen.clone()];
            kernels::softmax_row_backward(&weights[seen.clone()], visible, 1.0);
            if let Some(derivatives) = derivatives {
                let derivatives = &derivatives[row * width..][..width][seen];
                for (grad, derivative) in visible.iter_mut().zip(derivatives) {
                    *grad *= derivative;
                }
            }
        }
    }
}
