//! Slices with their models and layers looked up.

use crate::error::{Error, Result};
use crate::merge::config::{MergeConfig, Slice, Source};
use crate::merge::inputs::Model;
use crate::merge::methods::Base;

/// A slice with everything looked up. Models are meant by their numbers.
pub(super) struct Stack<'a> {
    /// The slice as configured.
    pub slice: &'a Slice,
    /// The base, where the method has one.
    pub base: Option<usize>,
    /// The base's first layer.
    pub base_first: usize,
    /// (model, first layer) of the sources besides the base.
    pub models: Vec<(usize, usize)>,
    /// The base or, without one, the first model: the one whose tensors are gone through.
    pub reference: usize,
    /// Its first layer.
    pub reference_first: usize,
    /// The number of layers.
    pub layers: usize,
}

/// The number of the model with this name.
pub(super) fn number_of(models: &[Model], name: &str) -> Result<usize> {
    models
        .iter()
        .position(|model| model.name == name)
        .ok_or_else(|| Error::usage(format!("model `{name}` was not opened")))
}

/// The model whose config and tokenizer the output has by default.
pub(super) fn reference(config: &MergeConfig, models: &[Model]) -> Result<usize> {
    match config.slices.first() {
        Some(slice) => Ok(Stack::new(config, models, slice)?.reference),
        None => Err(Error::usage("the merge configuration has no slice")),
    }
}

impl<'a> Stack<'a> {
    /// Looks up the models and layers of a slice.
    ///
    /// # Errors
    ///
    /// Layers that a model does not have, models with different numbers of layers.
    pub fn new(config: &MergeConfig, models: &[Model], slice: &'a Slice) -> Result<Self> {
        let base_name = match config.method.base {
            Base::Listed => None,
            _ => config.base_of(slice),
        };
        let base = base_name.map(|name| number_of(models, name)).transpose()?;
        let mut layers = None;
        let mut others = Vec::new();
        let mut base_first = None;
        for source in &slice.sources {
            let number = number_of(models, &source.model)?;
            let (first, count) = range(source, &models[number])?;
            match layers {
                None => layers = Some(count),
                Some(layers) if layers != count => {
                    return Err(Error::usage(format!(
                        "model `{}` brings {count} layers, the models before it {layers}",
                        source.model
                    )));
                }
                Some(_) => {}
            }
            if Some(number) == base {
                base_first = Some(first);
            } else {
                others.push((number, first));
            }
        }
        let layers = layers.unwrap_or(0);
        if let (Some(base), None) = (base, base_first) {
            check_unlisted(slice, &models[base], layers)?;
        }
        let base_first = base_first.unwrap_or(0);
        let (reference, reference_first) = match base {
            Some(base) => (base, base_first),
            // A base that is one model among others says what is not merged, as in mergekit.
            None => {
                let listed = config.base_of(slice);
                let is_base = |(number, _): &&(usize, usize)| Some(&models[*number].name) == listed;
                *others.iter().find(is_base).unwrap_or(&others[0])
            }
        };
        Ok(Self {
            slice,
            base,
            base_first,
            models: others,
            reference,
            reference_first,
            layers,
        })
    }

    /// Whether a model takes part.
    pub fn has(&self, model: usize) -> bool {
        self.base == Some(model) || self.models.iter().any(|(number, _)| *number == model)
    }

    /// Whether layers are chosen.
    pub fn is_partial(&self) -> bool {
        self.slice.sources.iter().any(|s| s.layers.is_some())
    }
}

/// The first layer of a source, and how many there are.
fn range(source: &Source, model: &Model) -> Result<(usize, usize)> {
    let has = model.layers();
    let (first, end) = source.layers.unwrap_or((0, has));
    match end > has {
        false => Ok((first, end - first)),
        true => Err(Error::usage(format!(
            "`layer_range: [{first}, {end}]` of model `{}`, which has {has} layers",
            source.model
        ))),
    }
}

/// Checks a base model that is not among the sources: all its layers take part.
fn check_unlisted(slice: &Slice, base: &Model, layers: usize) -> Result<()> {
    if slice.sources.iter().any(|source| source.layers.is_some()) {
        let problem = format!("a slice lacks the base model `{}`", base.name);
        return Err(Error::usage(problem).remedy("list it in `sources` with its `layer_range`"));
    }
    let has = base.layers();
    if has != layers {
        return Err(Error::usage(format!(
            "base model `{}` has {has} layers, the models have {layers}",
            base.name
        )));
    }
    Ok(())
}
