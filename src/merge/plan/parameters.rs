//! The parameters of one tensor: at the model, then the slice, then the top.

use crate::error::{Error, Result};
use crate::merge::config::{MergeConfig, Settings, Slice};
use crate::merge::methods::{Configured, Kernel, Scalar};

/// What a configuration says about one tensor.
pub(in crate::merge) struct Lookup<'a> {
    /// The configuration.
    pub config: &'a MergeConfig,
    /// The slice that the tensor is in.
    pub slice: &'a Slice,
    /// Its relative depth in the slice, in 0..=1.
    pub depth: f64,
    /// The output tensor's name.
    pub tensor: &'a str,
    /// The names of the models besides the base, with those of their tensors.
    pub models: Vec<(&'a str, &'a str)>,
}

impl Lookup<'_> {
    /// The method's kernel with its parameters.
    ///
    /// # Errors
    ///
    /// Parameters that are missing, or do not fit together.
    pub fn kernel(&self) -> Result<Box<dyn Kernel>> {
        self.config.method.kernel(self, self.tensor)
    }

    /// The name of a model's tensor; the output's without a model.
    fn tensor_of(&self, model: Option<usize>) -> &str {
        model.map_or(self.tensor, |model| self.models[model].1)
    }
}

impl Configured for Lookup<'_> {
    fn models(&self) -> usize {
        self.models.len()
    }

    fn value(&self, name: &str, model: Option<usize>) -> Option<Scalar> {
        let source = model.and_then(|model| {
            let is_it = |model_name: &str| model_name == self.models[model].0;
            self.slice.sources.iter().find(|s| is_it(&s.model))
        });
        let levels = source.map(|source| &source.parameters).into_iter();
        let mut levels = levels.chain([&self.slice.parameters, &self.config.parameters]);
        let find = |settings: &Settings| {
            let (_, setting) = settings.iter().find(|(key, _)| key == name)?;
            setting.at(self.tensor_of(model), self.depth)
        };
        levels.find_map(find)
    }

    fn missing(&self, name: &str, model: Option<usize>) -> Error {
        let place = match model {
            Some(model) => format!("model `{}`", self.models[model].0),
            None => format!("`{}`", self.config.method.name),
        };
        let tensor = self.tensor_of(model);
        Error::usage(format!(
            "{place} needs the parameter `{name}` (for tensor `{tensor}`)"
        ))
        .remedy("give it under `parameters`")
    }
}
