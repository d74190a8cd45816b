//! Tensors that are no numbers: quantised weights, which are copied or refused, and integers, which
//! must be equal.

use super::tensors::TensorPlan;
use crate::error::{Error, Result};
use crate::merge::config::{MergeConfig, Setting, Settings};
use crate::merge::inputs::Model;
use crate::merge::methods::Scalar;
use crate::tensors::Dtype;

/// The method that copies.
const COPIES: &str = "passthrough";

/// Fails where packed weights would have to be numbers. They can be copied: by `passthrough`,
/// unscaled, in their own types and with their own rows, from models that are all packed in the
/// same way.
///
/// # Errors
///
/// What makes it more than a copy; the model, its format and where that is stated.
pub(super) fn check_packed(config: &MergeConfig, models: &[Model]) -> Result<()> {
    let quantised = models.iter().find_map(|m| Some((m, m.packed.as_ref()?)));
    let Some((first, packed)) = quantised else {
        return Ok(());
    };
    if config.method.name != COPIES || models.iter().any(|m| m.adapter.is_some()) {
        return Err(packed.refused(&first.dir));
    }
    for model in models {
        let alike = model.packed.as_ref().map(|other| packed.is_like(other));
        let problem = match alike {
            Some(true) => continue,
            Some(false) => "are packed in different ways",
            None => "are packed in one model only",
        };
        let (a, b) = (&first.name, &model.name);
        return Err(Error::input(
            model.dir.display(),
            format!(
                "the weights of `{a}` and `{b}` {problem} (`{a}`: {})",
                packed.describe()
            ),
        )
        .remedy(
            "stack layers of models that were quantised alike, or of those that were quantised",
        ));
    }
    let only_copied = |what: &str, remedy: &str| {
        let problem = format!("quantised weights are only copied: {}", packed.describe());
        Err(Error::file(&first.dir, problem).remedy(format!("{what}; {remedy}")))
    };
    if scales(config) {
        return only_copied("`scale` would change them", "leave it out");
    }
    if config.tokenizer.is_some() {
        let what = "another tokenizer would change rows of the embedding";
        return only_copied(what, "leave `tokenizer` and `tokenizer_source` out");
    }
    let wanted = config.output_dtype();
    let converted = |dtype: Dtype| dtype.is_float() && wanted.is_some_and(|w| w != dtype);
    let mut tensors = models.iter().flat_map(|model| model.checkpoint.tensors());
    if let Some(tensor) = tensors.find(|tensor| converted(tensor.dtype)) {
        let what = format!("`{}` is {}", tensor.name, tensor.dtype);
        return only_copied(&what, "leave `dtype` and `out_dtype` out");
    }
    Ok(())
}

/// Whether a factor other than one is configured anywhere.
fn scales(config: &MergeConfig) -> bool {
    let other = |setting: &Setting| {
        let mut found = false;
        let _ = setting.scalars(&mut |value| {
            found |= *value != Scalar::Number(1.0);
            Ok(())
        });
        found
    };
    let slices = config.slices.iter();
    let levels = slices.flat_map(|slice| {
        let sources = slice.sources.iter().map(|source| &source.parameters);
        sources.chain([&slice.parameters])
    });
    let in_level = |settings: &Settings| {
        let mut settings = settings.iter();
        settings.any(|(name, setting)| name == "scale" && other(setting))
    };
    levels.chain([&config.parameters]).any(in_level)
}

/// Fails where layers get other numbers and the settings of the quantisation name some.
///
/// # Errors
///
/// The name of a layer in the settings.
pub(super) fn check_renumbered(reference: &Model, renumbered: bool) -> Result<()> {
    let named = reference
        .packed
        .as_ref()
        .and_then(|packed| packed.names_layer());
    match named.filter(|_| renumbered) {
        None => Ok(()),
        Some(named) => Err(Error::file(
            &reference.dir,
            format!(
                "layers get other numbers, and how they are quantised depends on these: {named}"
            ),
        )
        .remedy("stack the layers of the model that was quantised, and quantise the result")),
    }
}

/// Fails where a tensor that is copied is not the same in all models.
///
/// # Errors
///
/// The tensor and two models that differ.
pub(super) fn check_equal(tensor: &TensorPlan, models: &[Model]) -> Result<()> {
    let mut inputs = tensor.inputs();
    let Some((first, name)) = inputs.next().filter(|_| tensor.copy) else {
        return Ok(());
    };
    let expected = models[*first].checkpoint.tensor(name)?;
    for (number, name) in inputs {
        let found = models[*number].checkpoint.tensor(name)?;
        if (found.dtype, found.shape, found.bytes)
            == (expected.dtype, expected.shape, expected.bytes)
        {
            continue;
        }
        let how = match found.dtype == expected.dtype {
            true => format!("differs from that of model `{}`", models[*first].name),
            false => format!("model `{}` has {}", models[*first].name, expected.dtype),
        };
        return Err(Error::input(
            models[*number].file_of(name).display(),
            format!("tensor `{name}` is {}, {how}", found.dtype),
        )
        .remedy(
            "integers are not averaged, only equal ones are copied: give all models the same",
        ));
    }
    Ok(())
}
