//! Gradient sums, their norm, and AdamW, in place.

use candle_core::{DType, Result, Tensor, bail};

use super::launch::{Arg, Grid, OPTIM, launch, long, typed};
use super::memory::{Fresh, View};
use crate::model::cuda::types::Step;

/// Adds `x` to `sum`, which is f32.
pub(crate) fn accumulate(sum: &Tensor, x: &Tensor) -> Result<()> {
    let x = x.contiguous()?;
    let (sum, from) = (View::typed(sum, DType::F32)?, View::of(&x)?);
    if sum.count != from.count {
        bail!("{} elements added to {}", from.count, sum.count);
    }
    let args = [
        Arg::Pointer(sum.pointer),
        Arg::Pointer(from.pointer),
        long(sum.count),
    ];
    let (kernel, grid) = (typed("accumulate", from.dtype)?, Grid::elements(sum.count));
    // SAFETY: both have as many elements as are counted.
    unsafe { launch(&sum.device, &OPTIM, &kernel, grid, &args) }
}

/// The Euclidean norm of all `tensors` together; squares are summed in f64.
pub(crate) fn norm_of_all(tensors: &[&Tensor]) -> Result<f64> {
    const PER_BLOCK: usize = 1 << 16;
    let views: Vec<View> = tensors
        .iter()
        .map(|tensor| View::of(tensor))
        .collect::<Result<_>>()?;
    let Some(device) = views.first().map(|view| &view.device) else {
        return Ok(0.0);
    };
    let blocks = |view: &View| view.count.div_ceil(PER_BLOCK);
    let total = views.iter().map(blocks).sum();
    let partial = Fresh::new(device, total, DType::F64)?;
    let mut done = 0;
    for view in &views {
        let args = [
            Arg::Pointer(view.pointer),
            Arg::Pointer(partial.pointer + 8 * done as u64),
            long(view.count),
            long(PER_BLOCK),
        ];
        let grid = Grid::blocks(blocks(view), 1, 256);
        let kernel = typed("square_sum", view.dtype)?;
        // SAFETY: one partial sum for each block.
        unsafe { launch(device, &OPTIM, &kernel, grid, &args) }?;
        done += blocks(view);
    }
    let partial: Vec<f64> = partial.read(total)?;
    Ok(partial.iter().sum::<f64>().sqrt())
}

/// Updates `parameter`, its f32 `master` (`None` where it is f32 itself) and its f32 moments in
/// place. No gradient is a gradient of zeros.
pub(crate) fn adamw(
    parameter: &Tensor,
    master: Option<&Tensor>,
    [first, second]: [&Tensor; 2],
    gradient: Option<&Tensor>,
    step: Step,
) -> Result<()> {
    let parameter = View::of(parameter)?;
    let master = match master {
        Some(master) => View::typed(master, DType::F32)?,
        None if parameter.dtype == DType::F32 => parameter.clone(),
        None => bail!("a {:?} parameter without an f32 master", parameter.dtype),
    };
    let first = View::typed(first, DType::F32)?;
    let second = View::typed(second, DType::F32)?;
    let gradient = gradient
        .map(|gradient| View::typed(gradient, DType::F32))
        .transpose()?;
    let all = [&master, &first, &second].into_iter().chain(&gradient);
    if let Some(other) = all.into_iter().find(|view| view.count != parameter.count) {
        bail!("{} elements for {}", other.count, parameter.count);
    }
    let float = |value: f64| Arg::Float(value as f32);
    let args = [
        Arg::Pointer(parameter.pointer),
        Arg::Pointer(master.pointer),
        Arg::Pointer(first.pointer),
        Arg::Pointer(second.pointer),
        Arg::Pointer(gradient.map_or(0, |gradient| gradient.pointer)),
        long(parameter.count),
        float(step.scale),
        float(step.beta1),
        float(step.beta2),
        float(1.0 - step.beta1),
        float(1.0 - step.beta2),
        float(step.eps),
        float(step.rate),
        float(step.correction),
        float(step.keep),
    ];
    let kernel = typed("adamw", parameter.dtype)?;
    let grid = Grid::elements(parameter.count);
    // SAFETY: all have as many elements as are counted.
    unsafe { launch(&parameter.device, &OPTIM, &kernel, grid, &args) }
}
