//! Whether the models belong together.

use std::collections::HashSet;

use super::slices::Stack;
use super::tensors::TensorPlan;
use crate::error::{Error, Result};
use crate::merge::inputs::Model;
use crate::merge::stacks::{Place, Stacks};

/// Fails where the models' architectures differ.
pub(super) fn same_architecture(models: &[Model]) -> Result<()> {
    let Some((first, others)) = models.split_first() else {
        return Ok(());
    };
    for model in others {
        for key in ["architectures", "model_type"] {
            let (a, b) = (first.config.get(key), model.config.get(key));
            if let (Some(a), Some(b)) = (a, b)
                && a != b
            {
                let path = model.dir.join("config.json");
                return Err(Error::file(
                    &path,
                    format!("`{key}` is {b}, model `{}` has {a}", first.name),
                )
                .remedy("only models of one architecture can be merged"));
            }
        }
    }
    Ok(())
}

/// Fails where a model has tensors that no output tensor uses.
pub(super) fn no_extras(
    models: &[Model],
    layered: &[Stacks],
    stacks: &[Stack<'_>],
    tensors: &[TensorPlan],
) -> Result<()> {
    // With layer ranges, tensors outside the ranges are left out on purpose.
    if stacks.iter().any(Stack::is_partial) {
        return Ok(());
    }
    let used: HashSet<(usize, &str)> = tensors
        .iter()
        .flat_map(TensorPlan::inputs)
        .map(|(number, name)| (*number, name.as_str()))
        .collect();
    for (number, model) in models.iter().enumerate() {
        if !stacks.iter().any(|stack| stack.has(number)) {
            continue;
        }
        for tensor in model.checkpoint.tensors() {
            let name = tensor.name.as_str();
            let beyond = layered[number].place(name) == Place::Beyond;
            if !used.contains(&(number, name)) && !model.ignores(name) && !beyond {
                return Err(Error::input(
                    model.dir.display(),
                    format!("tensor `{name}` is in model `{}` only", model.name),
                )
                .remedy("only models of one architecture can be merged"));
            }
        }
    }
    Ok(())
}
