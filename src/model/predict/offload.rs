//! What predicting needs in memory, by formula, and what is free.

use std::fmt;
use std::path::Path;

use candle_core::Device;

use super::batch::PredictOptions;
use crate::error::{Error, Result};
use crate::memory::free_memory;
use crate::model::config::{Config, TensorSpec};
use crate::model::options::LoadOptions;
use crate::model::source::Source;
use crate::units::{Bytes, Count};

/// Bytes of hidden states and predictions in one pass over the weights, unless told otherwise.
pub const DEFAULT_OFFLOAD: u64 = 4 << 30;

/// The memory of a model that is read layer by layer, in bytes:
///
/// * a pass: for each token, padding included, its hidden state (`hidden_size` numbers) and its
///   predictions (20 + 8 · k);
/// * the table of positions, if there is one, the larger one of the largest layer and the head, and, of a model folder, its largest matrix in f32
///   while it is read;
/// * for each thread the activations of one batch (4 · hidden + 3 · intermediate numbers a token)
///   and 128 MiB of attention scores and logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StreamMemory {
    budget: u64,
    token: u64,
    parameters: u64,
    reading: u64,
    work: u64,
    threads: u64,
}

impl StreamMemory {
    pub fn new(source: &Source, load: &LoadOptions, options: &PredictOptions, budget: u64) -> Self {
        let config = source.config();
        let size = load.dtype.size_in_bytes() as u64;
        let elements =
            |specs: &[TensorSpec]| -> u64 { specs.iter().filter_map(TensorSpec::elements).sum() };
        let places = elements(config.positions_tensor().as_slice());
        let head = config.hidden_size as u64 * config.vocab_size as u64;
        let kinds = config.kinds_of_layers().into_iter();
        let kinds: Vec<_> = kinds
            .map(|(layer, _)| config.layer_tensors(layer))
            .collect();
        let all = kinds.iter().flatten().filter_map(TensorSpec::elements);
        let largest = all.max();
        let layer = kinds.iter().map(|layer| elements(layer)).max().unwrap_or(0);
        let numbers = 4 * config.hidden_size as u64 + 3 * config.intermediate_size as u64;
        let threads = match load.device {
            Device::Cpu => rayon::current_num_threads() as u64,
            _ => 1,
        };
        Self {
            budget,
            token: config.hidden_size as u64 * size + options.bytes(),
            parameters: (places + layer.max(head)) * size,
            reading: source.overhead(largest.unwrap_or(0).max(head)),
            work: options.batch_tokens as u64 * numbers * size + (128 << 20),
            threads,
        }
    }

    /// Tokens, padding included, in one pass.
    pub fn pass_tokens(&self) -> u64 {
        self.budget / self.token
    }

    /// Everything together.
    pub fn total(&self) -> u64 {
        self.budget + self.parameters + self.reading + self.threads * self.work
    }
}

impl fmt::Display for StreamMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "reading the layers from disk, one pass for {} tokens: {} of hidden states and \
             predictions ({} a token), {} of weights, {} while they are read, {} × {} to compute: \
             at most {}",
            Count(self.pass_tokens()),
            Bytes(self.budget),
            Bytes(self.token),
            Bytes(self.parameters),
            Bytes(self.reading),
            self.threads,
            Bytes(self.work),
            Bytes(self.total())
        )
    }
}

/// Fails if the parameters of a model are more than the memory that is free.
pub(super) fn check_fits(model: &Path, config: &Config, options: &LoadOptions) -> Result<()> {
    let size = options.dtype.size_in_bytes() as u64;
    let needed = config.parameters().saturating_mul(size);
    match (&options.device, free_memory()) {
        (Device::Cpu, Some(free)) if needed > free => Err(Error::file(
            model,
            format!(
                "the model needs {} of memory in {}, {} are free",
                Bytes(needed),
                options.dtype.as_str(),
                Bytes(free)
            ),
        )
        .remedy(
            "read it layer by layer with `--offload` (in a recipe `score: { offload: true }`)",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use serde_json::json;

    use super::*;
    use crate::model::{Decoder, Mode};

    /// 12 wide, 20 inside, two layers, 19 tokens; queries 24 × 12, keys and values 12 × 12.
    fn model() -> (Config, LoadOptions) {
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": 19, "hidden_size": 12,
            "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 32,
        });
        let config = config.as_object().unwrap().clone();
        let options = LoadOptions {
            device: Device::Cpu,
            dtype: DType::F32,
            mode: Mode::Inference,
        };
        (Config::from_json(config, Path::new("c")).unwrap(), options)
    }

    #[test]
    fn the_formula_by_hand() {
        let (config, load) = model();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        let decoder = Decoder::random(config, &load, 1).unwrap();
        decoder.save(&path, dir.path(), DType::F32).unwrap();
        let options = PredictOptions {
            vocab_len: 19,
            k: 10,
            draws: None,
            batch_tokens: 100,
        };
        let source = Source::open(&path).unwrap();
        let memory = StreamMemory::new(&source, &load, &options, 14_800);
        assert_eq!(memory.token, 12 * 4 + 100);
        assert_eq!(memory.pass_tokens(), 100);
        let layer = 24 * 12 + 2 * 12 * 12 + 12 * 24 + 3 * 12 * 20 + 2 * 12;
        assert_eq!(memory.parameters, layer * 4);
        assert_eq!(memory.reading, 24 * 12 * 4);
        assert_eq!(memory.work, 100 * (48 + 60) * 4 + (128 << 20));
    }

    #[test]
    fn a_model_that_does_not_fit_is_told_of_offload() {
        let (mut config, options) = model();
        assert!(check_fits(Path::new("m"), &config, &options).is_ok());
        config.vocab_size = 1 << 44;
        if free_memory().is_some() {
            let error = check_fits(Path::new("m"), &config, &options).unwrap_err();
            assert!(error.to_string().contains("--offload"), "{error}");
        }
    }
}
