//! What the supervised positions of a micro batch are trained towards.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::model::cuda::LossRows;
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
    /// Labels and targets.
    pub(super) columns: LossRows,
    /// Entropy of the targets, summed.
    pub(super) entropy: f64,
}

impl Rows {
    /// No rows yet, for a model with `vocabulary` ids.
    pub fn new(vocabulary: usize) -> Self {
        Self {
            index: Vec::new(),
            columns: LossRows {
                labels: Vec::new(),
                targeted: Vec::new(),
                offsets: vec![0],
                ids: Vec::new(),
                probs: Vec::new(),
                rest: Vec::new(),
                vocabulary,
            },
            entropy: 0.0,
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.columns.labels.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.columns.labels.is_empty()
    }

    /// Number of rows that carry a target.
    pub fn targets(&self) -> usize {
        self.columns
            .targeted
            .iter()
            .filter(|targeted| **targeted)
            .count()
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
        let vocabulary = self.columns.vocabulary;
        if label as usize >= vocabulary {
            return Err(format!(
                "token {label} is outside the model's {vocabulary} rows"
            ));
        }
        let rest = match target {
            Some(target) => {
                check(target, vocabulary)?;
                self.push_target(label, target, tail)?
            }
            None => 0.0,
        };
        self.index.push(index);
        let columns = &mut self.columns;
        columns.labels.push(label);
        columns.targeted.push(target.is_some());
        columns.offsets.push(columns.ids.len());
        columns.rest.push(rest);
        Ok(())
    }

    /// Adds the entries of a target; returns the probability of each id that is not listed.
    fn push_target(
        &mut self,
        label: TokenId,
        target: Target<'_>,
        tail: Tail,
    ) -> Result<f32, String> {
        let LossRows {
            ids,
            probs,
            vocabulary,
            ..
        } = &mut self.columns;
        let mut rest = 0.0;
        let begin = ids.len();
        let listed: f32 = target.probs.iter().sum();
        if tail == Tail::Renormalise && listed <= 0.0 {
            return Err("target has no probability on its listed ids".to_owned());
        }
        ids.extend_from_slice(target.ids);
        match tail {
            Tail::Renormalise => probs.extend(target.probs.iter().map(|p| p / listed)),
            Tail::Label => {
                probs.extend_from_slice(target.probs);
                match target.ids.iter().position(|id| *id == label) {
                    Some(at) => probs[begin + at] += target.tail,
                    None => {
                        ids.push(label);
                        probs.push(target.tail);
                    }
                }
            }
            Tail::Uniform => {
                probs.extend_from_slice(target.probs);
                let unlisted = vocabulary.saturating_sub(target.ids.len());
                if unlisted > 0 {
                    rest = target.tail / unlisted as f32;
                    self.entropy -= f64::from(target.tail) * nonzero_ln(rest);
                }
            }
            Tail::Ignore => probs.extend_from_slice(target.probs),
        }
        self.entropy -= probs[begin..]
            .iter()
            .map(|p| f64::from(*p) * nonzero_ln(*p))
            .sum::<f64>();
        Ok(rest)
    }

    /// The listed ids of a row and their probabilities.
    pub(super) fn entries(&self, row: usize) -> (&[TokenId], &[f32]) {
        let columns = &self.columns;
        let range = columns.offsets[row]..columns.offsets[row + 1];
        (&columns.ids[range.clone()], &columns.probs[range])
    }
}

/// Refuses a target that does not fit the vocabulary, or is no distribution.
fn check(target: Target<'_>, vocabulary: usize) -> Result<(), String> {
    if target.ids.len() != target.probs.len() {
        return Err("`ids` and `probs` differ in length".to_owned());
    }
    if let Some(id) = target.ids.iter().find(|id| **id as usize >= vocabulary) {
        return Err(format!(
            "target id {id} is outside the model's {vocabulary} rows"
        ));
    }
    let mut all = target.probs.iter().chain(std::iter::once(&target.tail));
    match all.find(|p| !(0.0..=1.001).contains(*p)) {
        Some(bad) => Err(format!("target probability {bad} is not in [0, 1]")),
        None => Ok(()),
    }
}

/// ln p, and 0 for p = 0, so that p ln p is 0 there.
fn nonzero_ln(p: f32) -> f64 {
    if p > 0.0 { f64::from(p).ln() } else { 0.0 }
}
