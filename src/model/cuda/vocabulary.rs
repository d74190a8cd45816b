//! What is computed from logits: the most probable next tokens, and the training loss.
//!
//! Logits are f32 whatever the type of the model, and exist for some rows at a time.

use candle_core::{CudaDevice, DType, Result, Tensor, bail};

use super::blas::{Matrices, product};
use super::launch::{Arg, Grid, VOCABULARY, launch, long, typed};
use super::memory::{Fresh, View, upload};

/// Most logits at one time: 512 MiB.
const LIMIT: usize = 128 << 20;
/// Threads for each row.
const THREADS: usize = 512;

/// Best next tokens of n rows.
#[derive(Debug)]
pub(crate) struct NextTokens {
    /// (n, 2): log-probability of the target, log of the mass outside of `ids`; NaN for both
    /// where a logit is not finite.
    pub scalars: Vec<f32>,
    /// (n, k), most probable first, among equals the lowest id first.
    pub ids: Vec<u32>,
    /// (n, k).
    pub logprobs: Vec<f32>,
}

/// Hidden states and the output matrix.
struct Head {
    hidden: View,
    head: View,
    rows: usize,
    width: usize,
    vocabulary: usize,
    cap: Option<f64>,
}

impl Head {
    fn new(hidden: &Tensor, head: &Tensor, vocabulary: usize, cap: Option<f64>) -> Result<Self> {
        let ((rows, width), (all, inner)) = (hidden.dims2()?, head.dims2()?);
        let (hidden, head) = (View::of(hidden)?, View::of(head)?);
        if inner != width || vocabulary > all || hidden.dtype != head.dtype {
            bail!("hidden states of {width} numbers for a head of ({all}, {inner})");
        }
        Ok(Self {
            hidden,
            head,
            rows,
            width,
            vocabulary,
            cap,
        })
    }

    fn device(&self) -> &CudaDevice {
        &self.hidden.device
    }

    /// Rows that fit the limit, as (first, count).
    fn chunks(&self) -> impl Iterator<Item = (usize, usize)> {
        let (rows, size) = (self.rows, (LIMIT / self.vocabulary.max(1)).max(1));
        (0..rows)
            .step_by(size)
            .map(move |first| (first, size.min(rows - first)))
    }

    fn hidden(&self, first: usize) -> Matrices {
        let pointer = self.hidden.at(first * self.width);
        Matrices::new(pointer, self.hidden.dtype, self.width, 0)
    }

    fn head(&self) -> Matrices {
        Matrices::new(self.head.pointer, self.head.dtype, self.width, 0)
    }

    /// Logits of `count` rows from `first` in f32.
    fn logits(&self, (first, count): (usize, usize)) -> Result<Fresh> {
        let logits = Fresh::new(self.device(), count * self.vocabulary, DType::F32)?;
        let out = Matrices::new(logits.pointer, DType::F32, self.vocabulary, 0);
        let sizes = (1, count, self.vocabulary, self.width);
        // SAFETY: (count, width) times (width, vocabulary).
        unsafe {
            product(
                self.device(),
                sizes,
                self.hidden(first),
                self.head().t(),
                out,
                0.0,
            )
        }?;
        if let Some(cap) = self.cap {
            let all = count * self.vocabulary;
            let args = [
                Arg::Pointer(logits.pointer),
                long(all),
                Arg::Float(cap as f32),
            ];
            // SAFETY: (count, vocabulary) logits.
            unsafe {
                launch(
                    self.device(),
                    &VOCABULARY,
                    "softcap",
                    Grid::elements(all),
                    &args,
                )
            }?;
        }
        Ok(logits)
    }
}

/// The `k` most probable of the first `vocabulary` ids after each of the `hidden` states
/// (n, width), given the `head` (ids, width), and what becomes of the `targets` (n). Logits are
/// capped by `cap`.
pub(crate) fn next_tokens(
    hidden: &Tensor,
    head: &Tensor,
    cap: Option<f64>,
    targets: &[u32],
    vocabulary: usize,
    k: usize,
) -> Result<NextTokens> {
    let hidden = hidden.contiguous()?;
    let head = Head::new(&hidden, head, vocabulary, cap)?;
    if targets.len() != head.rows || k > vocabulary {
        bail!("{} targets for {} rows", targets.len(), head.rows);
    }
    let device = head.device();
    let n = head.rows;
    let targets = upload(device, targets)?;
    let ids = Fresh::new(device, n * k, DType::U32)?;
    let logprobs = Fresh::new(device, n * k, DType::F32)?;
    let scalars = Fresh::new(device, n * 2, DType::F32)?;
    for (first, count) in head.chunks() {
        let logits = head.logits((first, count))?;
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
        let grid = Grid::blocks(count, 1, THREADS);
        // SAFETY: `count` rows of each from `first`; the caller has checked the targets.
        unsafe { launch(device, &VOCABULARY, "next_tokens", grid, &args) }?;
    }
    Ok(NextTokens {
        scalars: scalars.read(n * 2)?,
        ids: ids.read(n * k)?,
        logprobs: logprobs.read(n * k)?,
    })
}

/// What each row is trained towards; `train::rows` says what the fields mean.
#[derive(Debug)]
pub(crate) struct LossRows<'a> {
    /// (n).
    pub labels: &'a [u32],
    /// (n + 1): where the entries of each row begin.
    pub offsets: &'a [u32],
    /// Listed ids of all rows.
    pub ids: &'a [u32],
    /// Their probabilities.
    pub probs: &'a [f32],
    /// (n): probability of each id that is not listed.
    pub rest: &'a [f32],
    /// (n): whether the row has a target.
    pub targeted: &'a [u8],
    /// Rows of the head.
    pub vocabulary: usize,
}

/// Loss and gradient at the head.
#[derive(Debug)]
pub(crate) struct HeadLoss {
    /// (n, 2): cross-entropy with the label, cross-entropy with the target or 0.
    pub losses: Vec<f64>,
    /// Gradients for the hidden states (n, width), in their type, and for the head
    /// (vocabulary, width) in f32.
    pub gradients: Option<(Tensor, Tensor)>,
}

/// Loss of each of the `hidden` states (n, width), with logits capped by `cap`, and with `weights`
/// (of label and target) the gradient of their weighted sum.
pub(crate) fn head_loss(
    hidden: &Tensor,
    head: &Tensor,
    rows: &LossRows<'_>,
    cap: Option<f64>,
    weights: Option<(f64, f64)>,
) -> Result<HeadLoss> {
    let hidden = hidden.contiguous()?;
    let head = Head::new(&hidden, head, rows.vocabulary, cap)?;
    let (device, dtype) = (head.device(), head.hidden.dtype);
    let (n, width, vocabulary) = (head.rows, head.width, head.vocabulary);
    let sizes = [rows.labels.len(), rows.rest.len(), rows.targeted.len()];
    if sizes != [n; 3] || rows.offsets.len() != n + 1 || head.head.count != vocabulary * width {
        bail!("{sizes:?} rows for {n} hidden states");
    }
    let labels = upload(device, rows.labels)?;
    let offsets = upload(device, rows.offsets)?;
    let ids = upload(device, rows.ids)?;
    let probs = upload(device, rows.probs)?;
    let rest = upload(device, rows.rest)?;
    let targeted = upload(device, rows.targeted)?;
    let losses = Fresh::new(device, n * 2, DType::F64)?;
    let gradients = match weights {
        Some(_) => Some((
            Fresh::new(device, n * width, dtype)?,
            Fresh::zeros(device, vocabulary * width, DType::F32)?,
        )),
        None => None,
    };
    let (a, b) = weights.unwrap_or((0.0, 0.0));
    for (first, count) in head.chunks() {
        let logits = head.logits((first, count))?;
        let gradient = match &gradients {
            Some(_) => Some(Fresh::new(device, count * vocabulary, dtype)?),
            None => None,
        };
        let at = |of: &Fresh, bytes: usize| Arg::Pointer(of.pointer + bytes as u64);
        let args = [
            Arg::Pointer(logits.pointer),
            Arg::Pointer(gradient.as_ref().map_or(0, |gradient| gradient.pointer)),
            at(&labels, 4 * first),
            at(&offsets, 4 * first),
            at(&ids, 0),
            at(&probs, 0),
            at(&rest, 4 * first),
            at(&targeted, first),
            at(&losses, 16 * first),
            long(vocabulary),
            Arg::Double(a),
            Arg::Double(b),
            Arg::Float(cap.unwrap_or(0.0) as f32),
        ];
        let (kernel, grid) = (
            typed("fusion_loss", dtype)?,
            Grid::blocks(count, 1, THREADS),
        );
        // SAFETY: `count` rows of each from `first`; ids and labels were checked when they were
        // collected.
        unsafe { launch(device, &VOCABULARY, &kernel, grid, &args) }?;
        let (Some(gradient), Some((dhidden, dhead))) = (gradient, &gradients) else {
            continue;
        };
        let rows_of = |pointer, width| Matrices::new(pointer, dtype, width, 0);
        let g = rows_of(gradient.pointer, vocabulary);
        let at = (first * width * dtype.size_in_bytes()) as u64;
        let dhidden = rows_of(dhidden.pointer + at, width);
        let dhead = Matrices::new(dhead.pointer, DType::F32, width, 0);
        // SAFETY: (count, vocabulary) times (vocabulary, width), and its transpose times
        // (count, width).
        unsafe {
            let sizes = (1, count, width, vocabulary);
            product(device, sizes, g, head.head(), dhidden, 0.0)?;
            let sizes = (1, vocabulary, width, count);
            product(device, sizes, g.t(), head.hidden(first), dhead, 1.0)?;
        }
    }
    let gradients = match gradients {
        Some((dhidden, dhead)) => Some((
            dhidden.into_tensor((n, width))?,
            dhead.into_tensor((vocabulary, width))?,
        )),
        None => None,
    };
    Ok(HeadLoss {
        losses: losses.read(n * 2)?,
        gradients,
    })
}
