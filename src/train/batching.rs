//! How the work of a step is divided: micro batches, and how many of them are computed side by side.

use candle_core::Device;

use super::data::DataSet;
use super::memory::{Estimate, Plan, resident, token_bytes};
use super::{Checkpointing, MicroBatchTokens, TrainOptions};
use crate::model::{Config, free_memory};

/// How many micro batches to compute side by side: as many as there are threads, micro batches in
/// a step, and room for (`workers` in `plan` is not read), but at least one. Of their number
/// depends no result.
///
/// A worker computes with its share of the threads. One thread for each is best: products are
/// never too small for it, and nothing between them is left to a single one. They help only where
/// candle does not split its element-wise operations over a pool of its own, whose threads spin
/// and compete with them: with `CANDLE_NUM_THREADS=1`, as our binary sets it.
pub(super) fn worker_count(
    config: &Config,
    options: &TrainOptions,
    plan: Plan,
    micro_batches: u64,
    device: &Device,
) -> usize {
    let alone = candle_core::utils::barrier_pool().n_workers() == 0;
    if !device.is_cpu() || !alone {
        return 1;
    }
    let needed = |workers| Estimate::of(config, options, Plan { workers, ..plan }).total();
    let threads = rayon::current_num_threads() as u64;
    workers_for(threads, micro_batches, free_memory(device), needed) as usize
}

/// [`worker_count`] where `needed` bytes of the `free` ones are needed for so many workers.
fn workers_for(
    threads: u64,
    micro_batches: u64,
    free: Option<u64>,
    needed: impl Fn(u64) -> u64,
) -> u64 {
    let (one, each) = (needed(1), needed(2) - needed(1));
    let more = free.map_or(u64::MAX - 1, |free| free.saturating_sub(one) / each.max(1));
    threads.min(micro_batches).min(1 + more).max(1)
}

/// What is computed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Padded tokens of a micro batch.
    pub tokens: usize,
    /// Whether layers are computed again for their gradients.
    pub checkpointing: bool,
}

impl Batching {
    /// What the options say, or what fits a model of shape `config`, of which `trained` numbers are
    /// trained, and samples of at most `longest` tokens.
    ///
    /// `auto` must depend neither on the number of threads nor on the memory that is free: the
    /// rounding of a step depends on how it is divided. So activations may take as much as what
    /// training the model takes without them.
    pub fn new(
        config: &Config,
        trained: u64,
        longest: usize,
        options: &TrainOptions,
        device: &Device,
    ) -> Self {
        let limits = match device {
            Device::Cpu => Limits::on_cpu(config, trained, options),
            _ => Limits::on_gpu(config, options),
        };
        let tokens = |checkpointing: bool| match (options.micro_batch_tokens, checkpointing) {
            (MicroBatchTokens::AtMost(n), _) => n,
            (MicroBatchTokens::Auto, false) => limits.fitting(limits.token).max(longest),
            (MicroBatchTokens::Auto, true) => limits.fitting(limits.checkpointed).max(longest),
        };
        let checkpointing = match options.gradient_checkpointing {
            Checkpointing::On => true,
            Checkpointing::Off => false,
            Checkpointing::Auto => {
                let whole = tokens(false).max(longest) as u64;
                whole.saturating_mul(limits.token) > limits.most
            }
        };
        Self {
            tokens: tokens(checkpointing),
            checkpointing,
        }
    }
}

/// How large a micro batch may become.
struct Limits {
    /// Bytes of activations for a token.
    token: u64,
    /// The same where layers are computed again.
    checkpointed: u64,
    /// Bytes to fill.
    full: u64,
    /// Most bytes that are kept rather than computed again, which costs a quarter of the speed.
    most: u64,
    /// Tokens that are enough.
    enough: u64,
}

impl Limits {
    fn on_cpu(config: &Config, trained: u64, options: &TrainOptions) -> Self {
        /// Bytes of activations that are always granted.
        const GRANTED: u64 = 1 << 30;
        /// More tokens than this at once only leave the caches.
        const ENOUGH: u64 = 1024;
        let bytes = resident(config, trained, options).max(GRANTED);
        Self {
            token: token_bytes(config, options, false),
            checkpointed: token_bytes(config, options, true),
            full: bytes,
            most: bytes,
            enough: ENOUGH,
        }
    }

    fn on_gpu(config: &Config, options: &TrainOptions) -> Self {
        let size = options.dtype.dtype().size_in_bytes();
        let layers = config.num_hidden_layers;
        let layer = size * (16 * config.hidden_size + 6 * config.intermediate_size);
        let border = size * config.hidden_size;
        Self {
            token: (layer * layers) as u64,
            checkpointed: (layer + border * layers) as u64,
            full: 8 << 30,
            most: 32 << 30,
            enough: u64::MAX,
        }
    }

    /// Tokens that fit.
    fn fitting(&self, token: u64) -> usize {
        let tokens = (self.full / token.max(1)).clamp(1, self.enough);
        usize::try_from(tokens).unwrap_or(usize::MAX)
    }
}

/// Micro batches of a step, at least.
pub(super) fn micro_batches(data: &DataSet, options: &TrainOptions, tokens: usize) -> u64 {
    let step = data.lengths().tokens().min(options.batch_tokens as u64);
    step.div_ceil(tokens.max(1) as u64)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::train::{Method, Precision};

    /// The shape of SmolLM2-135M, with so many layers.
    fn config(layers: usize) -> Config {
        let config = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": 49152, "hidden_size": 576,
            "intermediate_size": 1536, "num_hidden_layers": layers, "num_attention_heads": 9,
            "num_key_value_heads": 3, "max_position_embeddings": 8192,
            "tie_word_embeddings": true,
        });
        let config = config.as_object().unwrap().clone();
        Config::from_json(config, Path::new("config.json")).unwrap()
    }

    fn batching(config: &Config, longest: usize, options: &TrainOptions) -> Batching {
        let trained = match options.method {
            Method::Lora => config.parameters() / 100,
            Method::Full => config.parameters(),
        };
        Batching::new(config, trained, longest, options, &Device::Cpu)
    }

    #[test]
    fn micro_batches_are_large_whatever_the_size() {
        let mut options = TrainOptions::default();
        let whole = Batching {
            tokens: 1024,
            checkpointing: false,
        };
        assert_eq!(batching(&config(30), 256, &options), whole);
        assert_eq!(batching(&config(2), 256, &options), whole);
        // A sample that is longer than enough, and one whose activations are too many.
        assert_eq!(batching(&config(30), 1500, &options).tokens, 1500);
        assert!(!batching(&config(30), 1500, &options).checkpointing);
        assert!(batching(&config(30), 3000, &options).checkpointing);
        options.dtype = Precision::Bf16;
        assert_eq!(batching(&config(30), 256, &options), whole);
        options = TrainOptions {
            method: Method::Lora,
            ..TrainOptions::default()
        };
        let adapters = batching(&config(30), 256, &options);
        assert!(
            adapters.tokens >= 512 && !adapters.checkpointing,
            "{adapters:?}"
        );
        options.micro_batch_tokens = MicroBatchTokens::AtMost(100);
        assert_eq!(batching(&config(30), 50, &options).tokens, 100);
    }

    #[test]
    fn workers_are_what_threads_micro_batches_and_memory_allow() {
        let config = config(30);
        let options = TrainOptions::default();
        let plan = Plan {
            trained: config.parameters(),
            workers: 1,
            tokens: 1024,
            checkpointing: false,
        };
        let of = |workers| Estimate::of(&config, &options, Plan { workers, ..plan }).total();
        let three = Some(of(3));
        assert_eq!(workers_for(8, 8, three, of), 3);
        assert_eq!(workers_for(8, 8, three.map(|bytes| bytes - 1), of), 2);
        assert_eq!(workers_for(8, 2, three, of), 2);
        assert_eq!(workers_for(2, 8, three, of), 2);
        assert_eq!(workers_for(8, 8, Some(0), of), 1);
        assert_eq!(workers_for(8, 0, None, of), 1);
        assert_eq!(workers_for(8, 20, None, of), 8);
    }
}
