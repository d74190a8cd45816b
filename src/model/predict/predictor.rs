//! Next-token predictions for a set of samples: batches by length, one pass, any order inside,
//! the caller's order outside.

use candle_core::Tensor;

use super::batch::{Batch, PredictOptions, Predictions, batches, each, windows};
use super::offload;
use super::stream::Streamed;
use crate::artifact::tokens::SampleTokens;
use crate::checkpoint::is_gguf;
use crate::error::{Context, Result};
use crate::lora::ModelPath;
use crate::model::config::Config;
use crate::model::decoder::Decoder;
use crate::model::options::LoadOptions;
use crate::model::source::Source;

/// A model that is ready to predict.
pub enum Predictor {
    /// All of its parameters are in memory.
    Memory(Box<Decoder>),
    /// Its layers are read one after the other.
    Streamed(Box<Streamed>),
}

impl Predictor {
    /// Opens a model folder or a GGUF file, with an adapter or without.
    ///
    /// With `offload`, a number of bytes, the model stays on disk, and its layers are read one
    /// after the other over as many samples as fit in these bytes. Results are the same to the
    /// bit. The layers of a GGUF file are always read so, since they are several times larger
    /// decoded than on disk.
    ///
    /// # Errors
    /// Those of [`Decoder::load`]; without `offload`, a model that does not fit in the memory
    /// that is free.
    pub fn open(
        model: impl Into<ModelPath>,
        options: &LoadOptions,
        offload: Option<u64>,
    ) -> Result<Self> {
        let model = model.into();
        let source = Source::open(&model)?;
        let offload = offload.or(is_gguf(&model.base).then_some(offload::DEFAULT_OFFLOAD));
        if let Some(budget) = offload {
            let streamed = Streamed::new(source, options.clone(), budget)?;
            return Ok(Self::Streamed(Box::new(streamed)));
        }
        offload::check_fits(&model.base, source.config(), options)?;
        Decoder::from_source(&source, options).map(|decoder| Self::Memory(Box::new(decoder)))
    }

    /// The model's shape and settings.
    pub fn config(&self) -> &Config {
        match self {
            Self::Memory(decoder) => decoder.config(),
            Self::Streamed(streamed) => streamed.config(),
        }
    }

    /// For a model whose layers are read one after the other: what will be in memory at one time.
    pub fn memory(&self, options: &PredictOptions) -> Option<String> {
        match self {
            Self::Memory(_) => None,
            Self::Streamed(streamed) => Some(streamed.memory(options).to_string()),
        }
    }
}

/// Predicts `samples` and calls `sink(first, predictions)` for runs of consecutive samples, in
/// order; samples without predicted positions get empty predictions. `advance` is told how many
/// samples are finished, from any thread.
///
/// # Errors
/// A logit that is NaN or infinite, naming sample and position; what `sink` returns.
///
/// # Memory
/// For each thread the activations of one batch and 64 MiB of logits; the predictions of about
/// 32 batches; for a model that is read layer by layer, what [`Predictor::memory`] says.
pub fn predict(
    predictor: &Predictor,
    samples: &[SampleTokens],
    options: &PredictOptions,
    advance: &(dyn Fn(usize) + Sync),
    mut sink: impl FnMut(usize, Vec<Predictions>) -> Result<()>,
) -> Result<()> {
    let windows = windows(samples, options.batch_tokens);
    let mut all: Vec<Vec<usize>> = Vec::new();
    // Of each window: the number of batches up to its end.
    let mut ends = Vec::new();
    for window in &windows {
        all.extend(batches(samples, window.clone(), options.batch_tokens));
        ends.push(all.len());
    }
    let mut found = vec![Predictions::default(); samples.len()];
    let (mut done, mut sunk) = (0, 0);
    while done < all.len() {
        let end = match predictor {
            Predictor::Memory(_) => ends[sunk],
            Predictor::Streamed(streamed) => {
                done + streamed.fitting(&all[done..], samples, options)
            }
        };
        let chosen: Vec<Batch> = all[done..end]
            .iter()
            .map(|chosen| Batch::new(samples, chosen))
            .collect();
        let results = match predictor {
            Predictor::Memory(decoder) => {
                each(decoder.device(), chosen.iter().collect(), |batch| {
                    let results = in_memory(decoder, batch, samples, options)?;
                    advance(batch.samples.len());
                    Ok(results)
                })
            }
            Predictor::Streamed(streamed) => streamed.run(&chosen, samples, options, advance),
        }?;
        for (batch, results) in chosen.iter().zip(results) {
            for (index, predictions) in batch.samples.iter().zip(results) {
                found[*index] = predictions;
            }
        }
        done = end;
        while sunk < windows.len() && ends[sunk] <= done {
            let window = windows[sunk].clone();
            let first = window.start;
            let predictions = found[window].iter_mut().map(std::mem::take).collect();
            sink(first, predictions)?;
            sunk += 1;
        }
    }
    Ok(())
}

fn in_memory(
    decoder: &Decoder,
    batch: &Batch,
    samples: &[SampleTokens],
    options: &PredictOptions,
) -> Result<Vec<Predictions>> {
    if batch.is_idle() {
        return Ok(vec![Predictions::default(); batch.samples.len()]);
    }
    let shape = (batch.samples.len(), batch.width);
    let hidden = Tensor::from_slice(&batch.ids, shape, decoder.device())
        .during(|| "copying a batch".into())
        .and_then(|ids| decoder.hidden(&ids))?;
    batch.predictions(decoder.head(), &hidden, samples, options)
}
