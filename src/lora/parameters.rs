//! `target_parameters`: adapted tensors that are no module's weight, as the matrices of experts.
//!
//! PEFT wraps the module that holds them once for each of them, so that A and B of the last one bear
//! the module's name, those of the one before it `.base_layer` more, and so on. A is experts · rank ×
//! in, B is out × rank · experts.

use std::collections::BTreeMap;

use super::adapter::Adapter;
use super::base::Base;
use super::names::{PREFIX, Part, names_module, part};
use super::parts::{Kind, Parts};
use crate::error::Result;

/// What is below a wrapped module.
const BELOW: &str = ".base_layer";

/// The order in which modules define their parameters, where they have several.
const ORDER: [&str; 12] = [
    "gate_up_proj",
    "gate_up_proj_bias",
    "gate_proj",
    "w1",
    "up_proj",
    "w3",
    "v1",
    "down_proj",
    "down_proj_bias",
    "w2",
    "input_linear",
    "output_linear",
];

/// The adapted parameters.
#[derive(Default)]
pub(super) struct Parameters {
    /// By the name of an adapter's tensor: the model's tensor, and how it is updated.
    places: BTreeMap<String, (String, Parts)>,
}

impl Parameters {
    /// Finds the parameters that the tensors `names` of an adapter belong to.
    ///
    /// # Errors
    /// Parameters that the model lacks, or has in another form; an order that is not known.
    pub fn find(adapter: &Adapter, base: &Base, names: &[String]) -> Result<Self> {
        let settings = &adapter.settings;
        let mut found = Self::default();
        if settings.parameters.is_empty() {
            return Ok(found);
        }
        // By the module that holds them: the parameters, in the order of their wrappers.
        let mut modules: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for tensor in base.tensors() {
            let mut targets = settings.parameters.iter();
            if targets.any(|target| names_module(target, tensor))
                && let Some((module, parameter)) = tensor.rsplit_once('.')
            {
                modules.entry(module).or_default().push(parameter);
            }
        }
        if modules.is_empty() {
            return Err(adapter
                .unfit("`target_parameters` names no tensor of the model")
                .remedy(
                    "adapters of experts that the model stores one by one are read where they name \
                     the experts' modules (`target_modules`)",
                ));
        }
        let place = |name: &str| ORDER.iter().position(|known| known == &name);
        for (module, parameters) in &mut modules {
            if parameters.len() > 1 && parameters.iter().any(|name| place(name).is_none()) {
                let problem = format!(
                    "`target_parameters` names {} of `{module}`, whose order is not known",
                    parameters.join(" and ")
                );
                return Err(adapter.unfit(problem));
            }
            parameters.sort_by_key(|name| place(name));
        }
        for name in names {
            let inner = name.strip_prefix(PREFIX).unwrap_or_default();
            let Some((wrapper, Part::A | Part::B)) = part(inner) else {
                continue;
            };
            let module = wrapper.trim_end_matches(BELOW);
            let Some(parameters) = modules.get(module) else {
                continue;
            };
            let depth = (wrapper.len() - module.len()) / BELOW.len();
            let at = parameters.len().checked_sub(depth + 1);
            let Some(parameter) = at.and_then(|at| parameters.get(at)) else {
                let problem = "there are fewer `target_parameters` than wrappers around its module";
                return Err(adapter.bad(name, problem));
            };
            let tensor = format!("{module}.{parameter}");
            let parts = Self::parts(adapter, base, &tensor);
            found.places.insert(name.clone(), (tensor, parts));
        }
        Ok(found)
    }

    /// How a parameter is updated.
    fn parts(adapter: &Adapter, base: &Base, tensor: &str) -> Parts {
        let settings = &adapter.settings;
        let kind = match base.shape(tensor) {
            Some(&[experts, _, _]) if base.has_transposed_experts() => {
                Kind::TransposedExperts(experts)
            }
            Some(&[experts, _, _]) => Kind::Experts(experts),
            _ => Kind::Linear,
        };
        Parts::new(kind, settings.rank(tensor), settings.scale(tensor))
    }

    /// The model's tensor that an adapter's tensor belongs to, and how it is updated.
    pub fn place(&self, name: &str) -> Option<(&str, &Parts)> {
        let (tensor, parts) = self.places.get(name)?;
        Some((tensor, parts))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}
