//! Merging one tensor of a plan.

use crate::checkpoint::CheckpointWriter;
use crate::error::{Error, Result};
use crate::merge::arithmetic::{Inputs, Job, Outcome, Output, Walk};
use crate::merge::inputs::Input;
use crate::merge::methods::merge;
use crate::merge::plan::{Plan, TensorPlan};
use crate::merge::vocabulary::Gathered;
use crate::tensors::Elements;

/// Merges output tensor `at` and writes it.
///
/// # Errors
///
/// Failed reads and writes, and the user's wish to stop.
pub(super) fn merge_tensor(plan: &Plan, at: usize, writer: &CheckpointWriter) -> Result<Outcome> {
    let tensor = &plan.matched.tensors[at];
    if tensor.copy {
        let (number, name) = tensor.base.as_ref().unwrap_or(&tensor.models[0]);
        writer.write(at, 0, plan.models[*number].checkpoint.tensor(name)?.bytes)?;
        return Ok(Outcome::empty());
    }
    let stored = tensor
        .inputs()
        .map(|(number, name)| plan.models[*number].open_tensor(name))
        .collect::<Result<Vec<Input<'_>>>>()?;
    let gathered = match &tensor.placement {
        Some(placement) => Gathered::all(&stored, placement, tensor.shape[1..].iter().product())?,
        None => Vec::new(),
    };
    let inputs: Vec<&dyn Elements> = match &tensor.placement {
        Some(_) => gathered.iter().map(|input| input as _).collect(),
        None => stored.iter().map(|input| input as _).collect(),
    };
    let (base, models) = inputs.split_at(usize::from(tensor.base.is_some()));
    let names = tensor.models.iter();
    let names = names.map(|(number, _)| plan.models[*number].name.as_str());
    let job = Job {
        name: &tensor.name,
        walk: Walk::over(&tensor.shape, plan.options.chunk),
        inputs: Inputs {
            base: base.first().copied(),
            models: models.to_vec(),
        },
        models: names.collect(),
        compute_dtype: tensor.compute_dtype,
        shape: &tensor.shape,
    };
    let write = |offset: u64, bytes: &[u8]| writer.write(at, offset, bytes);
    let output = Output {
        dtype: tensor.dtype,
        write: &write,
    };
    merge(tensor.kernel.as_ref(), &job, &output)
}

/// Why a tensor came out with values that are not finite: the first number of an input that is not,
/// or the output's range.
pub(super) fn not_finite(plan: &Plan, tensor: &TensorPlan) -> Error {
    for (number, name) in tensor.inputs() {
        let model = &plan.models[*number];
        match model.first_not_finite(name) {
            Ok(None) => {}
            Ok(Some((index, value))) => {
                let info = model.checkpoint.info(name);
                let at = info
                    .map(|info| place(index, &info.shape))
                    .unwrap_or_default();
                return Error::input(
                    model.file_of(name).display(),
                    format!("tensor `{name}`: the number at {at:?} is {value}"),
                )
                .remedy("the file is damaged, or its training went wrong; copy it again");
            }
            Err(error) => return error,
        }
    }
    let dtype = tensor.dtype;
    Error::usage(format!(
        "tensor `{}`: merged values are beyond the range of {dtype}",
        tensor.name
    ))
    .remedy("set `out_dtype` to bfloat16 or float32, or choose smaller weights")
}

/// The index in each dimension of element `index`.
fn place(mut index: usize, shape: &[usize]) -> Vec<usize> {
    let mut place: Vec<usize> = shape
        .iter()
        .rev()
        .map(|size| {
            let at = index % size;
            index /= size;
            at
        })
        .collect();
    place.reverse();
    place
}
