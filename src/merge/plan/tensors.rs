//! What a merge is planned to write.

use std::sync::Arc;

use crate::merge::methods::Kernel;
use crate::merge::vocabulary::Placement;
use crate::tensors::Dtype;
use serde_json::Value;

/// Most elements of a tensor that one thread merges alone.
pub(in crate::merge) const SMALL: usize = 1 << 22;

/// One output tensor.
#[derive(Debug)]
pub(in crate::merge) struct TensorPlan {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its dtype.
    pub dtype: Dtype,
    /// The dtype that mergekit would compute in.
    pub compute_dtype: Dtype,
    /// The base's number and tensor, where the method has a base.
    pub base: Option<(usize, String)>,
    /// The models' numbers and tensors.
    pub models: Vec<(usize, String)>,
    /// The method with its parameters.
    pub kernel: Box<dyn Kernel>,
    /// Copied from the first model as it is (a tensor of integers).
    pub copy: bool,
    /// How the rows of the base and the models are rearranged, where they are.
    pub placement: Option<Arc<Placement>>,
}

impl TensorPlan {
    /// The numbers and tensors of the base, if there is one, and of the models.
    pub fn inputs(&self) -> impl Iterator<Item = &(usize, String)> {
        self.base.iter().chain(&self.models)
    }
}

/// The output's tensors and what else follows from the slices.
pub(in crate::merge) struct Matched {
    /// In the order in which they are written.
    pub tensors: Vec<TensorPlan>,
    /// The model whose config and tokenizer the output has by default.
    pub reference: usize,
    /// The output's `config.json`, but for dtype and vocabulary.
    pub config: Value,
    /// Notes for the user.
    pub notes: Vec<String>,
}
