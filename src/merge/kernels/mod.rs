//! What is done with one tensor: pure functions over its elements.
//!
//! | file | methods | passes over the inputs |
//! |---|---|---|
//! | `affine` | linear, passthrough; varm, slerp, nuslerp, multislerp, karcher, model_stock | 1; 2 |
//! | `rows` | nuslerp and model_stock with an angle per row | 1 to 2 |
//! | `sparse` | task_arithmetic; dare, della; ties, breadcrumbs | 1; 2; 2 to 3 |
//! | `sce`, `variance` | sce | 2 |
//! | `rounded` | sce with `compat: mergekit`, not in f32 | 4 |
//! | `special` | nearswap; arcee_fusion | 1; 2 |
//!
//! Selections take up to four passes more where a sample of the tensor misleads.

mod affine;
mod rounded;
mod rows;
mod sce;
mod sparse;
mod special;
mod variance;

use super::blocks::{Inputs, Output, Walk};
use super::config::Scalar;
use super::methods::{Family, Method};
use crate::error::Result;
use crate::tensors::Dtype;

/// Parameters with their values for one tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values(pub Vec<(&'static str, Scalar)>);

impl Values {
    fn get(&self, name: &str) -> Option<&Scalar> {
        self.0.iter().find(|(key, _)| *key == name).map(|(_, v)| v)
    }

    /// A number; NaN where it is absent, which the table of methods rules out.
    pub fn number(&self, name: &str) -> f64 {
        match self.get(name) {
            Some(Scalar::Number(value)) => *value,
            _ => f64::NAN,
        }
    }

    /// A flag.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Scalar::Flag(true)))
    }

    /// A word.
    pub fn word(&self, name: &str) -> &str {
        match self.get(name) {
            Some(Scalar::Word(word)) => word,
            _ => "",
        }
    }
}

/// One tensor to merge.
pub struct Job<'a> {
    /// The output tensor's name.
    pub name: &'a str,
    /// The method.
    pub method: &'static Method,
    /// The walk over the elements.
    pub walk: Walk,
    /// The tensors.
    pub inputs: Inputs<'a>,
    /// The models' names, in the order of `inputs.models`.
    pub models: Vec<&'a str>,
    /// Parameters that are one for all models.
    pub values: Values,
    /// Parameters of each model.
    pub per_model: Vec<Values>,
    /// The dtype that mergekit would compute in, for `compat: mergekit`.
    pub compute_dtype: Dtype,
    /// Whether the tensor has one dimension (or none).
    pub vector: bool,
}

impl Job<'_> {
    fn weights(&self) -> Vec<f64> {
        self.per_model.iter().map(|v| v.number("weight")).collect()
    }

    fn count(&self) -> usize {
        self.inputs.models.len()
    }
}

/// What a model contributed to a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// The factor of the model's update (or tensor).
    pub coefficient: f64,
    /// Share of positions that were selected, in 0..=1.
    pub selected_fraction: f64,
    /// Share of positions where the model's entry was used, in 0..=1.
    pub kept_fraction: f64,
    /// L2 norm of the model's difference from the base; of the model where there is no base.
    pub delta_norm: f64,
}

/// Something a user should know about a tensor.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum Remark {
    /// SCE with one target: there is no variance to select by.
    OneTarget,
    /// `compat: mergekit`: coefficients fell back to uniform.
    Uniform,
    /// Spherical means of vectors that cancel out: fell back to the linear mean.
    Antipodal,
}

/// What merging one tensor gave besides the tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// One entry per model.
    pub shares: Vec<Share>,
    /// What a user should know.
    pub remarks: Vec<Remark>,
    /// Whether all values that were read and stored are finite.
    pub finite: bool,
}

impl Outcome {
    /// With the number of stored values that are not finite. A value that was read shows in the
    /// norm of the model's difference.
    fn new(shares: Vec<Share>, not_finite: Option<&f64>) -> Self {
        let stored = not_finite.is_none_or(|count| *count == 0.0);
        let finite = stored && shares.iter().all(|share| share.delta_norm.is_finite());
        Self {
            shares,
            remarks: Vec::new(),
            finite,
        }
    }

    /// Of a tensor that nothing was computed for.
    pub fn empty() -> Self {
        Self::new(Vec::new(), None)
    }

    fn with(mut self, remark: Option<Remark>) -> Self {
        self.remarks.extend(remark);
        self
    }
}

/// Merges one tensor.
///
/// # Errors
///
/// A failed write, or the user's wish to stop.
pub fn merge(job: &Job<'_>, output: &Output<'_>) -> Result<Outcome> {
    if job.walk.len == 0 {
        return Ok(Outcome::empty());
    }
    match job.method.family {
        Family::Linear
        | Family::Passthrough
        | Family::Varm
        | Family::Slerp
        | Family::MultiSlerp
        | Family::Karcher => affine::merge(job, output),
        Family::NuSlerp if job.values.flag("nuslerp_flatten") => affine::merge(job, output),
        Family::ModelStock if !job.values.flag("filter_wise") => affine::merge(job, output),
        Family::NuSlerp => rows::nuslerp(job, output),
        Family::ModelStock => rows::model_stock(job, output),
        Family::TaskArithmetic {
            sparsify,
            consensus,
        } => sparse::merge(job, sparsify, consensus, output),
        Family::Sce => sce::merge(job, output),
        Family::NearSwap => special::nearswap(job, output),
        Family::ArceeFusion => special::arcee_fusion(job, output),
    }
}
