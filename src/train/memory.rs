//! What a training will need, said and checked before it starts.
//!
//! For P parameters of which T are trained, W workers, and micro batches of n padded tokens:
//!
//! | what | bytes |
//! |---|---|
//! | parameters | 4 P, in bf16 2 P |
//! | gradients | 4 T, and 4 T for each worker |
//! | optimiser | 8 T, with the masters of bf16 parameters 12 T |
//! | activations | W · n · layers · a · 4, in bf16 · 2; a = 6 hidden + 4 queries + 5 keys + 3 intermediate |
//! | with checkpointing | W · n · (a + layers · hidden) · 4, in bf16 · 2 |
//! | logits | W · min(64 MiB, 4 · vocabulary · min(n, 512)) |
//!
//! where queries and keys are the widths of all heads, and the intermediate width is that of all
//! experts that a token goes to. Small buffers, the samples of a part and
//! the program itself come on top.

use candle_core::Device;

use super::loss::logits_bytes;
use super::{Method, TrainOptions};
use crate::error::{Error, Result};
use crate::model::{Config, free_memory};
use crate::units::Bytes;

/// A training, as far as it needs memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Trained numbers.
    pub trained: u64,
    /// Micro batches at a time.
    pub workers: u64,
    /// Most padded tokens of a micro batch.
    pub tokens: u64,
    /// Whether the activations of one layer exist at a time, and the inputs of all.
    pub checkpointing: bool,
}

/// Bytes of activations for a padded token, with checkpointing or without.
pub(super) fn token_bytes(config: &Config, options: &TrainOptions, checkpointing: bool) -> u64 {
    let of = |n: usize| n as u64;
    let head = of(config.head_dim);
    let queries = of(config.num_attention_heads) * head;
    let keys = of(config.num_key_value_heads) * head;
    let used = config.experts.iter().map(|experts| match experts {
        Some(experts) => of(experts.width) * of(experts.per_token),
        None => of(config.intermediate_size),
    });
    let inner = used.max().unwrap_or(0);
    let layer = 6 * of(config.hidden_size) + 4 * queries + 5 * keys + 3 * inner;
    let layers = of(config.num_hidden_layers);
    let numbers = match checkpointing {
        true => layer + layers * of(config.hidden_size),
        false => layers * layer,
    };
    numbers * width(options)
}

/// Bytes that are there between two micro batches: parameters, the sum of the gradients, and the
/// state of the optimiser.
pub(super) fn resident(config: &Config, trained: u64, options: &TrainOptions) -> u64 {
    parameters(config, options) + 4 * trained + optimiser(trained, options)
}

fn width(options: &TrainOptions) -> u64 {
    options.dtype.dtype().size_in_bytes() as u64
}

fn parameters(config: &Config, options: &TrainOptions) -> u64 {
    config.parameters() * width(options)
}

fn optimiser(trained: u64, options: &TrainOptions) -> u64 {
    // Adapters are f32, their own masters.
    let masters = u64::from(width(options) < 4 && options.method != Method::Lora);
    4 * trained * (2 + masters)
}

/// Bytes for each purpose.
pub(super) struct Estimate {
    parts: [(&'static str, u64); 5],
}

impl Estimate {
    /// Of training a model of shape `config`.
    pub fn of(config: &Config, options: &TrainOptions, plan: Plan) -> Self {
        let activations = plan.tokens * token_bytes(config, options, plan.checkpointing);
        Self {
            parts: [
                ("parameters", parameters(config, options)),
                ("gradients", 4 * plan.trained * (1 + plan.workers)),
                ("optimiser", optimiser(plan.trained, options)),
                ("activations", plan.workers * activations),
                (
                    "logits",
                    plan.workers * logits_bytes(config.vocab_size, plan.tokens),
                ),
            ],
        }
    }

    /// Of all purposes.
    pub fn total(&self) -> u64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }

    /// What is needed for which purpose.
    pub fn describe(&self, device: &Device) -> String {
        let parts: Vec<String> = self
            .parts
            .iter()
            .map(|(name, bytes)| format!("{name} {}", Bytes(*bytes)))
            .collect();
        let free = free_memory(device).map_or(String::new(), |free| {
            format!(" of {} that are free", Bytes(free))
        });
        let total = Bytes(self.total());
        format!("needs about {total} of memory{free}: {}", parts.join(", "))
    }

    /// Fails where the training will not fit `free` bytes. The estimate may be a quarter too high.
    pub fn check(&self, free: Option<u64>) -> Result<()> {
        let Some(free) = free.filter(|free| self.total() / 5 * 4 > *free) else {
            return Ok(());
        };
        let part = |name: &str| {
            let found = self.parts.iter().find(|(part, _)| *part == name);
            found.map_or(0, |(_, bytes)| *bytes)
        };
        let activations = part("activations") + part("logits");
        let trained = part("gradients") + part("optimiser");
        let remedy = if activations >= trained {
            "use `gradient_checkpointing: true`, a smaller `micro_batch_tokens`, or shorter samples \
             (`corpus.max_tokens`)"
        } else if trained > part("parameters") {
            "use `method: lora`, which trains adapters only"
        } else {
            "use `dtype: bf16`, a smaller model, or a machine with more memory"
        };
        Err(Error::usage(format!(
            "the training needs about {} of memory, {} are free",
            Bytes(self.total()),
            Bytes(free)
        ))
        .remedy(remedy))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn an_estimate_by_hand() {
        let config = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": 100, "hidden_size": 8,
            "intermediate_size": 20, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 32,
        });
        let config = config.as_object().unwrap().clone();
        let config = Config::from_json(config, Path::new("config.json")).unwrap();
        let plan = Plan {
            trained: 1000,
            workers: 2,
            tokens: 64,
            checkpointing: false,
        };
        let estimate = Estimate::of(&config, &TrainOptions::default(), plan);
        // 6 · 8 + 4 · 8 + 5 · 4 + 3 · 20 = 160 numbers a layer and token.
        let expected = [
            ("parameters", 4 * config.parameters()),
            ("gradients", 12_000),
            ("optimiser", 8_000),
            ("activations", 2 * 64 * 3 * 160 * 4),
            ("logits", 2 * 64 * 100 * 4),
        ];
        assert_eq!(estimate.parts, expected);
        estimate.check(None).unwrap();
        estimate.check(Some(estimate.total())).unwrap();
        let error = estimate.check(Some(estimate.total() / 2)).unwrap_err();
        assert!(error.to_string().contains("micro_batch_tokens"), "{error}");
        assert_eq!(error.exit_code(), 2);
        let large = Plan {
            trained: 1_000_000,
            ..plan
        };
        let error = Estimate::of(&config, &TrainOptions::default(), large).check(Some(1000));
        assert!(error.unwrap_err().to_string().contains("method: lora"));
    }
}
