//! Which tensors of which models become which output tensor, checked over all models.

use super::checks::{no_extras, same_architecture};
use super::notes::{notes, untie};
use super::packed::{check_equal, check_renumbered};
use super::parameters::Lookup;
use super::shapes::{check_shapes, check_tables, place_rows};
use super::slices::{Stack, number_of};
use super::tensors::{Matched, TensorPlan};
use crate::error::{Error, Result};
use crate::merge::config::MergeConfig;
use crate::merge::follow::{Layers, follow};
use crate::merge::inputs::Model;
use crate::merge::stacks::{Place as Lies, Stacks};
use crate::merge::vocabulary::Vocabulary;
use crate::tensors::Dtype;

/// Pairs the tensors of all models for the slices `stacks`. With a `vocabulary`, embeddings and heads
/// are placed by token.
///
/// # Errors
///
/// Models of different architectures, tensors that are missing, superfluous or of different
/// shapes, parameters that are missing, settings that depend on layers and cannot follow the slices.
pub(super) fn match_tensors(
    config: &MergeConfig,
    models: &[Model],
    stacks: &[Stack<'_>],
    vocabulary: Option<&Vocabulary<'_>>,
) -> Result<Matched> {
    let (Some(first), Some(last)) = (stacks.first(), stacks.last()) else {
        return Err(Error::usage("the merge configuration has no slice"));
    };
    same_architecture(models)?;
    let mut matcher = Matcher {
        config,
        models,
        layered: models.iter().map(Stacks::of).collect(),
        vocabulary,
        tensors: Vec::new(),
        layers: Vec::new(),
    };
    matcher.outside(first, true)?;
    for stack in stacks {
        for index in 0..stack.layers {
            matcher.layer(stack, index)?;
        }
    }
    let beyond = matcher.beyond(first, stacks)?;
    matcher.outside(last, false)?;
    let head = matcher.head(last)?;
    let Matcher {
        tensors,
        layers,
        layered,
        ..
    } = matcher;
    no_extras(models, &layered, stacks, &tensors)?;
    check_tables(&tensors, models)?;
    let reference = &models[first.reference];
    let moved = layers
        .iter()
        .enumerate()
        .any(|(at, (_, layer))| at != *layer);
    let has = layered[first.reference].layers();
    check_renumbered(reference, moved || layers.len() != has)?;
    let mut notes = notes(reference, models, &tensors);
    let configs: Vec<_> = models.iter().map(|model| &model.config).collect();
    let written = Layers {
        reference: first.reference,
        configs: &configs,
        has: layered.iter().map(Stacks::layers).collect(),
        sources: layers,
        beyond: beyond.is_none(),
    };
    let mut config = follow(&written, &reference.dir, &mut notes)?;
    notes.extend(beyond);
    if head {
        untie(&mut config, reference, models, &mut notes);
    }
    Ok(Matched {
        tensors,
        reference: first.reference,
        config,
        notes,
    })
}

/// What is matched so far.
struct Matcher<'a> {
    config: &'a MergeConfig,
    models: &'a [Model],
    layered: Vec<Stacks>,
    vocabulary: Option<&'a Vocabulary<'a>>,
    tensors: Vec<TensorPlan>,
    /// For each output layer the model and its layer that the configuration is taken from.
    layers: Vec<(usize, usize)>,
}

/// Where a tensor lies in its slice.
struct Place<'a> {
    /// Of a tensor in a layer: the layer's number in the slice, what is before and after the
    /// number in the tensor's name.
    layer: Option<(usize, &'a str, &'a str)>,
    /// Relative depth in 0..=1.
    depth: f64,
}

impl Place<'_> {
    /// A tensor that has the same name in all models.
    fn fixed(depth: f64) -> Self {
        Self { layer: None, depth }
    }
}

impl Matcher<'_> {
    /// The tensors before (or after) the layers; the layers of other stacks come before them.
    fn outside(&mut self, stack: &Stack<'_>, before: bool) -> Result<()> {
        let reference = &self.models[stack.reference];
        for tensor in reference.checkpoint.tensors() {
            let name = &tensor.name;
            let (depth, is_before) = match self.layered[stack.reference].place(name) {
                Lies::Outside => (0.0, is_before_layers(name)),
                Lies::Other(depth) => (depth, true),
                Lies::Layer(..) | Lies::Beyond => continue,
            };
            if is_before == before && !reference.ignores(name) {
                self.push(stack, name.clone(), &Place::fixed(depth))?;
            }
        }
        Ok(())
    }

    /// The tensors of a layer of a slice.
    fn layer(&mut self, stack: &Stack<'_>, index: usize) -> Result<()> {
        let reference = &self.models[stack.reference];
        let wanted = stack.reference_first + index;
        let output_layer = self.layers.len();
        self.layers.push((stack.reference, wanted));
        let before = self.tensors.len();
        for tensor in reference.checkpoint.tensors() {
            let name = &tensor.name;
            let layered = &self.layered[stack.reference];
            let Lies::Layer(prefix, number, suffix) = layered.place(name) else {
                continue;
            };
            if reference.ignores(name) {
                continue;
            }
            if is_of_first_layer(reference, prefix, suffix) {
                if output_layer == 0 && number == 0 {
                    self.push(stack, name.clone(), &Place::fixed(0.0))?;
                }
                continue;
            }
            if number != wanted {
                continue;
            }
            let layers = match stack.is_partial() {
                true => stack.layers,
                false => layered.layers_of(prefix),
            };
            let place = Place {
                layer: Some((index, prefix, suffix)),
                depth: match layers {
                    0 | 1 => 1.0,
                    layers => index as f64 / (layers - 1) as f64,
                },
            };
            self.push(stack, format!("{prefix}{output_layer}{suffix}"), &place)?;
        }
        match self.tensors.len() > before {
            true => Ok(()),
            false => Err(Error::file(
                reference.checkpoint.dir(),
                format!(
                    "layer {wanted} has no tensors, config.json promises {}",
                    self.layered[stack.reference].layers()
                ),
            )),
        }
    }

    /// The tensors of layers beyond those that `config.json` counts, if whole models are merged that
    /// all have them. What is to be said where they are left out.
    fn beyond(&mut self, first: &Stack<'_>, stacks: &[Stack<'_>]) -> Result<Option<String>> {
        let participants = (0..self.models.len()).filter(|at| stacks.iter().any(|s| s.has(*at)));
        let participants: Vec<usize> = participants.collect();
        let of = |at: usize| {
            let names = self.models[at].checkpoint.tensors().map(|t| &t.name);
            let is = |name: &&String| {
                self.layered[at].place(name) == Lies::Beyond && !self.models[at].ignores(name)
            };
            names.filter(is).cloned().collect::<Vec<_>>()
        };
        let names = of(first.reference);
        let in_all = |name: &String| {
            let mut models = participants.iter();
            models.all(|at| self.models[*at].find(name).is_some())
        };
        let whole = stacks.len() == 1 && !first.is_partial();
        if whole && !names.is_empty() && names.iter().all(in_all) {
            for name in names {
                self.push(first, name, &Place::fixed(1.0))?;
            }
            return Ok(None);
        }
        let found = participants.iter().map(|at| (*at, of(*at)));
        let found = found.into_iter().find(|(_, names)| !names.is_empty());
        Ok(found.map(|(at, names)| {
            format!(
                "{} tensors of `{}` in layers beyond the {} of config.json (`{}`, ..; modules that \
                 predict several tokens) are left out",
                names.len(),
                self.models[at].name,
                self.layered[at].layers(),
                names[0]
            )
        }))
    }

    /// The head, where the reference has none of its own and another model does. Whether the output has
    /// a head that is no copy of the embedding.
    fn head(&mut self, stack: &Stack<'_>) -> Result<bool> {
        let models = self.models.iter().enumerate();
        let mut models = models.filter(|(number, _)| stack.has(*number));
        let Some(head) = models.find_map(|(_, model)| model.tie.separate_head()) else {
            return Ok(false);
        };
        if !self.tensors.iter().any(|tensor| tensor.name == head) {
            self.push(stack, head.to_owned(), &Place::fixed(0.0))?;
        }
        Ok(true)
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

/// Whether only the first layer of a stack has a tensor (T5's table of relative positions, which its
/// other layers share): it stays in the first layer.
fn is_of_first_layer(model: &Model, prefix: &str, suffix: &str) -> bool {
    let has = |number: usize| {
        let name = format!("{prefix}{number}{suffix}");
        model.checkpoint.info(&name).is_some()
    };
    suffix.contains("relative_attention_bias") && has(0) && !has(1)
}
