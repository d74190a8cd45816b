//! The shapes of a tensor in all models: equal, or with rows that are placed by token.

use std::sync::Arc;

use super::tensors::TensorPlan;
use crate::error::{Error, Result};
use crate::merge::inputs::Model;
use crate::merge::vocabulary::{Vocabulary, is_by_token, may_be_by_token};

/// Finds the rows of a tensor that has one for each token. `base` is the number of the base model;
/// placements of `earlier` tensors are shared where they are equal.
///
/// # Errors
///
/// Those of [`Vocabulary::place`]; a tensor that must be rearranged and cannot be.
pub(super) fn place_rows(
    tensor: &mut TensorPlan,
    base: Option<usize>,
    models: &[Model],
    vocabulary: &Vocabulary<'_>,
    earlier: &[TensorPlan],
) -> Result<()> {
    let inputs: Vec<(usize, &[usize])> = tensor
        .inputs()
        .filter_map(|(number, name)| Some((*number, models[*number].shape(name)?)))
        .collect();
    let rows: Vec<usize> = inputs
        .iter()
        .map(|(_, shape)| shape.first().copied().unwrap_or(0))
        .collect();
    let unsuitable = |problem: &str| {
        let dir = models[inputs[0].0].dir.display();
        Err(
            Error::input(dir, format!("tensor `{}` {problem}", tensor.name))
                .remedy("remove `tokenizer_source`; rows are then merged as they are"),
        )
    };
    let by_token = is_by_token(&tensor.name);
    let may_be = || may_be_by_token(&tensor.name, inputs[0].1, vocabulary.rows_of(inputs[0].0));
    if !by_token && !may_be() {
        return Ok(());
    }
    let numbers: Vec<usize> = inputs.iter().map(|(number, _)| *number).collect();
    let placement = vocabulary.place(&numbers, base)?;
    if placement.is_identity(&rows) {
        return Ok(());
    }
    if !by_token {
        return unsuitable("seems to have a row for each token, and is not known");
    }
    if tensor.copy || inputs.iter().any(|(_, shape)| shape.is_empty()) {
        return unsuitable("has no floating-point numbers for each token");
    }
    if let Some(first) = tensor.shape.first_mut() {
        *first = vocabulary.rows;
    }
    let known = earlier
        .iter()
        .filter_map(|tensor| tensor.placement.as_ref());
    let same = known.into_iter().find(|known| ***known == placement);
    tensor.placement = Some(same.cloned().unwrap_or_else(|| Arc::new(placement)));
    Ok(())
}

/// Checks that shapes are equal, but for the rows of a tensor that is placed by token.
///
/// # Errors
///
/// A shape that differs: tensor, models and both shapes are named.
pub(super) fn check_shapes(tensor: &TensorPlan, models: &[Model]) -> Result<()> {
    let placed = usize::from(tensor.placement.is_some());
    let shapes: Vec<(&Model, &str, &[usize])> = tensor
        .inputs()
        .filter_map(|(number, name)| {
            let model = &models[*number];
            Some((model, name.as_str(), model.shape(name)?))
        })
        .collect();
    for (model, name, shape) in &shapes {
        let (expected, _, reference) = &shapes[0];
        let same = shape.len() == reference.len() && shape[placed..] == reference[placed..];
        if !same {
            let remedy = match is_by_token(&tensor.name) && placed == 0 {
                true => "for models of other vocabularies set `tokenizer_source`: base or union",
                false => "only models of one architecture can be merged",
            };
            return Err(Error::input(
                model.dir.display(),
                format!(
                    "tensor `{name}` of model `{}` has shape {shape:?}, model `{}` has {reference:?}",
                    model.name, expected.name
                ),
            )
            .remedy(remedy));
        }
    }
    Ok(())
}
