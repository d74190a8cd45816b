//! Options of `train`, the same in a recipe and on the command line.

use std::path::PathBuf;

use candle_core::DType;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::rows::Tail;
use super::schedule::Schedule;
use crate::error::{Error, Result};

/// Which parameters are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Method {
    /// All of them.
    #[default]
    Full,
}

/// Type of the parameters and activations; masters, moments and the loss are f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats with the exponent of f32. Slower than f32 on a CPU.
    Bf16,
}

impl Precision {
    /// The type in the model.
    pub fn dtype(self) -> DType {
        match self {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        }
    }
}

/// Padded tokens of a micro batch: a number, or `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MicroBatchTokens {
    /// Chosen by the size of the model.
    #[default]
    Auto,
    /// At most so many, except that a longer sample is a micro batch of its own.
    AtMost(usize),
}

impl Serialize for MicroBatchTokens {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            MicroBatchTokens::Auto => serializer.serialize_str("auto"),
            MicroBatchTokens::AtMost(n) => serializer.serialize_u64(*n as u64),
        }
    }
}

impl<'de> Deserialize<'de> for MicroBatchTokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AutoOrNumber;
        impl serde::de::Visitor<'_> for AutoOrNumber {
            type Value = MicroBatchTokens;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`auto` or a number of tokens")
            }

            fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<Self::Value, E> {
                let n = usize::try_from(n).map_err(E::custom)?;
                Ok(MicroBatchTokens::AtMost(n))
            }

            fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<Self::Value, E> {
                self.visit_u64(u64::try_from(n).map_err(E::custom)?)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(AutoOrNumber)
    }
}

impl std::str::FromStr for MicroBatchTokens {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let number = text.parse().map(Self::AtMost);
        number.map_err(|_| format!("expected `auto` or a number of tokens, found `{text}`"))
    }
}

/// Whether layers are computed a second time for their gradients instead of keeping what they
/// computed: `true`, `false`, or `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checkpointing {
    /// Where the activations of a micro batch would take much memory.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl Serialize for Checkpointing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Checkpointing::Auto => serializer.serialize_str("auto"),
            Checkpointing::On => serializer.serialize_bool(true),
            Checkpointing::Off => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for Checkpointing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AutoOrBool;
        impl serde::de::Visitor<'_> for AutoOrBool {
            type Value = Checkpointing;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`auto`, `true` or `false`")
            }

            fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<Self::Value, E> {
                Ok(match on {
                    true => Checkpointing::On,
                    false => Checkpointing::Off,
                })
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(AutoOrBool)
    }
}

impl std::str::FromStr for Checkpointing {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "true" => Ok(Self::On),
            "false" => Ok(Self::Off),
            _ => Err(format!(
                "expected `auto`, `true` or `false`, found `{text}`"
            )),
        }
    }
}

/// How a model is trained. Field names are the keys of `train:` in a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct TrainOptions {
    /// Share of the next-token loss; the rest goes to the targets. 1 ignores them. Default 0.9.
    #[arg(long, default_value_t = TrainOptions::default().lambda, hide_default_value = true)]
    pub lambda: f64,
    /// Peak learning rate. Default 5e-6.
    #[arg(long, default_value_t = TrainOptions::default().lr, hide_default_value = true)]
    pub lr: f64,
    /// Passes over the samples. Default 3.
    #[arg(long, default_value_t = TrainOptions::default().epochs, hide_default_value = true)]
    pub epochs: u32,
    /// Stop after so many optimiser steps, if the epochs are not over before.
    #[arg(long)]
    pub max_steps: Option<u64>,
    /// Most tokens of an optimiser step, on average. Default 262,144.
    #[arg(long, default_value_t = TrainOptions::default().batch_tokens, hide_default_value = true)]
    pub batch_tokens: usize,
    /// Padded tokens that are computed at once: more memory, but not other results (beyond
    /// rounding). Default `auto`.
    #[arg(
        long,
        default_value = "auto",
        hide_default_value = true,
        value_name = "N|auto"
    )]
    pub micro_batch_tokens: MicroBatchTokens,
    /// Compute layers a second time for their gradients: less memory, more time, same result.
    /// Default `auto`.
    #[arg(
        long,
        default_value = "auto",
        hide_default_value = true,
        value_name = "true|false|auto"
    )]
    pub gradient_checkpointing: Checkpointing,
    /// Put several short samples into a row, without attention between them, instead of padding:
    /// not other results (beyond rounding). Default `true`.
    #[arg(
        long,
        default_value_t = TrainOptions::default().packing,
        hide_default_value = true,
        action = clap::ArgAction::Set
    )]
    pub packing: bool,
    /// Share of the steps in which the learning rate rises. Default 0.03.
    #[arg(long, default_value_t = TrainOptions::default().warmup_ratio, hide_default_value = true)]
    pub warmup_ratio: f64,
    /// How the learning rate falls afterwards. Default `cosine`.
    #[arg(long, value_enum, default_value_t = TrainOptions::default().schedule, hide_default_value = true)]
    pub schedule: Schedule,
    /// Decay of matrices, relative to the learning rate. Default 0.
    #[arg(long, default_value_t = TrainOptions::default().weight_decay, hide_default_value = true)]
    pub weight_decay: f64,
    /// Decay of AdamW's first moment. Default 0.9.
    #[arg(long, default_value_t = TrainOptions::default().beta1, hide_default_value = true)]
    pub beta1: f64,
    /// Decay of AdamW's second moment. Default 0.95.
    #[arg(long, default_value_t = TrainOptions::default().beta2, hide_default_value = true)]
    pub beta2: f64,
    /// Added to the root of AdamW's second moment. Default 1e-8.
    #[arg(long, default_value_t = TrainOptions::default().eps, hide_default_value = true)]
    pub eps: f64,
    /// Largest norm of the gradient; 0 does not clip. Default 1.
    #[arg(long, default_value_t = TrainOptions::default().clip, hide_default_value = true)]
    pub clip: f64,
    /// What becomes of the probability outside a target's list. Default `renormalise`.
    #[arg(long, value_enum, default_value_t = TrainOptions::default().tail, hide_default_value = true)]
    pub tail: Tail,
    /// Which parameters are trained. Default `full`.
    #[arg(long, value_enum, default_value_t = TrainOptions::default().method, hide_default_value = true)]
    pub method: Method,
    /// Type of parameters and activations, and of the written model. Default `f32`.
    #[arg(long, value_enum, default_value_t = TrainOptions::default().dtype, hide_default_value = true)]
    pub dtype: Precision,
    /// Seed of the sample order, and of random initial weights. Default 42.
    #[arg(long, default_value_t = TrainOptions::default().seed, hide_default_value = true)]
    pub seed: u64,
    /// Chat or text file whose loss is logged after each epoch.
    #[arg(long)]
    pub valid: Option<PathBuf>,
    /// Optimiser steps between two saved states. By default a state is saved about every minute,
    /// less often where saving takes long.
    #[arg(long)]
    pub checkpoint_every: Option<u64>,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self {
            lambda: 0.9,
            lr: 5e-6,
            epochs: 3,
            max_steps: None,
            batch_tokens: 262_144,
            micro_batch_tokens: MicroBatchTokens::Auto,
            gradient_checkpointing: Checkpointing::Auto,
            packing: true,
            warmup_ratio: 0.03,
            schedule: Schedule::Cosine,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            clip: 1.0,
            tail: Tail::Renormalise,
            method: Method::Full,
            dtype: Precision::F32,
            seed: 42,
            valid: None,
            checkpoint_every: None,
        }
    }
}

impl TrainOptions {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the option, what it may be and what it is.
    pub fn validate(&self) -> Result<()> {
        let check = |name: &str, value: f64, allowed: &str, good: bool| {
            if good {
                return Ok(());
            }
            Err(Error::usage(format!(
                "`train.{name}` must be {allowed}, found {value}"
            )))
        };
        let unit = |value: f64| (0.0..=1.0).contains(&value);
        let decay = |value: f64| (0.0..1.0).contains(&value);
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let not_negative = |value: f64| value >= 0.0 && value.is_finite();
        check("lambda", self.lambda, "between 0 and 1", unit(self.lambda))?;
        check("lr", self.lr, "above 0", positive(self.lr))?;
        check("epochs", self.epochs.into(), "at least 1", self.epochs > 0)?;
        check(
            "warmup_ratio",
            self.warmup_ratio,
            "between 0 and 1",
            unit(self.warmup_ratio),
        )?;
        check(
            "weight_decay",
            self.weight_decay,
            "at least 0",
            not_negative(self.weight_decay),
        )?;
        check(
            "beta1",
            self.beta1,
            "at least 0 and below 1",
            decay(self.beta1),
        )?;
        check(
            "beta2",
            self.beta2,
            "at least 0 and below 1",
            decay(self.beta2),
        )?;
        check("eps", self.eps, "above 0", positive(self.eps))?;
        check("clip", self.clip, "at least 0", not_negative(self.clip))?;
        let counts = [
            ("max_steps", self.max_steps),
            ("checkpoint_every", self.checkpoint_every),
            ("batch_tokens", Some(self.batch_tokens as u64)),
            (
                "micro_batch_tokens",
                match self.micro_batch_tokens {
                    MicroBatchTokens::Auto => None,
                    MicroBatchTokens::AtMost(n) => Some(n as u64),
                },
            ),
        ];
        counts
            .into_iter()
            .try_for_each(|(name, n)| check(name, 0.0, "at least 1", n != Some(0)))
    }

    /// The options that change the result, for provenance.
    pub(super) fn fingerprint(&self) -> serde_json::Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Some(map) = value.as_object_mut() {
            // The validation set counts by its content, not by its path.
            map.remove("valid");
            map.remove("checkpoint_every");
            // The same operations, only again.
            map.remove("gradient_checkpointing");
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_survive_a_round_trip_and_reject_what_they_do_not_know() {
        let options: TrainOptions =
            serde_json::from_str(r#"{"lr": 1e-3, "micro_batch_tokens": 512, "tail": "label"}"#)
                .unwrap();
        assert_eq!(options.micro_batch_tokens, MicroBatchTokens::AtMost(512));
        assert_eq!((options.lr, options.tail), (1e-3, Tail::Label));
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(
            serde_json::from_str::<TrainOptions>(&text).unwrap(),
            options
        );
        let auto: TrainOptions = serde_json::from_str(r#"{"micro_batch_tokens": "auto"}"#).unwrap();
        assert_eq!(auto, TrainOptions::default());
        for (json, found) in [
            ("\"auto\"", Checkpointing::Auto),
            ("true", Checkpointing::On),
            ("false", Checkpointing::Off),
        ] {
            let json = format!(r#"{{"gradient_checkpointing": {json}}}"#);
            let options: TrainOptions = serde_json::from_str(&json).unwrap();
            assert_eq!(options.gradient_checkpointing, found);
            assert_eq!(
                serde_json::to_value(&options).unwrap()["gradient_checkpointing"],
                serde_json::from_str::<serde_json::Value>(&json).unwrap()["gradient_checkpointing"]
            );
        }
        for bad in [
            r#"{"gradient_checkpointing": "yes"}"#,
            r#"{"epoch": 1}"#,
            r#"{"tail": "drop"}"#,
            r#"{"micro_batch_tokens": "all"}"#,
            r#"{"micro_batch_tokens": -1}"#,
        ] {
            assert!(serde_json::from_str::<TrainOptions>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_range_is_checked() {
        TrainOptions::default().validate().unwrap();
        let bad = [
            (
                r#"{"lambda": 1.1}"#,
                "`train.lambda` must be between 0 and 1, found 1.1",
            ),
            (r#"{"lr": 0}"#, "`train.lr` must be above 0, found 0"),
            (r#"{"epochs": 0}"#, "`train.epochs`"),
            (r#"{"max_steps": 0}"#, "`train.max_steps`"),
            (r#"{"batch_tokens": 0}"#, "`train.batch_tokens`"),
            (r#"{"micro_batch_tokens": 0}"#, "`train.micro_batch_tokens`"),
            (r#"{"beta2": 1.0}"#, "`train.beta2`"),
            (r#"{"clip": -1.0}"#, "`train.clip`"),
        ];
        for (json, message) in bad {
            let options: TrainOptions = serde_json::from_str(json).unwrap();
            let error = options.validate().unwrap_err();
            assert!(error.to_string().starts_with(message), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
