//! Options of the stage.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Who teaches one target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Mode {
    /// One source.
    #[default]
    Pairwise,
    /// All sources.
    Joint,
}

/// How a distribution is made from those of the members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Rule {
    /// That of the member with the lowest metric.
    #[default]
    Mince,
    /// The mean, weighted by the metric.
    Avgce,
}

/// What the rule is applied to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Level {
    /// Whole samples.
    #[default]
    Sequence,
    /// Positions, by the members' own negative log-likelihood in nats.
    Token,
}

/// What members are compared by, over a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Metric {
    /// Bits per content byte: comparable across vocabularies.
    #[default]
    Bpb,
    /// Cross-entropy in nats per token, as in the papers.
    Ce,
}

/// Weights of the mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Weights {
    /// softmax(−metric).
    #[default]
    Softmax,
    /// softmax(exp(−metric)), as in FuseLLM's program. Where models are close, both are nearly
    /// uniform.
    Published,
}

/// What is learnt where MinCE chooses the pivot itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum PivotWins {
    /// Its own distribution, as in the papers: what it says already, which holds it back.
    #[default]
    Own,
    /// Certainty about the token that follows in the text.
    Text,
}

/// Options of the stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct FuseOptions {
    /// Who teaches one target.
    #[arg(long, value_enum, default_value_t = FuseOptions::default().mode)]
    pub mode: Mode,
    /// How a distribution is made.
    #[arg(long, value_enum, default_value_t = FuseOptions::default().rule)]
    pub rule: Rule,
    /// What the rule is applied to.
    #[arg(long, value_enum, default_value_t = FuseOptions::default().level)]
    pub level: Level,
    /// What members are compared by.
    #[arg(long, value_enum, default_value_t = FuseOptions::default().metric)]
    pub metric: Metric,
    /// Whether the pivot is a member, the first.
    #[arg(long, action = clap::ArgAction::Set, default_value_t = FuseOptions::default().use_pivot, value_name = "BOOL")]
    pub use_pivot: bool,
    /// What is learnt where `mince` chooses the pivot itself.
    #[arg(long, value_enum, default_value_t = FuseOptions::default().pivot_wins)]
    pub pivot_wins: PivotWins,
    /// Weights of the mean.
    #[arg(long, value_enum, default_value_t = FuseOptions::default().weights)]
    pub weights: Weights,
    /// Length of the lists, at least 1 (default: the longest of the members' at the position).
    #[arg(long)]
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
            pivot_wins: PivotWins::default(),
            weights: Weights::default(),
            top_k: None,
        }
    }
}

impl FuseOptions {
    /// The options that change rows of `targets`; those that are not in use are left out, and
    /// `mode`, which only says who the members are.
    pub fn changing(&self) -> serde_json::Value {
        let mut used = serde_json::json!({
            "rule": self.rule,
            "level": self.level,
            "use_pivot": self.use_pivot,
            "top_k": self.top_k,
        });
        if self.level == Level::Sequence {
            used["metric"] = serde_json::json!(self.metric);
        }
        if self.rule == Rule::Avgce {
            used["weights"] = serde_json::json!(self.weights);
        }
        if self.use_pivot {
            used["pivot_wins"] = serde_json::json!(self.pivot_wins);
        }
        used
    }

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
