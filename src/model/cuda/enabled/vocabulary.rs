//! What is computed from logits: the most probable next tokens, and the training loss.
//!
//! Logits are f32 whatever the type of the model, and exist for some rows at a time.

use candle_core::{CudaDevice, DType, Result, Tensor, bail};

use super::blas::{Matrices, product};
use super::launch::{Arg, Grid, VOCABULARY, launch, long, typed};
use super::memory::{Fresh, View, upload};
use crate::model::cuda::types::{HeadLoss, LossRows, NextTokens};
use crate::model::head::Head;

/// Most logits at one time: 512 MiB.
const LIMIT: usize = 128 << 20;
/// Threads for each row.
const THREADS: usize = 512;

/// Hidden states and the head.
struct Logits {
    hidden: View,
    head: View,
    rows: usize,
    width: usize,
    vocabulary: usize,
    cap: Option<f64>,
}

/// Rows that are worked on at one time.
#[derive(Clone, Copy)]
struct Chunk {
    first: usize,
    count: usize,
}

impl Logits {
    /// Of `hidden` (rows, width), which is contiguous, over the first `vocabulary` ids.
    fn new(hidden: &Tensor, head: &Head, vocabulary: usize) -> Result<Self> {
        let ((rows, width), (all, inner)) = (hidden.dims2()?, head.weight.dims2()?);
        let (hidden, weight) = (View::of(hidden)?, View::of(&head.weight)?);
        if inner != width || vocabulary > all || hidden.dtype != weight.dtype {
            bail!("hidden states of {width} numbers for a head of ({all}, {inner})");
        }
        Ok(Self {
            hidden,
            head: weight,
            rows,
            width,
            vocabulary,
            cap: head.softcap,
        })
    }

    fn device(&self) -> &CudaDevice {
        &self.hidden.device
    }

    /// Rows that fit the limit.
    fn chunks(&self) -> impl Iterator<Item = Chunk> {
        let (rows, size) = (self.rows, (LIMIT / self.vocabulary.max(1)).max(1));
        (0..rows).step_by(size).map(move |first| Chunk {
            first,
            count: size.min(rows - first),
        })
    }

    fn hidden(&self, first: usize) -> Matrices {
        let pointer = self.hidden.at(first * self.width);
        Matrices::new(pointer, self.hidden.dtype, self.width, 0)
    }

    fn head(&self) -> Matrices {
        Matrices::new(self.head.pointer, self.head.dtype, self.width, 0)
    }

    /// Logits of a chunk in f32.
    fn of(&self, Chunk { first, count }: Chunk) -> Result<Fresh> {
        let (device, all) = (self.device(), count * self.vocabulary);
        let logits = Fresh::new(device, all, DType::F32)?;
        let out = Matrices::new(logits.pointer, DType::F32, self.vocabulary, 0);
        let sizes = (1, count, self.vocabulary, self.width);
        let (hidden, head) = (self.hidden(first), self.head().t());
        // SAFETY: (count, width) times (width, vocabulary).
        unsafe { product(device, sizes, hidden, head, out, 0.0) }?;
        if let Some(cap) = self.cap {
            let pointer = Arg::Pointer(logits.pointer);
            let args = [pointer, long(all), Arg::Float(cap as f32)];
            let grid = Grid::elements(all);
            // SAFETY: (count, vocabulary) logits.
            unsafe { launch(device, &VOCABULARY, "softcap", grid, &args) }?;
        }
        Ok(logits)
    }
}

/// The `k` most probable of the first `vocabulary` ids after each of the `hidden` states
/// (n, width), and what becomes of the `targets` (n).
pub(crate) fn next_tokens(
    hidden: &Tensor,
    head: &Head,
    targets: &[u32],
    vocabulary: usize,
    k: usize,
) -> Result<NextTokens> {
    let hidden = hidden.contiguous()?;
    let all = Logits::new(&hidden, head, vocabulary)?;
    if targets.len() != all.rows || k > vocabulary {
        bail!("{} targets for {} rows", targets.len(), all.rows);
    }
    let device = all.device();
    let n = all.rows;
    let targets = upload(device, targets)?;
    let ids = Fresh::new(device, n * k, DType::U32)?;
    let logprobs = Fresh::new(device, n * k, DType::F32)?;
    let scalars = Fresh::new(device, n * 2, DType::F32)?;
    for chunk in all.chunks() {
        let (logits, first) = (all.of(chunk)?, chunk.first);
        let at = |of: &Fresh, index: usize| Arg::Pointer(of.pointer + 4 * index as u64);
        let args = [
            Arg::Pointer(logits.pointer),
            at(&targets, first),
            at(&ids, first * k),
            at(&logprobs, first * k),
            at(&scalars, first * 2),
            long(vocabulary),
            long(k),
        ];
        let grid = Grid::blocks(chunk.count, 1, THREADS);
        // SAFETY: `count` rows of each from `first`; the caller has checked the targets.
        unsafe { launch(device, &VOCABULARY, "next_tokens", grid, &args) }?;
    }
    Ok(NextTokens {
        scalars: scalars.read(n * 2)?,
        ids: ids.read(n * k)?,
        logprobs: logprobs.read(n * k)?,
    })
}

/// [`LossRows`] on the device.
struct Rows {
    labels: Fresh,
    offsets: Fresh,
    ids: Fresh,
    probs: Fresh,
    rest: Fresh,
    targeted: Fresh,
}

impl Rows {
    /// Uploads `rows`, of which there are `n`.
    fn new(device: &CudaDevice, rows: &LossRows, n: usize) -> Result<Self> {
        let sizes = [rows.labels.len(), rows.rest.len(), rows.targeted.len()];
        if sizes != [n; 3] || rows.offsets.len() != n + 1 {
            bail!("{sizes:?} rows for {n} hidden states");
        }
        let offsets: Vec<u32> = rows.offsets.iter().map(|offset| *offset as u32).collect();
        let targeted: Vec<u8> = rows.targeted.iter().map(|yes| u8::from(*yes)).collect();
        Ok(Self {
            labels: upload(device, &rows.labels)?,
            offsets: upload(device, &offsets)?,
            ids: upload(device, &rows.ids)?,
            probs: upload(device, &rows.probs)?,
            rest: upload(device, &rows.rest)?,
            targeted: upload(device, &targeted)?,
        })
    }
}

/// A loss under way.
struct Loss {
    logits: Logits,
    rows: Rows,
    /// Of label and target.
    weights: Option<(f64, f64)>,
    /// (n, 2) f64.
    losses: Fresh,
}

impl Loss {
    /// Writes the losses of a chunk whose logits are given, and to `gradient`, where there is one,
    /// that of the logits.
    fn compute(&self, chunk: Chunk, logits: &Fresh, gradient: Option<&Fresh>) -> Result<()> {
        let (rows, first) = (&self.rows, chunk.first);
        let (a, b) = self.weights.unwrap_or((0.0, 0.0));
        let at = |of: &Fresh, bytes: usize| Arg::Pointer(of.pointer + bytes as u64);
        let args = [
            Arg::Pointer(logits.pointer),
            Arg::Pointer(gradient.map_or(0, |gradient| gradient.pointer)),
            at(&rows.labels, 4 * first),
            at(&rows.offsets, 4 * first),
            at(&rows.ids, 0),
            at(&rows.probs, 0),
            at(&rows.rest, 4 * first),
            at(&rows.targeted, first),
            at(&self.losses, 16 * first),
            long(self.logits.vocabulary),
            Arg::Double(a),
            Arg::Double(b),
            Arg::Float(self.logits.cap.unwrap_or(0.0) as f32),
        ];
        let kernel = typed("fusion_loss", self.logits.hidden.dtype)?;
        let (device, grid) = (self.logits.device(), Grid::blocks(chunk.count, 1, THREADS));
        // SAFETY: `count` rows of each from `first`; ids and labels were checked when they were
        // collected.
        unsafe { launch(device, &VOCABULARY, &kernel, grid, &args) }
    }

    /// What the `gradient` of a chunk's logits means for the hidden states and for the head, whose
    /// gradients are `sums`.
    fn pull(&self, chunk: Chunk, gradient: &Fresh, sums: &[Fresh; 2]) -> Result<()> {
        let all = &self.logits;
        let (width, vocabulary, dtype) = (all.width, all.vocabulary, all.hidden.dtype);
        let rows_of = |pointer, width| Matrices::new(pointer, dtype, width, 0);
        let g = rows_of(gradient.pointer, vocabulary);
        let at = (chunk.first * width * dtype.size_in_bytes()) as u64;
        let dhidden = rows_of(sums[0].pointer + at, width);
        let dhead = Matrices::new(sums[1].pointer, DType::F32, width, 0);
        // SAFETY: (count, vocabulary) times (vocabulary, width), and its transpose times
        // (count, width).
        unsafe {
            let sizes = (1, chunk.count, width, vocabulary);
            product(all.device(), sizes, g, all.head(), dhidden, 0.0)?;
            let (sizes, hidden) = ((1, vocabulary, width, chunk.count), all.hidden(chunk.first));
            product(all.device(), sizes, g.t(), hidden, dhead, 1.0)
        }
    }
}

/// Loss of each of the `hidden` states (n, width), and with `weights` (of label and target) the
/// gradient of their weighted sum.
pub(crate) fn head_loss(
    hidden: &Tensor,
    head: &Head,
    rows: &LossRows,
    weights: Option<(f64, f64)>,
) -> Result<HeadLoss> {
    let hidden = hidden.contiguous()?;
    let logits = Logits::new(&hidden, head, rows.vocabulary)?;
    let (device, dtype) = (logits.device().clone(), logits.hidden.dtype);
    let (n, width, vocabulary) = (logits.rows, logits.width, logits.vocabulary);
    if logits.head.count != vocabulary * width {
        bail!("a loss over {vocabulary} of {:?}", head.weight.shape());
    }
    let loss = Loss {
        rows: Rows::new(&device, rows, n)?,
        losses: Fresh::new(&device, n * 2, DType::F64)?,
        logits,
        weights,
    };
    let sums = match weights {
        Some(_) => Some([
            Fresh::new(&device, n * width, dtype)?,
            Fresh::zeros(&device, vocabulary * width, DType::F32)?,
        ]),
        None => None,
    };
    for chunk in loss.logits.chunks() {
        let logits = loss.logits.of(chunk)?;
        let Some(sums) = &sums else {
            loss.compute(chunk, &logits, None)?;
            continue;
        };
        let gradient = Fresh::new(&device, chunk.count * vocabulary, dtype)?;
        loss.compute(chunk, &logits, Some(&gradient))?;
        loss.pull(chunk, &gradient, sums)?;
    }
    let gradients = match sums {
        Some([dhidden, dhead]) => Some((
            dhidden.into_tensor((n, width))?,
            dhead.into_tensor((vocabulary, width))?,
        )),
        None => None,
    };
    Ok(HeadLoss {
        losses: loss.losses.read(n * 2)?,
        gradients,
    })
}
