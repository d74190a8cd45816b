//! The shapes of a tensor in all models: equal, or with rows that are placed by token.

use std::sync::Arc;

use super::tensors::TensorPlan;
use crate::error::{Error, Result};
use crate::merge::inputs::Model;
use crate::merge::vocabulary::{Vocabulary, is_by_token, is_per_layer, may_be_by_token};

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
        .filter_map(|(number, name)| {
            Some((
                *number,
                models[*number].checkpoint.info(name)?.shape.as_slice(),
            ))
        })
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
    let may_be = || {
        let known = vocabulary.rows_of(inputs[0].0);
        may_be_by_token(&tensor.name, inputs[0].1, known, !tensor.copy)
    };
    if !by_token && !may_be() {
        return Ok(());
    }
    let numbers: Vec<usize> = inputs.iter().map(|(number, _)| *number).collect();
    let short = is_per_layer(&tensor.name).then_some(rows.as_slice());
    let placement = vocabulary.place(&numbers, base, short)?;
    let stays = match short {
        Some(rows) => rows.iter().all(|r| *r == rows[0]) && placement.is_short_identity(rows),
        None => placement.is_identity(&rows),
    };
    if stays {
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
            Some((
                model,
                name.as_str(),
                model.checkpoint.info(name)?.shape.as_slice(),
            ))
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

/// Checks that the tables of tokens of the output, which may come from several models where layers
/// are stacked, have one vocabulary.
///
/// # Errors
///
/// Tables of different lengths from different models, which no program would load.
pub(super) fn check_tables(tensors: &[TensorPlan], models: &[Model]) -> Result<()> {
    let tables = tensors.iter().filter(|tensor| {
        is_by_token(&tensor.name) && !is_per_layer(&tensor.name) && !tensor.shape.is_empty()
    });
    let from = |tensor: &TensorPlan| {
        tensor
            .inputs()
            .map(|(number, _)| *number)
            .collect::<Vec<_>>()
    };
    let mut first: Option<&TensorPlan> = None;
    for table in tables {
        let known = *first.get_or_insert(table);
        if known.shape[0] == table.shape[0] || from(known) == from(table) {
            continue;
        }
        let names = |tensor: &TensorPlan| {
            let names = from(tensor)
                .into_iter()
                .map(|number| models[number].name.as_str());
            names.collect::<Vec<_>>().join("`, `")
        };
        return Err(Error::usage(format!(
            "two vocabularies: `{}` of `{}` has {} rows, `{}` of `{}` has {}; the result would not \
             load",
            known.name,
            names(known),
            known.shape[0],
            table.name,
            names(table),
            table.shape[0]
        ))
        .remedy(
            "set `tokenizer: { source: base }` (or `union`, or the path of a model): rows are then \
             placed by token; or take the first and the last layers from one model",
        ));
    }
    Ok(())
}
