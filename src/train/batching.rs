//! How the work of a step is divided: micro batches, and how many of them are computed side by side.

use candle_core::Device;

use super::data::DataSet;
use super::{Checkpointing, MicroBatchTokens, TrainOptions};
use crate::model::Config;

/// Models up to so many parameters are computed by workers side by side.
const SIDE_BY_SIDE: u64 = 100_000_000;

/// How many micro batches to compute side by side.
///
/// Workers are 1.2 to 1.4 times as fast as matrix products with several threads (models of 1 to 11 M
/// parameters, two cores), but only where candle does not split its element-wise operations over a
/// pool of its own, whose threads spin and compete with them: with `CANDLE_NUM_THREADS=1`, as our
/// binary sets it. Large models have matrices large enough, and gradients too large to wait.
pub(super) fn worker_count(config: &Config, device: &Device) -> usize {
    let small = config.parameters() <= SIDE_BY_SIDE;
    let alone = candle_core::utils::barrier_pool().n_workers() == 0;
    match device {
        Device::Cpu if small && alone => rayon::current_num_threads(),
        _ => 1,
    }
}

/// What is computed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Batching {
    /// Padded tokens of a micro batch.
    pub tokens: usize,
    /// Whether layers are computed again for their gradients.
    pub checkpointing: bool,
}

impl Batching {
    /// What the options say, or what fits a model and its samples.
    /// `auto` must not depend on the number of threads: the rounding of a step depends on how it is
    /// divided.
    pub fn new(config: &Config, data: &DataSet, options: &TrainOptions, device: &Device) -> Self {
        /// Activations for a micro batch, in bytes.
        const ON_CPU: usize = 256 << 20;
        const ON_GPU: usize = 8 << 30;
        /// On a CPU, more tokens than this at once only leave the caches.
        const ENOUGH_ON_CPU: usize = 1024;
        /// Checkpointing costs a quarter of the speed, so activations may first take so many times more.
        const RATHER_THAN_CHECKPOINTING: usize = 4;
        let longest = data.lengths().longest() as usize;
        let size = options.dtype.dtype().size_in_bytes();
        let layers = config.num_hidden_layers.max(1);
        let layer = size * (16 * config.hidden_size + 6 * config.intermediate_size);
        let border = size * config.hidden_size;
        let (bytes, enough) = match device {
            Device::Cpu => (ON_CPU, ENOUGH_ON_CPU),
            _ => (ON_GPU, usize::MAX),
        };
        let tokens = |checkpointing: bool| match (options.micro_batch_tokens, checkpointing) {
            (MicroBatchTokens::AtMost(n), _) => n,
            (MicroBatchTokens::Auto, false) => {
                (bytes / (layer * layers)).clamp(1, enough).max(longest)
            }
            (MicroBatchTokens::Auto, true) => {
                let token = layer + border * layers;
                (bytes / token).clamp(1, enough).max(longest)
            }
        };
        let checkpointing = match options.gradient_checkpointing {
            Checkpointing::On => true,
            Checkpointing::Off => false,
            Checkpointing::Auto => {
                let whole = tokens(false).max(longest).saturating_mul(layer * layers);
                whole / RATHER_THAN_CHECKPOINTING > bytes
            }
        };
        Self {
            tokens: tokens(checkpointing),
            checkpointing,
        }
    }
}
