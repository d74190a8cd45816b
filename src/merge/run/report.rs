//! What a merge did, for people and as rows.

use std::collections::BTreeMap;

use crate::merge::arithmetic::{Outcome, Remark, Share};
use crate::merge::plan::Plan;

/// What one model contributed to one tensor: a row of `merge_stats`.
#[derive(Clone, Debug, PartialEq)]
pub struct MergeStat {
    /// The output tensor.
    pub tensor: String,
    /// The model as written in the configuration.
    pub model: String,
    /// The factor of the model's update (or tensor).
    pub coefficient: f64,
    /// Share of positions that were selected, in 0..=1.
    pub selected_fraction: f64,
    /// Share of positions where the model's entry was used, in 0..=1.
    pub kept_fraction: f64,
    /// L2 norm of the model's difference from the base (of the model where there is no base).
    pub delta_norm: f64,
}

impl MergeStat {
    /// Of a tensor and a model.
    pub(in crate::merge) fn new(tensor: &str, model: &str, share: &Share) -> Self {
        Self {
            tensor: tensor.to_owned(),
            model: model.to_owned(),
            coefficient: share.coefficient,
            selected_fraction: share.selected_fraction,
            kept_fraction: share.kept_fraction,
            delta_norm: share.delta_norm,
        }
    }
}

/// What a merge did.
#[derive(Clone, Debug)]
pub struct MergeSummary {
    /// Output tensors.
    pub tensors: usize,
    /// Tensors that an interrupted run had finished before.
    pub resumed: usize,
    /// Bytes read from the inputs, passes counted.
    pub bytes_read: u64,
    /// Bytes of the output's weights.
    pub bytes_written: u64,
    /// One row per tensor and model.
    pub stats: Vec<MergeStat>,
    /// What the user was warned about.
    pub warnings: Vec<String>,
}

/// One row per tensor and model.
pub(super) fn stats(plan: &Plan, outcomes: &[Outcome]) -> Vec<MergeStat> {
    let mut rows = Vec::new();
    for (tensor, outcome) in plan.matched.tensors.iter().zip(outcomes) {
        for ((number, _), share) in tensor.models.iter().zip(&outcome.shares) {
            let model = &plan.models[*number].name;
            rows.push(MergeStat::new(&tensor.name, model, share));
        }
    }
    rows
}

/// One line per kind of remark, with the tensors it is about.
pub(super) fn warnings(plan: &Plan, outcomes: &[Outcome]) -> Vec<String> {
    let mut kinds: BTreeMap<Remark, Vec<&str>> = BTreeMap::new();
    for (tensor, outcome) in plan.matched.tensors.iter().zip(outcomes) {
        for remark in &outcome.remarks {
            kinds.entry(*remark).or_default().push(&tensor.name);
        }
    }
    kinds
        .into_iter()
        .map(|(remark, tensors)| {
            let what = remark.text();
            let shown = tensors.iter().take(3).map(|t| format!("`{t}`"));
            let shown = shown.collect::<Vec<_>>().join(", ");
            match tensors.len() {
                0..=3 => format!("{what} (tensors {shown})"),
                n => format!("{what} ({n} tensors: {shown}, ...)"),
            }
        })
        .collect()
}
