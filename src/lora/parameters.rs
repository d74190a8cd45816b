//! `target_parameters`: adapted tensors that are no module's weight, as the matrices of experts.
//!
//! PEFT wraps the module that holds them once for each of them, so that A and B of the last one bear
//! the module's name, those of the one before it `.base_layer` more, and so on. A is experts · rank ×
//! in, B is out × rank · experts.
//!
//! transformers stacks the matrices of experts that a checkpoint has one by one (since version 5):
//! `gate_up_proj` has those of `gate_proj` and `up_proj` (or `w1`, `w3`) below each other.

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

/// The name of an expert's matrix in a checkpoint: in which parameter it is stacked, and whether below
/// the first half of its rows.
const STACKED: [(&str, &str, bool); 6] = [
    ("gate_proj", "gate_up_proj", false),
    ("up_proj", "gate_up_proj", true),
    ("down_proj", "down_proj", false),
    ("w1", "gate_up_proj", false),
    ("w3", "gate_up_proj", true),
    ("w2", "down_proj", false),
];

/// A tensor of the model that a parameter is, or is made of.
#[derive(Clone)]
struct Slot {
    tensor: String,
    kind: Kind,
}

/// The adapted parameters.
#[derive(Default)]
pub(super) struct Parameters {
    /// By the name of an adapter's tensor: the model's tensors, and how they are updated.
    places: BTreeMap<String, Vec<(String, Parts)>>,
}

impl Parameters {
    /// Finds the parameters that the tensors `names` of an adapter belong to.
    ///
    /// # Errors
    /// Parameters that the model lacks; an order that is not known.
    pub fn find(adapter: &Adapter, base: &Base, names: &[String]) -> Result<Self> {
        let settings = &adapter.settings;
        let mut found = Self::default();
        if settings.parameters.is_empty() {
            return Ok(found);
        }
        let modules = modules(adapter, base)?;
        for name in names {
            let inner = name.strip_prefix(PREFIX).unwrap_or_default();
            let Some((wrapper, Part::A | Part::B)) = part(inner) else {
                continue;
            };
            let module = wrapper.trim_end_matches(BELOW);
            let Some(parameters) = modules.get(&of_version_5(module)) else {
                continue;
            };
            let depth = (wrapper.len() - module.len()) / BELOW.len();
            let at = parameters.len().checked_sub(depth + 1);
            let Some((parameter, slots)) = at.and_then(|at| parameters.get(at)) else {
                let problem = "there are fewer `target_parameters` than wrappers around its module";
                return Err(adapter.bad(name, problem));
            };
            let key = format!("{module}.{parameter}");
            let (rank, scale) = (settings.rank(&key), settings.scale(&key));
            let parts = slots.iter().map(|slot| {
                let parts = Parts::new(slot.kind, rank, scale);
                (slot.tensor.clone(), parts)
            });
            found.places.insert(name.clone(), parts.collect());
        }
        Ok(found)
    }

    /// The model's tensors that an adapter's tensor belongs to, and how they are updated.
    pub fn place(&self, name: &str) -> Option<&[(String, Parts)]> {
        self.places.get(name).map(Vec::as_slice)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}

/// The parameters of a module in the order of their wrappers, and what each is made of.
type Wrapped = Vec<(String, Vec<Slot>)>;

/// By the module that holds them: the adapted parameters.
fn modules(adapter: &Adapter, base: &Base) -> Result<BTreeMap<String, Wrapped>> {
    let targets = &adapter.settings.parameters;
    let is_target = |name: &str| targets.iter().any(|target| names_module(target, name));
    let mut all: BTreeMap<String, BTreeMap<String, Vec<Slot>>> = BTreeMap::new();
    for tensor in base.tensors() {
        let name = of_version_5(tensor);
        let (parameter, kind) = match stacked(base, &name) {
            Some((parameter, kind)) if is_target(&parameter) => (parameter, kind),
            _ if is_target(tensor) || is_target(&name) => {
                let kind = kind(base, tensor);
                (name, kind)
            }
            _ => continue,
        };
        if let Some((module, parameter)) = parameter.rsplit_once('.') {
            let parameters = all.entry(module.to_owned()).or_default();
            parameters
                .entry(parameter.to_owned())
                .or_default()
                .push(Slot {
                    tensor: tensor.to_owned(),
                    kind,
                });
        }
    }
    if all.is_empty() {
        let problem = "`target_parameters` names no tensor of the model";
        return Err(adapter
            .unfit(problem)
            .remedy("PEFT does not apply such an adapter"));
    }
    let place = |name: &str| ORDER.iter().position(|known| *known == name);
    let sorted = all.into_iter().map(|(module, parameters)| {
        let mut parameters: Wrapped = parameters.into_iter().collect();
        if parameters.len() > 1 && parameters.iter().any(|(name, _)| place(name).is_none()) {
            let names: Vec<&str> = parameters.iter().map(|(name, _)| name.as_str()).collect();
            let names = names.join(" and ");
            return Err(adapter.unfit(format!(
                "`target_parameters` names {names} of `{module}`, whose order is not known"
            )));
        }
        parameters.sort_by_key(|(name, _)| place(name));
        Ok((module, parameters))
    });
    sorted.collect()
}

/// The name that a module or tensor has in transformers since version 5.
fn of_version_5(name: &str) -> String {
    name.replace(".block_sparse_moe.", ".mlp.")
}

/// The parameter in which the matrix of an expert is stacked, and where.
fn stacked(base: &Base, name: &str) -> Option<(String, Kind)> {
    let (module, matrix) = name.strip_suffix(".weight")?.rsplit_once('.')?;
    let (experts, number) = module.rsplit_once('.')?;
    let expert = number.parse().ok()?;
    let known = STACKED.iter().find(|(own, ..)| *own == matrix);
    let (_, parameter, below) = known.filter(|_| experts.ends_with(".experts"))?;
    let others = base.tensors().filter_map(|tensor| {
        let name = of_version_5(tensor);
        let rest = name.strip_prefix(experts)?.strip_prefix('.')?;
        rest.split_once('.')?.0.parse::<usize>().ok()
    });
    let kind = Kind::Expert {
        expert,
        experts: others.max().map_or(1, |last| last + 1),
        halves: if *parameter == "gate_up_proj" { 2 } else { 1 },
        second: *below,
    };
    Some((format!("{experts}.{parameter}"), kind))
}

/// How a parameter that the model has as one tensor is updated.
fn kind(base: &Base, tensor: &str) -> Kind {
    match base.shape(tensor) {
        Some(&[experts, _, _]) if base.has_transposed_experts() => Kind::TransposedExperts(experts),
        Some(&[experts, _, _]) => Kind::Experts(experts),
        _ => Kind::Linear,
    }
}
