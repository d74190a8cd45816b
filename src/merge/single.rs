//! Merging one tensor that need not come from a file, nor go to one.

use super::blocks::{Inputs, Output, Walk};
use super::config::MergeConfig;
use super::kernels::{self, Job};
use super::matching::parameters;
use super::plan::MergeOptions;
use super::run::MergeStat;
use crate::error::{Error, Result};
use crate::tensors::{Dtype, Elements};

/// Merges the tensor `name` of shape `shape` as `config` says: `models` are the tensors of its
/// models besides the base, in order, `base` that of the base model for methods that have one. The
/// result goes to `write` in pieces, as a byte offset and bytes in `dtype`, from several threads.
///
/// Returns what each model contributed. This is what [`run`](super::run()) does for each tensor.
///
/// # Errors
///
/// Another number of models than the configuration has, tensors of another size than the shape,
/// parameters that are missing, numbers that are not finite (or not in `dtype`), an error of
/// `write`, the user's wish to stop.
pub fn merge_elements(
    config: &MergeConfig,
    name: &str,
    shape: &[usize],
    base: Option<&dyn Elements>,
    models: &[&dyn Elements],
    dtype: Dtype,
    write: &(dyn Fn(u64, &[u8]) -> Result<()> + Sync),
) -> Result<Vec<MergeStat>> {
    let sources = config
        .slices
        .iter()
        .take(1)
        .flat_map(|slice| &slice.sources);
    let names: Vec<&str> = sources
        .map(|source| source.model.as_str())
        .filter(|model| base.is_none() || Some(*model) != config.base_model.as_deref())
        .collect();
    let len = shape.iter().product();
    let all = || base.iter().chain(models);
    if names.len() != models.len() || all().any(|elements| elements.len() != len) {
        return Err(Error::usage(format!(
            "tensor `{name}`: expected {} models with {len} elements each, found {:?}",
            names.len(),
            all().map(|elements| elements.len()).collect::<Vec<_>>()
        )));
    }
    let (values, per_model) = parameters(config, name, &names)?;
    let vector = shape.len() < 2;
    let row = match vector {
        true => len,
        false => shape[shape.len() - 1],
    };
    let job = Job {
        name,
        method: config.method,
        walk: Walk::new(len, row, MergeOptions::default().chunk),
        inputs: Inputs {
            base,
            models: models.to_vec(),
        },
        models: names.clone(),
        values,
        per_model,
        compute_dtype: config.dtype.unwrap_or(dtype),
        vector,
    };
    let outcome = kernels::merge(&job, &Output { dtype, write })?;
    if !outcome.finite {
        let problem = format!("tensor `{name}`: a number is infinite or NaN, or becomes so");
        return Err(Error::usage(problem));
    }
    let rows = names.iter().zip(&outcome.shares);
    Ok(rows
        .map(|(model, share)| MergeStat::new(name, model, share))
        .collect())
}
