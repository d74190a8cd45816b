//! What the supervised positions of a micro batch are trained towards.

use serde::{Deserialize, Serialize};

use crate::error::Result;
#[cfg(feature = "cuda")]
use crate::model::cuda;
use crate::units::TokenId;

/// What becomes of the probability outside the listed ids of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Tail {
    /// Spread over the listed ids in proportion (the papers).
    #[default]
    Renormalise,
    /// Given to the true next token.
    Label,
    /// Spread evenly over all ids that are not listed.
    Uniform,
    /// Left out: the target sums to less than one.
    Ignore,
}

/// A distribution to learn from, at one position.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Listed ids.
    pub ids: &'a [TokenId],
    /// Their probabilities.
    pub probs: &'a [f32],
    /// Probability outside the list.
    pub tail: f32,
}

/// The supervised positions of a micro batch and what each is trained towards.
///
/// # Memory
/// 17 bytes a position and 8 bytes a listed id.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Row of the flattened (batch · length) hidden states.
    pub index: Vec<u32>,
    /// The true next token.
    pub labels: Vec<TokenId>,
    pub(super) targeted: Vec<bool>,
    /// Where each row's entries begin; one more than rows.
    offsets: Vec<usize>,
    ids: Vec<TokenId>,
    probs: Vec<f32>,
    /// Probability of each id that is not listed.
    pub(super) rest: Vec<f32>,
    /// Entropy of the targets, summed.
    pub(super) entropy: f64,
    pub(super) vocabulary: usize,
}

impl Rows {
    /// No rows yet, for a model with `vocabulary` ids.
    pub fn new(vocabulary: usize) -> Self {
        Self {
            index: Vec::new(),
            labels: Vec::new(),
            targeted: Vec::new(),
            offsets: vec![0],
            ids: Vec::new(),
            probs: Vec::new(),
            rest: Vec::new(),
            entropy: 0.0,
            vocabulary,
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Number of rows that carry a target.
    pub fn targets(&self) -> usize {
        self.targeted.iter().filter(|targeted| **targeted).count()
    }

    /// Adds hidden row `index` with its label and, if it has one, its target.
    ///
    /// # Errors
    /// The reason, without the place, if the label or a listed id is outside the vocabulary, or
    /// probabilities are not numbers in [0, 1] or are all zero.
    pub fn push(
        &mut self,
        index: u32,
        label: TokenId,
        target: Option<Target<'_>>,
        tail: Tail,
    ) -> Result<(), String> {
        let inside = |id: TokenId| (id as usize) < self.vocabulary;
        if !inside(label) {
            return Err(format!(
                "token {label} is outside the model's {} rows",
                self.vocabulary
            ));
        }
        let mut rest = 0.0;
        if let Some(target) = target {
            if target.ids.len() != target.probs.len() {
                return Err("`ids` and `probs` differ in length".to_owned());
            }
            if let Some(id) = target.ids.iter().find(|id| !inside(**id)) {
                return Err(format!(
                    "target id {id} is outside the model's {} rows",
                    self.vocabulary
                ));
            }
            let all = target.probs.iter().chain(std::iter::once(&target.tail));
            if let Some(bad) = all.clone().find(|p| !(0.0..=1.001).contains(*p)) {
                return Err(format!("target probability {bad} is not in [0, 1]"));
            }
            let begin = self.ids.len();
            let listed: f32 = target.probs.iter().sum();
            self.ids.extend_from_slice(target.ids);
            match tail {
                Tail::Renormalise if listed > 0.0 => {
                    self.probs.extend(target.probs.iter().map(|p| p / listed));
                }
                Tail::Renormalise => {
                    self.ids.truncate(begin);
                    return Err("target has no probability on its listed ids".to_owned());
                }
                Tail::Label => {
                    self.probs.extend_from_slice(target.probs);
                    match target.ids.iter().position(|id| *id == label) {
                        Some(at) => self.probs[begin + at] += target.tail,
                        None => {
                            self.ids.push(label);
                            self.probs.push(target.tail);
                        }
                    }
                }
                Tail::Uniform => {
                    self.probs.extend_from_slice(target.probs);
                    let unlisted = self.vocabulary.saturating_sub(target.ids.len());
                    if unlisted > 0 {
                        rest = target.tail / unlisted as f32;
                        self.entropy -= f64::from(target.tail) * nonzero_ln(rest);
                    }
                }
                Tail::Ignore => self.probs.extend_from_slice(target.probs),
            }
            let probs = &self.probs[begin..];
            self.entropy -= probs
                .iter()
                .map(|p| f64::from(*p) * nonzero_ln(*p))
                .sum::<f64>();
        }
        self.index.push(index);
        self.labels.push(label);
        self.targeted.push(target.is_some());
        self.offsets.push(self.ids.len());
        self.rest.push(rest);
        Ok(())
    }

    /// Losses of the rows on a GPU, and with `weights` their gradient at the head.
    #[cfg(feature = "cuda")]
    pub(super) fn on_gpu(
        &self,
        hidden: &candle_core::Tensor,
        head: &candle_core::Tensor,
        cap: Option<f64>,
        weights: Option<(f64, f64)>,
    ) -> candle_core::Result<cuda::HeadLoss> {
        let offsets: Vec<u32> = self.offsets.iter().map(|offset| *offset as u32).collect();
        let targeted: Vec<u8> = self.targeted.iter().map(|yes| u8::from(*yes)).collect();
        let rows = cuda::LossRows {
            labels: &self.labels,
            offsets: &offsets,
            ids: &self.ids,
            probs: &self.probs,
            rest: &self.rest,
            targeted: &targeted,
            vocabulary: self.vocabulary,
        };
        cuda::head_loss(hidden, head, &rows, cap, weights)
    }

    /// The listed ids of a row and their probabilities.
    pub(super) fn entries(&self, row: usize) -> (&[TokenId], &[f32]) {
        let range = self.offsets[row]..self.offsets[row + 1];
        (&self.ids[range.clone()], &self.probs[range])
    }
}

/// ln p, and 0 for p = 0, so that p ln p is 0 there.
fn nonzero_ln(p: f32) -> f64 {
    if p > 0.0 { f64::from(p).ln() } else { 0.0 }
}
