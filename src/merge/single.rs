//! Merging one tensor that need not come from a file, nor go to one.

use super::arithmetic::{Inputs, Job, Output, Walk};
use super::config::MergeConfig;
use super::methods::merge;
use super::plan::{Lookup, MergeOptions};
use super::run::MergeStat;
use crate::error::{Error, Result};
use crate::tensors::Elements;

/// One tensor of all models, wherever they come from.
pub struct TensorInputs<'a> {
    /// The tensor's name, which parameters may depend on.
    pub name: &'a str,
    /// Its shape, in all models.
    pub shape: &'a [usize],
    /// That of the base model, for methods that have one.
    pub base: Option<&'a dyn Elements>,
    /// Those of the configuration's models besides the base, in order.
    pub models: &'a [&'a dyn Elements],
}

/// Merges one tensor as `config` says. The result goes to `output` in pieces, from several
/// threads.
///
/// Returns what each model contributed. This is what [`run`](super::run()) does for each tensor.
///
/// # Errors
///
/// Another number of models than the configuration has, tensors of another size than the shape,
/// parameters that are missing, numbers that are not finite (or not in the output's dtype), an
/// error of the output, the user's wish to stop.
pub fn merge_elements(
    config: &MergeConfig,
    inputs: &TensorInputs<'_>,
    output: &Output<'_>,
) -> Result<Vec<MergeStat>> {
    let TensorInputs {
        name,
        shape,
        base,
        models,
    } = *inputs;
    let slice = config
        .slices
        .first()
        .ok_or_else(|| Error::usage("the merge configuration has no slice"))?;
    let names: Vec<&str> = slice
        .sources
        .iter()
        .map(|source| source.model.as_str())
        .filter(|model| base.is_none() || Some(*model) != config.base_model.as_deref())
        .collect();
    let len: usize = shape.iter().product();
    let all = || base.iter().chain(models);
    if names.len() != models.len() || all().any(|elements| elements.len() != len) {
        return Err(Error::usage(format!(
            "tensor `{name}`: expected {} models with {len} elements each, found {:?}",
            names.len(),
            all().map(|elements| elements.len()).collect::<Vec<_>>()
        )));
    }
    let lookup = Lookup {
        config,
        slice,
        depth: 0.0,
        tensor: name,
        models: names.iter().map(|model| (*model, name)).collect(),
    };
    let kernel = lookup.kernel()?;
    let job = Job {
        name,
        walk: Walk::over(shape, MergeOptions::default().chunk),
        inputs: Inputs {
            base,
            models: models.to_vec(),
        },
        models: names.clone(),
        compute_dtype: config.dtype.unwrap_or(output.dtype),
        shape,
    };
    let outcome = merge(kernel.as_ref(), &job, output)?;
    if !outcome.finite {
        let problem = format!("tensor `{name}`: a number is infinite or NaN, or becomes so");
        return Err(Error::usage(problem));
    }
    let rows = names.iter().zip(&outcome.shares);
    Ok(rows
        .map(|(model, share)| MergeStat::new(name, model, share))
        .collect())
}
