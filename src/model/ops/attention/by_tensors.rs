//! Attention by whole matrices: few and large products, for devices that are fast at them.
//!
//! Queries that share a key/value head are folded into the rows of one product. Only the softmax
//! between the two products is a kernel of ours, in place ([`Softmax`]).

use candle_core::{CpuStorage, DType, InplaceOp1, InplaceOp2, Layout, Result, Tensor, bail};

use crate::model::attach::{attach3, slice};
use crate::model::causal::{Causal, Sizes};
use crate::model::ops::kernels;

/// Scores that exist at one time, in elements (64 MiB of f32).
const CHUNK: usize = 16 << 20;

/// Attention over tensors of any device; shapes are those of [`super::attention`].
pub(super) fn attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    causal: &Causal,
    sizes: Sizes,
) -> Result<Tensor> {
    chunked(query, key, value, causal, sizes, CHUNK)
}

/// [`attention`] with at most `limit` scores at a time, or those of one head.
pub(super) fn chunked(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    causal: &Causal,
    sizes: Sizes,
    limit: usize,
) -> Result<Tensor> {
    let Sizes {
        batch,
        heads,
        groups,
        len,
        d,
        ..
    } = sizes;
    let folded = query.reshape((batch, groups, sizes.group() * len, d))?;
    let (key, value) = (&key.contiguous()?, &value.contiguous()?);
    let plan = Plan::new(sizes, limit);
    let (q, k, v) = (folded.detach(), key.detach(), value.detach());
    let [out] = plan.run(|part| {
        let softmax = Softmax::new(causal, sizes, part);
        let (weights, _) = softmax.weights(&part.of(&q)?, &part.of(&k)?)?;
        Ok([weights.matmul(&part.of(&v)?)?])
    })?;
    let out = if query.track_op() || key.track_op() || value.track_op() {
        let causal = causal.clone();
        attach3([&folded, key, value], &out, move |[q, k, v], grad| {
            let grad = grad.contiguous()?;
            plan.run(|part| {
                let softmax = Softmax::new(&causal, sizes, part);
                let (q, k, v, grad) = (part.of(q)?, part.of(k)?, part.of(v)?, part.of(&grad)?);
                let (p, capped) = softmax.weights(&q, &k)?;
                let dv = p.t()?.matmul(&grad)?;
                let ds = grad.matmul(&v.t()?)?.to_dtype(DType::F32)?;
                ds.inplace_op2(&p.to_dtype(DType::F32)?, &softmax)?;
                let ds = match (capped, causal.softcap) {
                    // d/dx (cap · tanh(x / cap)) = 1 − tanh²
                    (Some(capped), Some(cap)) => {
                        let slope = capped.sqr()?.affine(-1.0 / (cap * cap), 1.0)?;
                        ((ds * slope)? * causal.scale)?
                    }
                    _ => ds,
                };
                let ds = ds.to_dtype(q.dtype())?;
                Ok([ds.matmul(&k)?, ds.t()?.matmul(&q)?, dv])
            })
        })?
    } else {
        out
    };
    out.reshape((batch, heads, len, d))?.transpose(1, 2)
}

/// How batch and heads are cut so that the scores of a part stay below the limit.
struct Plan {
    batch: usize,
    heads: usize,
    /// Samples at once; 1 unless all heads fit.
    samples: usize,
    /// Heads at once.
    step: usize,
}

/// Ranges of samples and heads as (first, count).
#[derive(Clone, Copy)]
struct Part {
    samples: (usize, usize),
    heads: (usize, usize),
}

impl Part {
    fn of(&self, tensor: &Tensor) -> Result<Tensor> {
        tensor
            .narrow(0, self.samples.0, self.samples.1)?
            .narrow(1, self.heads.0, self.heads.1)
    }
}

impl Plan {
    fn new(sizes: Sizes, limit: usize) -> Self {
        let (batch, heads) = (sizes.batch, sizes.groups);
        let rows = sizes.group() * sizes.len;
        let fitting = limit / rows.saturating_mul(sizes.positions).max(1);
        Self {
            batch,
            heads,
            samples: (fitting / heads.max(1)).clamp(1, batch.max(1)),
            step: fitting.clamp(1, heads.max(1)),
        }
    }

    /// Runs `f` on every part and joins its results.
    fn run<const N: usize>(&self, f: impl Fn(Part) -> Result<[Tensor; N]>) -> Result<[Tensor; N]> {
        if self.samples == self.batch && self.step == self.heads {
            return f(Part {
                samples: (0, self.batch),
                heads: (0, self.heads),
            });
        }
        let cut = |total: usize, step: usize| {
            (0..total)
                .step_by(step)
                .map(move |first| (first, step.min(total - first)))
        };
        let parts: Vec<Part> = cut(self.batch, self.samples)
            .flat_map(|samples| cut(self.heads, self.step).map(move |heads| (samples, heads)))
            .map(|(samples, heads)| Part { samples, heads })
            .collect();
        let results: Vec<[Tensor; N]> = parts.into_iter().map(f).collect::<Result<_>>()?;
        let per_row = self.heads.div_ceil(self.step);
        let join = |index: usize| {
            let rows: Vec<Tensor> = results
                .chunks(per_row)
                .map(|row| {
                    let row: Vec<&Tensor> = row.iter().map(|result| &result[index]).collect();
                    Tensor::cat(&row, 1)
                })
                .collect::<Result<_>>()?;
            Tensor::cat(&rows, 0)
        };
        let joined: Vec<Tensor> = (0..N).map(join).collect::<Result<_>>()?;
        joined
            .try_into()
            .map_err(|_| candle_core::Error::Msg("parts were lost".to_owned()))
    }
}

/// The masked softmax of one part, in place.
struct Softmax<'a> {
    causal: &'a Causal,
    sizes: Sizes,
    part: Part,
    /// Factor on the scores; 1 if they are scaled already.
    scale: f32,
}

impl<'a> Softmax<'a> {
    fn new(causal: &'a Causal, sizes: Sizes, part: Part) -> Self {
        let scale = match causal.softcap {
            Some(_) => 1.0,
            None => causal.scale as f32,
        };
        Self {
            causal,
            sizes,
            part,
            scale,
        }
    }

    /// Softmax weights (.., rows, positions) in the queries' dtype, and the scores in f32 if they
    /// are capped. Computed in f32.
    fn weights(&self, query: &Tensor, key: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        let scores = query.matmul(&key.t()?)?.to_dtype(DType::F32)?;
        let (scores, capped) = match self.causal.softcap {
            Some(cap) => {
                let capped = ((scores * (self.causal.scale / cap))?.tanh()? * cap)?;
                (capped.copy()?, Some(capped))
            }
            None => (scores, None),
        };
        scores.inplace_op1(self)?;
        Ok((scores.to_dtype(query.dtype())?, capped))
    }

    /// Sequence, query head and query of a row of this part's scores.
    fn place(&self, row: usize) -> (usize, usize, usize) {
        let (head, query) = (row / self.sizes.len, row % self.sizes.len);
        let heads = self.part.heads.1 * self.sizes.group();
        let first = self.part.heads.0 * self.sizes.group();
        (
            self.part.samples.0 + head / heads,
            first + head % heads,
            query,
        )
    }

    fn width(&self, layout: &Layout) -> Result<usize> {
        match layout.dims().last() {
            Some(&width) if width == self.sizes.positions => Ok(width),
            _ => bail!(
                "scores {:?} for {} keys",
                layout.shape(),
                self.sizes.positions
            ),
        }
    }
}

/// The elements of a contiguous f32 CPU storage, to be overwritten.
fn slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    let Some((begin, end)) = layout.contiguous_offsets() else {
        bail!("expected a contiguous tensor");
    };
    match storage {
        CpuStorage::F32(values) => match values.get_mut(begin..end) {
            Some(values) => Ok(values),
            None => bail!("layout outside of its storage"),
        },
        _ => bail!("expected f32 scores"),
    }
}

/// Scores become weights.
impl InplaceOp1 for Softmax<'_> {
    fn name(&self) -> &'static str {
        "causal_softmax"
    }

    fn cpu_fwd(&self, scores: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let width = self.width(layout)?;
        let starts: Option<Vec<Vec<u32>>> = match &self.causal.starts {
            Some(starts) => Some(starts.to_vec2()?),
            None => None,
        };
        let slopes: Option<Vec<f32>> = match &self.causal.slopes {
            Some(slopes) => Some(slopes.to_vec1()?),
            None => None,
        };
        kernels::for_rows(slice_mut(scores, layout)?, width, |row, values| {
            let (sample, head, query) = self.place(row);
            let start = starts.as_ref().map_or(0, |starts| starts[sample][query]);
            let seen = kernels::visible(self.causal.offset + query, self.causal.window);
            let seen = seen.start.max(start as usize)..seen.end;
            match &slopes {
                Some(slopes) => {
                    let visible = &mut values[seen.clone()];
                    visible.iter_mut().for_each(|value| *value *= self.scale);
                    kernels::add_distance_row(visible, slopes[head]);
                    kernels::softmax_row(values, seen, 1.0);
                }
                None => kernels::softmax_row(values, seen, self.scale),
            }
        });
        Ok(())
    }
}

/// The gradient of the weights becomes that of the scores (of capped scores where there is a
/// cap), given the weights.
impl InplaceOp2 for Softmax<'_> {
    fn name(&self) -> &'static str {
        "causal_softmax_backward"
    }

    fn cpu_fwd(
        &self,
        grad: &mut CpuStorage,
        layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> Result<()> {
        let width = self.width(layout)?;
        let weights = slice(weights, weights_layout)?;
        kernels::for_rows(slice_mut(grad, layout)?, width, |row, values| {
            kernels::softmax_row_backward(&weights[row * width..][..width], values, self.scale);
        });
        Ok(())
    }
}
