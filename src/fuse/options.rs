//! Options of the stage.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Who teaches one target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// One source.
    #[default]
    Pairwise,
    /// All sources.
    Joint,
}

/// How a distribution is made from those of the members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// That of the member with the lowest metric.
    #[default]
    Mince,
    /// The mean, weighted by the metric.
    Avgce,
}

/// What the rule is applied to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Whole samples.
    #[default]
    Sequence,
    /// Positions, by the members' own negative log-likelihood in nats.
    Token,
}

/// What members are compared by, over a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Bits per content byte: comparable across vocabularies.
    #[default]
    Bpb,
    /// Cross-entropy in nats per token, as in the papers.
    Ce,
}

/// Weights of the mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// softmax(−metric).
    #[default]
    Softmax,
    /// softmax(exp(−metric)), as in the published code: nearly uniform.
    Published,
}

/// Options of the stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FuseOptions {
    /// Who teaches one target (default `pairwise`).
    pub mode: Mode,
    /// How a distribution is made (default `mince`).
    pub rule: Rule,
    /// What the rule is applied to (default `sequence`).
    pub level: Level,
    /// What members are compared by (default `bpb`).
    pub metric: Metric,
    /// Whether the pivot is a member, the first (default true).
    pub use_pivot: bool,
    /// Weights of the mean (default `softmax`).
    pub weights: Weights,
    /// Length of the lists, at least 1 (default: the longest of the members' at the position).
    pub top_k: Option<usize>,
}

impl Default for FuseOptions {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            rule: Rule::default(),
            level: Level::default(),
            metric: Metric::default(),
            use_pivot: true,
            weights: Weights::default(),
            top_k: None,
        }
    }
}

impl FuseOptions {
    /// Fails if an option is out of range.
    ///
    /// # Errors
    /// `top_k` of 0.
    pub fn validate(&self) -> Result<()> {
        if self.top_k == Some(0) {
            return Err(Error::usage("`top_k` is 0, expected 1 or more"));
        }
        Ok(())
    }
}
