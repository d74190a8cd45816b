//! Slices with their models and layers looked up.

use crate::error::{Error, Result};
use crate::merge::config::{MergeConfig, Slice, Source};
use crate::merge::inputs::Model;
use crate::merge::methods::Base;
use crate::merge::stacks::Stacks;

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

/// Looks up the models and layers of all slices; there is at least one.
///
/// # Errors
///
/// Those of [`Stack::new`], a configuration without a slice.
pub(super) fn stack<'a>(config: &'a MergeConfig, models: &[Model]) -> Result<Vec<Stack<'a>>> {
    let layers: Vec<Stacks> = models.iter().map(Stacks::of).collect();
    let slices = config.slices.iter();
    let slices = slices.map(|slice| Stack::new(config, models, &layers, slice));
    let slices = slices.collect::<Result<Vec<_>>>()?;
    match slices.is_empty() {
        false => Ok(slices),
        true => Err(Error::usage("the merge configuration has no slice")),
    }
}

impl<'a> Stack<'a> {
    /// Looks up the models and layers of a slice.
    ///
    /// # Errors
    ///
    /// Layers that a model does not have, models with different numbers of layers.
    fn new(
        config: &MergeConfig,
        models: &[Model],
        stacks: &[Stacks],
        slice: &'a Slice,
    ) -> Result<Self> {
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
            let (first, count) = range(source, &models[number], &stacks[number])?;
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
            check_unlisted(slice, &models[base], stacks[base].layers(), layers)?;
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
fn range(source: &Source, model: &Model, stacks: &Stacks) -> Result<(usize, usize)> {
    let has = stacks.layers();
    let Some((first, end)) = source.layers else {
        return Ok((0, has));
    };
    if end > has {
        return Err(Error::usage(format!(
            "`layer_range: [{first}, {end}]` of model `{}`, which has {has} layers",
            source.model
        )));
    }
    // Ranges mean the same layers of encoder and decoder.
    if let Some((prefix, short)) = stacks.shorter()
        && (first, end) != (0, has)
    {
        return Err(Error::input(
            model.dir.display(),
            format!(
                "`layer_range: [{first}, {end}]`: `{prefix}` has {short} layers, the model {has}; \
                 it is not known which layers are meant"
            ),
        )
        .remedy("only models whose encoder and decoder have equally many layers can be cut"));
    }
    Ok((first, end - first))
}

/// Checks a base model that is not among the sources: all its layers take part.
fn check_unlisted(slice: &Slice, base: &Model, has: usize, layers: usize) -> Result<()> {
    if slice.sources.iter().any(|source| source.layers.is_some()) {
        let problem = format!("a slice lacks the base model `{}`", base.name);
        return Err(Error::usage(problem).remedy("list it in `sources` with its `layer_range`"));
    }
    if has != layers {
        return Err(Error::usage(format!(
            "base model `{}` has {has} layers, the models have {layers}",
            base.name
        )));
    }
    Ok(())
}
