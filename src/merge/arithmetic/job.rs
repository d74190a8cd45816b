//! One tensor to merge, and what merging it gives besides the tensor.

use super::blocks::{Inputs, Walk};
use crate::tensors::Dtype;

/// One tensor to merge.
pub struct Job<'a> {
    /// The output tensor's name.
    pub name: &'a str,
    /// The walk over the elements.
    pub walk: Walk,
    /// The tensors.
    pub inputs: Inputs<'a>,
    /// The models' names, in the order of `inputs.models`.
    pub models: Vec<&'a str>,
    /// The dtype that mergekit would compute in.
    pub compute_dtype: Dtype,
    /// The tensor's shape.
    pub shape: &'a [usize],
}

impl Job<'_> {
    /// The number of models besides the base.
    pub fn count(&self) -> usize {
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
    /// Model Stock of updates that cancel out: the base is kept.
    Cancelled,
    /// The Karcher mean of directions that cancel out: the first direction is kept.
    FirstDirection,
}

impl Remark {
    /// What the user is told.
    pub fn text(self) -> &'static str {
        match self {
            Self::OneTarget => {
                "there is one target, so that no position varies: `select_topk` has no effect \
                 and the target is returned"
            }
            Self::Uniform => {
                "`compat: mergekit` uses uniform coefficients, as the mean squared updates \
                 sum to less than 1e-6"
            }
            Self::Antipodal => "the models' directions cancel out: the linear mean is used instead",
            Self::Cancelled => {
                "the updates cancel out, so that their angle gives no finite ratio: the base is \
                 kept there"
            }
            Self::FirstDirection => {
                "the models' directions cancel out and have no mean: that of the first model is kept"
            }
        }
    }
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
    pub fn new(shares: Vec<Share>, not_finite: Option<&f64>) -> Self {
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

    /// With a remark, if there is one.
    pub fn with(mut self, remark: Option<Remark>) -> Self {
        self.remarks.extend(remark);
        self
    }
}
