//! Whether and how adapters are trained.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::lora::LoraConfig;
use crate::model::{Config, LoraSave, lora};

/// Which parameters are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Method {
    /// All of them.
    #[default]
    Full,
    /// Low-rank adapters of projections.
    Lora,
}

/// The projections that get an adapter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LoraTargets {
    /// All projections of the layers; not the head.
    #[default]
    AllLinear,
    /// Those whose name it is, or ends in a dot and it.
    Named(Vec<String>),
}

impl std::str::FromStr for LoraTargets {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(match text {
            "all-linear" => Self::AllLinear,
            names => Self::Named(names.split(',').map(|name| name.trim().into()).collect()),
        })
    }
}

impl Serialize for LoraTargets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            LoraTargets::AllLinear => serializer.serialize_str("all-linear"),
            LoraTargets::Named(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for LoraTargets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordOrList;
        impl<'de> serde::de::Visitor<'de> for WordOrList {
            type Value = LoraTargets;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`all-linear` or a list of projections")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                list: A,
            ) -> Result<Self::Value, A::Error> {
                let list = serde::de::value::SeqAccessDeserializer::new(list);
                Vec::deserialize(list).map(LoraTargets::Named)
            }
        }
        deserializer.deserialize_any(WordOrList)
    }
}

/// The adapters of `method: lora`. Field names are the keys of `train.lora:` in a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct LoraOptions {
    /// Rank of the adapters.
    #[arg(id = "lora_rank", long = "lora-rank", value_name = "RANK", default_value_t = LoraOptions::default().rank)]
    pub rank: usize,
    /// Strength of the adapters: what they add is multiplied by alpha / rank.
    #[arg(id = "lora_alpha", long = "lora-alpha", value_name = "ALPHA", default_value_t = LoraOptions::default().alpha)]
    pub alpha: f64,
    /// Projections to adapt, separated by commas, by the last parts of their names (`q_proj`);
    /// `all-linear` is all.
    #[arg(
        id = "lora_targets",
        long = "lora-targets",
        value_name = "NAMES|all-linear",
        default_value = "all-linear"
    )]
    pub targets: LoraTargets,
    /// Multiply by alpha / √rank instead.
    #[arg(id = "lora_rslora", long = "lora-rslora")]
    pub rslora: bool,
    /// What to write: the whole model with the adapters `merged` into it, the `adapter` alone as
    /// PEFT does, or `both`.
    #[arg(id = "lora_save", long = "lora-save", value_name = "WHAT", value_enum, default_value_t = LoraOptions::default().save)]
    pub save: LoraSave,
}

impl Default for LoraOptions {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            targets: LoraTargets::AllLinear,
            rslora: false,
            save: LoraSave::Merged,
        }
    }
}

impl LoraOptions {
    /// The adapters of a model of shape `config`.
    pub(in crate::train) fn of(&self, config: &Config) -> LoraConfig {
        let targets = match &self.targets {
            LoraTargets::AllLinear => lora::all_linear(config),
            LoraTargets::Named(names) => names.clone(),
        };
        LoraConfig {
            rslora: self.rslora,
            ..LoraConfig::new(self.rank, self.alpha, targets)
        }
    }
}
