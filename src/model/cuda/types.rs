//! What the GPU is told and what it answers, whether there is one or not.

use candle_core::Tensor;

/// Memory of a GPU, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct DeviceMemory {
    /// All of it.
    pub total: u64,
    /// What no program has taken.
    pub free: u64,
    /// The most that this program's tensors took at one time since this was last asked.
    pub peak: u64,
}

/// Best next tokens of n rows.
#[derive(Debug)]
pub(crate) struct NextTokens {
    /// (n, 2): log-probability of the target, log of the mass outside of `ids`; NaN for both
    /// where a logit is not finite.
    pub scalars: Vec<f32>,
    /// (n, k), most probable first, among equals the lowest id first.
    pub ids: Vec<u32>,
    /// (n, k).
    pub logprobs: Vec<f32>,
}

/// What each of n rows of hidden states is trained towards.
#[derive(Clone, Debug)]
pub(crate) struct LossRows {
    /// (n) The true next token.
    pub labels: Vec<u32>,
    /// (n) Whether the row has a target beside the label.
    pub targeted: Vec<bool>,
    /// (n + 1) Where each row's entries begin.
    pub offsets: Vec<usize>,
    /// Listed ids of all rows.
    pub ids: Vec<u32>,
    /// Their probabilities.
    pub probs: Vec<f32>,
    /// (n) Probability of each id that is not listed.
    pub rest: Vec<f32>,
    /// Rows of the head.
    pub vocabulary: usize,
}

/// Loss and gradient at the head.
#[derive(Debug)]
pub(crate) struct HeadLoss {
    /// (n, 2): cross-entropy with the label, cross-entropy with the target or 0.
    pub losses: Vec<f64>,
    /// Gradients for the hidden states (n, width), in their type, and for the head
    /// (vocabulary, width) in f32.
    pub gradients: Option<(Tensor, Tensor)>,
}

/// The numbers of one step of AdamW.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// Factor on the gradient.
    pub scale: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Learning rate over the first moment's bias correction.
    pub rate: f64,
    /// One over the second moment's bias correction.
    pub correction: f64,
    /// What weight decay leaves.
    pub keep: f64,
}
