//! Causal attention in bounded memory.
//!
//! Scores exist for a few heads at a time, one part per thread, forward and backward: the graph keeps queries, keys,
//! values and the result, and the backward computes the weights again. That costs one more
//! product of queries and keys and saves batch · heads · len² numbers per layer.

use candle_core::{
    CpuStorage, DType, Device, InplaceOp1, InplaceOp2, Layout, Result, Tensor, bail,
};
use rayon::prelude::*;

use super::attach::{attach3, slice};
use super::kernels;

/// Scores that exist at one time, in elements (64 MiB of f32), if one head per thread needs no
/// more.
const CHUNK: usize = 16 << 20;

/// Who sees whom. Queries are folded as (group · len) rows; keys are positions `0..offset + len`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Causal {
    /// Factor on the scores.
    pub scale: f64,
    /// Position of the first query.
    pub offset: usize,
    /// Number of query positions.
    pub len: usize,
    /// How many keys, its own included, a query sees; `None` is all.
    pub window: Option<usize>,
}

/// Mixes values by the softmax of query-key products.
///
/// `query` is (batch, heads, group · len, d): all queries that share a key/value head are folded
/// into its rows. `key` and `value` are (batch, heads, positions, d); the result is shaped like
/// `query`. Differentiable in all three.
pub(crate) fn attention(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    causal: Causal,
) -> Result<Tensor> {
    chunked(query, key, value, causal, CHUNK)
}

fn chunked(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    causal: Causal,
    limit: usize,
) -> Result<Tensor> {
    let plan = Plan::new(query, key, limit)?;
    let (q, k, v) = (query.detach(), key.detach(), value.detach());
    let [out] = plan.run(|part| {
        let weights = causal.weights(&part.of(&q)?, &part.of(&k)?)?;
        Ok([weights.matmul(&part.of(&v)?)?])
    })?;
    if !(query.track_op() || key.track_op() || value.track_op()) {
        return Ok(out);
    }
    attach3([query, key, value], &out, move |[q, k, v], grad| {
        let grad = grad.contiguous()?;
        plan.run(|part| {
            let (q, k, v, grad) = (part.of(q)?, part.of(k)?, part.of(v)?, part.of(&grad)?);
            let p = causal.weights(&q, &k)?;
            let dv = p.t()?.matmul(&grad)?;
            let ds = grad.matmul(&v.t()?)?.to_dtype(DType::F32)?;
            ds.inplace_op2(&p.to_dtype(DType::F32)?, &causal)?;
            let ds = ds.to_dtype(q.dtype())?;
            Ok([ds.matmul(&k)?, ds.t()?.matmul(&q)?, dv])
        })
    })
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
    fn new(query: &Tensor, key: &Tensor, limit: usize) -> Result<Self> {
        let (batch, heads, rows, _) = query.dims4()?;
        let (_, _, positions, _) = key.dims4()?;
        // A product of one head is too small to be shared between threads, so heads are.
        let threads = match query.device() {
            Device::Cpu => rayon::current_num_threads().max(1),
            _ => 1,
        };
        let share = match threads {
            1 => usize::MAX,
            _ => batch.saturating_mul(heads).div_ceil(2 * threads).max(1),
        };
        let fitting = limit / threads / rows.saturating_mul(positions).max(1);
        let fitting = fitting.min(share);
        Ok(Self {
            batch,
            heads,
            samples: (fitting / heads.max(1)).clamp(1, batch.max(1)),
            step: fitting.clamp(1, heads.max(1)),
        })
    }

    /// Runs `f` on every part, in parallel, and joins its results.
    fn run<const N: usize>(
        &self,
        f: impl Fn(Part) -> Result<[Tensor; N]> + Sync + Send,
    ) -> Result<[Tensor; N]> {
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
        let results: Vec<[Tensor; N]> = parts.into_par_iter().map(f).collect::<Result<_>>()?;
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

impl Causal {
    /// Softmax weights (.., rows, positions) in the queries' dtype; computed in f32, in place.
    fn weights(&self, query: &Tensor, key: &Tensor) -> Result<Tensor> {
        let scores = query.matmul(&key.t()?)?.to_dtype(DType::F32)?;
        scores.inplace_op1(self)?;
        scores.to_dtype(query.dtype())
    }

    fn width(&self, layout: &Layout) -> Result<usize> {
        let width = layout.dims().last().copied().unwrap_or(0);
        if self.len == 0 || width != self.offset + self.len {
            let keys = self.offset + self.len;
            bail!("scores {:?} for {keys} keys", layout.shape());
        }
        Ok(width)
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
impl InplaceOp1 for Causal {
    fn name(&self) -> &'static str {
        "causal_softmax"
    }

    fn cpu_fwd(&self, scores: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let width = self.width(layout)?;
        let scale = self.scale as f32;
        kernels::for_rows(slice_mut(scores, layout)?, width, |row, values| {
            let visible = kernels::visible(self.offset + row % self.len, self.window);
            kernels::softmax_row(values, visible, scale);
        });
        Ok(())
    }
}

/// The gradient of the weights becomes that of the scores, given the weights.
impl InplaceOp2 for Causal {
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
        let scale = self.scale as f32;
        let weights = slice(weights, weights_layout)?;
        kernels::for_rows(slice_mut(grad, layout)?, width, |row, values| {
            kernels::softmax_row_backward(&weights[row * width..][..width], values, scale);
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;

    #[test]
    fn parts_change_nothing() {
        let random = |rows| Var::randn(0f32, 1.0, (3, 4, rows, 6), &Device::Cpu).unwrap();
        let (q, k, v) = (random(10), random(5), random(5));
        let causal = Causal {
            scale: 0.4,
            offset: 0,
            len: 5,
            window: Some(3),
        };
        let vars = [&q, &k, &v].map(Var::as_tensor);
        let run = |limit| {
            let out = chunked(vars[0], vars[1], vars[2], causal, limit).unwrap();
            let loss = (&out * &out).unwrap().sum_all().unwrap();
            let grads = loss.backward().unwrap();
            let mut all = vec![out.detach()];
            all.extend(vars.map(|var| grads.get(var).unwrap().clone()));
            all
        };
        let whole = run(usize::MAX);
        // One head, three heads, one sample, two samples at a time.
        for limit in [1, 150, 200, 400] {
            for (part, whole) in run(limit).iter().zip(&whole) {
                let difference = (part - whole).unwrap().abs().unwrap();
                let largest = difference.flatten_all().unwrap().max(0).unwrap();
                assert!(largest.to_scalar::<f32>().unwrap() < 1e-5, "{limit}");
            }
        }
    }
}
