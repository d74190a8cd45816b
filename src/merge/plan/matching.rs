//! Which tensors of which models become which output tensor, checked over all models.

use std::collections::HashSet;

use super::packed::{check_equal, check_renumbered};
use super::parameters::Lookup;
use super::shapes::{check_shapes, check_tables, place_rows};
use super::slices::{Stack, number_of};
use super::tensors::{Matched, TensorPlan};
use crate::error::{Error, Result};
use crate::merge::config::MergeConfig;
use crate::merge::inputs::{HEAD, Model};
use crate::merge::vocabulary::Vocabulary;
use crate::tensors::{Dtype, layer};

/// Pairs the tensors of all models. With a `vocabulary`, embeddings and heads are placed by token.
///
/// # Errors
///
/// Models of different architectures, tensors that are missing, superfluous or of different
/// shapes, parameters that are missing.
pub(super) fn match_tensors(
    config: &MergeConfig,
    models: &[Model],
    vocabulary: Option<&Vocabulary<'_>>,
) -> Result<Matched> {
    let stacks: Vec<Stack<'_>> = config
        .slices
        .iter()
        .map(|slice| Stack::new(config, models, slice))
        .collect::<Result<_>>()?;
    let (Some(first), Some(last)) = (stacks.first(), stacks.last()) else {
        return Err(Error::usage("the merge configuration has no slice"));
    };
    same_architecture(models)?;
    let mut matcher = Matcher {
        config,
        models,
        vocabulary,
        tensors: Vec::new(),
        layers: Vec::new(),
    };
    matcher.outside(first, true)?;
    for stack in &stacks {
        for index in 0..stack.layers {
            matcher.layer(stack, index)?;
        }
    }
    matcher.outside(last, false)?;
    let Matcher {
        tensors, layers, ..
    } = matcher;
    no_extras(models, &stacks, &tensors)?;
    check_tables(&tensors, models)?;
    let reference = &models[first.reference];
    let unchanged =
        layers.len() == reference.layers() && layers.iter().enumerate().all(|(i, l)| i == *l);
    let layers = if unchanged { Vec::new() } else { layers };
    check_renumbered(reference, &layers)?;
    Ok(Matched {
        tensors,
        reference: first.reference,
        layers,
        notes: notes(reference, models),
    })
}

/// What is matched so far.
struct Matcher<'a> {
    config: &'a MergeConfig,
    models: &'a [Model],
    vocabulary: Option<&'a Vocabulary<'a>>,
    tensors: Vec<TensorPlan>,
    /// For each output layer the reference's layer.
    layers: Vec<usize>,
}

/// Where a tensor lies in its slice.
struct Place<'a> {
    /// Of a tensor in a layer: the layer's number in the slice, what is before and after the
    /// number in the tensor's name.
    layer: Option<(usize, &'a str, &'a str)>,
    /// Relative depth in 0..=1.
    depth: f64,
}

impl Matcher<'_> {
    /// The tensors before (or after) the layers.
    fn outside(&mut self, stack: &Stack<'_>, before: bool) -> Result<()> {
        let reference = &self.models[stack.reference];
        for tensor in reference.checkpoint.tensors() {
            let name = &tensor.name;
            if layer(name).is_none() && is_before_layers(name) == before && !reference.ignores(name)
            {
                let place = Place {
                    layer: None,
                    depth: 0.0,
                };
                self.push(stack, name.clone(), &place)?;
            }
        }
        Ok(())
    }

    /// The tensors of a layer of a slice.
    fn layer(&mut self, stack: &Stack<'_>, index: usize) -> Result<()> {
        let reference = &self.models[stack.reference];
        let depth = match stack.layers {
            1 => 1.0,
            layers => index as f64 / (layers - 1) as f64,
        };
        let wanted = stack.reference_first + index;
        let output_layer = self.layers.len();
        self.layers.push(wanted);
        let before = self.tensors.len();
        for tensor in reference.checkpoint.tensors() {
            if let Some((prefix, number, suffix)) = layer(&tensor.name)
                && number == wanted
                && !reference.ignores(&tensor.name)
            {
                let place = Place {
                    layer: Some((index, prefix, suffix)),
                    depth,
                };
                self.push(stack, format!("{prefix}{output_layer}{suffix}"), &place)?;
            }
        }
        match self.tensors.len() > before {
            true => Ok(()),
            false => Err(Error::file(
                reference.checkpoint.dir(),
                format!(
                    "layer {wanted} has no tensors, config.json promises {}",
                    stack.layers
                ),
            )),
        }
    }

    fn push(&mut self, stack: &Stack<'_>, name: String, place: &Place<'_>) -> Result<()> {
        let mut planned = self.plan(stack, name, place)?;
        if let Some(vocabulary) = self.vocabulary {
            let base = self.config.base_of(stack.slice);
            let base = base.map(|name| number_of(self.models, name)).transpose()?;
            place_rows(&mut planned, base, self.models, vocabulary, &self.tensors)?;
        }
        check_shapes(&planned, self.models)?;
        check_equal(&planned, self.models)?;
        self.tensors.push(planned);
        Ok(())
    }

    fn plan(&self, stack: &Stack<'_>, name: String, place: &Place<'_>) -> Result<TensorPlan> {
        let base = stack.base.map(|base| (base, stack.base_first));
        let base = base.map(|source| self.input(stack, &name, place, source));
        let base = base.transpose()?;
        let models = stack
            .models
            .iter()
            .map(|source| self.input(stack, &name, place, *source))
            .collect::<Result<Vec<_>>>()?;
        // The reference is the base or, without one, the first model.
        let (number, tensor) = base.as_ref().unwrap_or(&models[0]);
        let reference = self.models[*number].checkpoint.tensor(tensor)?;
        let inputs = || base.iter().chain(&models);
        self.same_kind(inputs(), *number, reference.dtype)?;
        let copy = !reference.dtype.is_float() || self.models[*number].packed.is_some();
        // What has 8 bits because it was quantised is not quantised again.
        let own = match reference.dtype.is_f8() {
            true => Dtype::BF16,
            false => reference.dtype,
        };
        let stored = self.config.output_dtype().unwrap_or(own);
        let names = models.iter();
        let names =
            names.map(|(number, tensor)| (self.models[*number].name.as_str(), tensor.as_str()));
        let lookup = Lookup {
            config: self.config,
            slice: stack.slice,
            depth: place.depth,
            tensor: &name,
            models: names.collect(),
        };
        Ok(TensorPlan {
            kernel: lookup.kernel()?,
            shape: reference.shape.to_vec(),
            dtype: if copy { reference.dtype } else { stored },
            compute_dtype: self.config.dtype.unwrap_or(own),
            copy,
            base,
            models,
            name,
            placement: None,
        })
    }

    /// The tensor of a model that takes part, by its number and first layer.
    fn input(
        &self,
        stack: &Stack<'_>,
        name: &str,
        place: &Place<'_>,
        (number, first): (usize, usize),
    ) -> Result<(usize, String)> {
        let wanted = match place.layer {
            None => name.to_owned(),
            Some((index, prefix, suffix)) => format!("{prefix}{}{suffix}", first + index),
        };
        let model = &self.models[number];
        let found = model.find(&wanted).ok_or_else(|| {
            Error::input(
                model.dir.display(),
                format!(
                    "tensor `{wanted}` is missing; model `{}` has it",
                    self.models[stack.reference].name
                ),
            )
            .remedy("only models of one architecture can be merged")
        })?;
        Ok((number, found))
    }

    /// Fails where some tensors are integers and others are not. `expected` is the number of the
    /// model whose tensor has `dtype`.
    fn same_kind<'a>(
        &self,
        inputs: impl Iterator<Item = &'a (usize, String)>,
        expected: usize,
        dtype: Dtype,
    ) -> Result<()> {
        for (number, tensor) in inputs {
            let model = &self.models[*number];
            let view = model.checkpoint.tensor(tensor)?;
            if view.dtype.is_float() != dtype.is_float() {
                let expected = &self.models[expected].name;
                return Err(Error::input(
                    model.dir.display(),
                    format!(
                        "tensor `{tensor}` is {}, model `{expected}` has {dtype}",
                        view.dtype
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// Whether a tensor outside the layers comes before them.
fn is_before_layers(name: &str) -> bool {
    ["embed", "wte", "wpe"]
        .iter()
        .any(|part| name.contains(part))
}

/// What the user is told about the models.
fn notes(reference: &Model, models: &[Model]) -> Vec<String> {
    let mut notes = Vec::new();
    if reference.ties_embeddings() && reference.checkpoint.info(HEAD).is_some() {
        notes.push(format!(
            "`{HEAD}` is tied to the embedding and is not written"
        ));
    }
    notes.extend(models.iter().filter_map(quantised));
    notes.extend(models.iter().filter_map(unlisted));
    notes
}

/// What is said about tensors that no index lists.
fn unlisted(model: &Model) -> Option<String> {
    let unlisted = model.checkpoint.unlisted();
    let first = unlisted.first()?;
    Some(format!(
        "{} tensors in the files of `{}` (such as `{first}`) are not listed there by its index: they \
         are not the model's and are left out",
        unlisted.len(),
        model.name
    ))
}

/// What is said about a model with 8-bit weights.
fn quantised(model: &Model) -> Option<String> {
    if let Some(packed) = &model.packed {
        let (name, what) = (&model.name, packed.describe());
        return Some(format!(
            "the weights of `{name}` are copied as they are: {what}"
        ));
    }
    let f8 = |dtype: Dtype| dtype.is_f8();
    let count = model.checkpoint.tensors().filter(|t| f8(t.dtype)).count();
    if count == 0 {
        return None;
    }
    let scaled = model.scales.len();
    let mut note = format!(
        "{count} tensors of `{}` are 8-bit floats ({scaled} with scales): they are merged as the \
         numbers they stand for, and the result is \
         not quantised (`quantization_config` is left out of config.json)",
        model.name
    );
    match model.scales.others() {
        0 => {}
        others => note += &format!("; {others} scales of activations or caches are left out"),
    }
    Some(note)
}

/// Fails where the models' architectures differ.
fn same_architecture(models: &[Model]) -> Result<()> {
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
fn no_extras(models: &[Model], stacks: &[Stack<'_>], tensors: &[TensorPlan]) -> Result<()> {
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
            if !used.contains(&(number, name)) && !model.ignores(name) {
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
