//! Options of `train`, the same in a recipe and on the command line.

mod lora;
mod words;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::groups::ParamGroup;
use super::rows::Tail;
use super::schedule::Schedule;
use crate::error::{Error, Result};

pub use lora::{LoraOptions, LoraTargets, Method};
pub use words::{Checkpointing, MicroBatchTokens, Precision};

/// How a model is trained. Field names are the keys of `train:` in a recipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct TrainOptions {
    /// Share of the next-token loss; the rest goes to the targets. 1 ignores them.
    #[arg(long, default_value_t = TrainOptions::default().lambda)]
    pub lambda: f64,
    /// Peak learning rate.
    #[arg(long, default_value_t = TrainOptions::default().lr)]
    pub lr: f64,
    /// Passes over the samples.
    #[arg(long, default_value_t = TrainOptions::default().epochs)]
    pub epochs: u32,
    /// Optimiser steps, however many passes these are: overrides `epochs`.
    #[arg(long)]
    pub max_steps: Option<u64>,
    /// Most tokens of an optimiser step, on average.
    #[arg(long, default_value_t = TrainOptions::default().batch_tokens)]
    pub batch_tokens: usize,
    /// Padded tokens that are computed at once: more memory, but not other results (beyond
    /// rounding).
    #[arg(long, default_value = "auto", value_name = "N|auto")]
    pub micro_batch_tokens: MicroBatchTokens,
    /// Compute layers a second time for their gradients: less memory, more time, same result.
    #[arg(long, default_value = "auto", value_name = "true|false|auto")]
    pub gradient_checkpointing: Checkpointing,
    /// Put several short samples into a row, without attention between them, instead of padding:
    /// not other results (beyond rounding).
    #[arg(
        long,
        default_value_t = TrainOptions::default().packing,
        action = clap::ArgAction::Set
    )]
    pub packing: bool,
    /// Share of the steps in which the learning rate rises.
    #[arg(long, default_value_t = TrainOptions::default().warmup_ratio)]
    pub warmup_ratio: f64,
    /// How the learning rate falls afterwards.
    #[arg(long, value_enum, default_value_t = TrainOptions::default().schedule)]
    pub schedule: Schedule,
    /// Decay of matrices, relative to the learning rate; norms and biases do not decay.
    #[arg(long, default_value_t = TrainOptions::default().weight_decay)]
    pub weight_decay: f64,
    /// Decay of AdamW's first moment.
    #[arg(long, default_value_t = TrainOptions::default().beta1)]
    pub beta1: f64,
    /// Decay of AdamW's second moment.
    #[arg(long, default_value_t = TrainOptions::default().beta2)]
    pub beta2: f64,
    /// Added to the root of AdamW's second moment.
    #[arg(long, default_value_t = TrainOptions::default().eps)]
    pub eps: f64,
    /// Largest norm of the gradient; 0 does not clip.
    #[arg(long, default_value_t = TrainOptions::default().clip)]
    pub clip: f64,
    /// What becomes of the probability outside a target's list.
    #[arg(long, value_enum, default_value_t = TrainOptions::default().tail)]
    pub tail: Tail,
    /// Which parameters are trained.
    #[arg(long, value_enum, default_value_t = TrainOptions::default().method)]
    pub method: Method,
    /// The adapters of method `lora`.
    #[command(flatten)]
    pub lora: LoraOptions,
    /// Parameters that stay as they are, by name, by a part of it between dots, or by a pattern
    /// with `*`: `embed_tokens`, `layers.0`.
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    pub freeze: Vec<String>,
    /// Parameters with another learning rate or decay.
    #[arg(skip)]
    pub param_groups: Vec<ParamGroup>,
    /// Type of parameters and activations, and of the written model.
    #[arg(long, value_enum, default_value_t = TrainOptions::default().dtype)]
    pub dtype: Precision,
    /// Seed of the sample order, and of random initial weights.
    #[arg(long, default_value_t = TrainOptions::default().seed)]
    pub seed: u64,
    /// Chat or text file whose loss is logged after each epoch. (A single command reads
    /// `tokens` instead.)
    #[arg(skip)]
    pub valid: Option<PathBuf>,
    /// Optimiser steps between two validations; there is one after each epoch in any case.
    #[arg(long)]
    pub eval_steps: Option<u64>,
    /// Stop after so many validations in a row that were no better, and keep the best step.
    #[arg(long)]
    pub early_stopping_patience: Option<u32>,
    /// How much lower a validation loss must be to count as better, in nats.
    #[arg(long, default_value_t = TrainOptions::default().early_stopping_threshold)]
    pub early_stopping_threshold: f64,
    /// Write the weights of the step with the lowest validation loss, not the last.
    #[arg(long)]
    pub load_best: bool,
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
            lora: LoraOptions::default(),
            freeze: Vec::new(),
            param_groups: Vec::new(),
            dtype: Precision::F32,
            seed: 42,
            valid: None,
            eval_steps: None,
            early_stopping_patience: None,
            early_stopping_threshold: 0.0,
            load_best: false,
            checkpoint_every: None,
        }
    }
}

impl TrainOptions {
    /// Passes over the samples, at most.
    pub fn most_epochs(&self) -> u32 {
        match self.max_steps {
            Some(_) => u32::MAX,
            None => self.epochs,
        }
    }

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
        check(
            "early_stopping_threshold",
            self.early_stopping_threshold,
            "at least 0",
            not_negative(self.early_stopping_threshold),
        )?;
        for group in &self.param_groups {
            let decay = group.weight_decay.unwrap_or(0.0);
            for (name, value) in [("lr_scale", group.lr_scale), ("weight_decay", decay)] {
                let name = format!("param_groups.{name}");
                check(&name, value, "at least 0", not_negative(value))?;
            }
        }
        if self.method == Method::Lora {
            let alpha = self.lora.alpha;
            check("lora.alpha", alpha, "above 0", positive(alpha))?;
            check("lora.rank", 0.0, "at least 1", self.lora.rank > 0)?;
            if self.lora.targets == LoraTargets::Named(Vec::new()) {
                return Err(Error::usage("`train.lora.targets` is empty")
                    .remedy("name projections, or `all-linear`"));
            }
            if !self.freeze.is_empty() {
                return Err(Error::usage(
                    "`train.freeze` has no use with `method: lora`, which trains nothing but adapters",
                )
                .remedy("choose projections with `lora.targets`"));
            }
        }
        let counts = [
            ("max_steps", self.max_steps),
            ("eval_steps", self.eval_steps),
            (
                "early_stopping_patience",
                self.early_stopping_patience.map(u64::from),
            ),
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

    /// Whether targets, where there are any (`fused`), count: with λ = 1 they are not read.
    pub(super) fn learns_from_targets(&self, fused: bool) -> bool {
        fused && self.lambda < 1.0
    }

    /// Whether the best weights are kept, and written in the end.
    pub fn keeps_best(&self) -> bool {
        self.load_best || self.early_stopping_patience.is_some()
    }

    /// The first option in use that needs a validation set.
    pub(super) fn needs_validation(&self) -> Option<&'static str> {
        [
            ("eval_steps", self.eval_steps.is_some()),
            (
                "early_stopping_patience",
                self.early_stopping_patience.is_some(),
            ),
            ("load_best", self.load_best),
        ]
        .into_iter()
        .find_map(|(name, used)| used.then_some(name))
    }

    /// The options that change the weights and the log; those that are not in use are left out.
    /// `fused` says whether there are targets to learn from.
    pub fn changing(&self, fused: bool) -> serde_json::Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Some(map) = value.as_object_mut() {
            // The validation set counts by its content, not by its path.
            map.remove("valid");
            map.remove("checkpoint_every");
            if self.max_steps.is_some() {
                map.remove("epochs");
            }
            if self.method != Method::Lora {
                map.remove("lora");
            }
            if !self.learns_from_targets(fused) {
                map.remove("tail");
            }
            if self.early_stopping_patience.is_none() {
                map.remove("early_stopping_threshold");
            }
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
        let lora: LoraOptions =
            serde_json::from_str(r#"{"targets": ["q_proj", "mlp.up_proj"]}"#).unwrap();
        assert_eq!(Ok(lora.targets), "q_proj,mlp.up_proj".parse());
        assert_eq!(Ok(LoraTargets::AllLinear), "all-linear".parse());
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
            r#"{"lora": {"dropout": 0.1}}"#,
            r#"{"lora": {"targets": 3}}"#,
            r#"{"param_groups": [{"lr_scale": 1.0}]}"#,
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
            (r#"{"eval_steps": 0}"#, "`train.eval_steps`"),
            (
                r#"{"early_stopping_patience": 0}"#,
                "`train.early_stopping_patience`",
            ),
            (
                r#"{"param_groups": [{"match": "*", "lr_scale": -1.0}]}"#,
                "`train.param_groups.lr_scale` must be at least 0, found -1",
            ),
            (
                r#"{"method": "lora", "lora": {"rank": 0}}"#,
                "`train.lora.rank`",
            ),
            (
                r#"{"method": "lora", "lora": {"alpha": 0}}"#,
                "`train.lora.alpha`",
            ),
            (
                r#"{"method": "lora", "lora": {"targets": []}}"#,
                "`train.lora.targets`",
            ),
            (
                r#"{"method": "lora", "freeze": ["embed_tokens"]}"#,
                "`train.freeze`",
            ),
        ];
        for (json, message) in bad {
            let options: TrainOptions = serde_json::from_str(json).unwrap();
            let error = options.validate().unwrap_err();
            assert!(error.to_string().starts_with(message), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
