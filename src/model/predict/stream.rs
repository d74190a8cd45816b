//! Predicting with a model that is larger than memory.
//!
//! The hidden states of many samples stay in memory, and the layers pass by: each is read from
//! disk (and decoded, if it is quantised), run over all batches, and dropped. One pass over the
//! weights serves as many samples as fit in a given number of bytes.

use candle_core::Tensor;

use super::batch::{Batch, PredictOptions, Predictions, each};
use super::offload::StreamMemory;
use crate::artifact::tokens::SampleTokens;
use crate::error::{Context, Error, Result};
use crate::model::config::{Config, TensorSpec};
use crate::model::head::Head;
use crate::model::layers::{Embedder, Layer, Norm, Positions, Rotary};
use crate::model::options::LoadOptions;
use crate::model::source::Source;

/// A model on disk, read layer by layer.
pub struct Streamed {
    source: Source,
    options: LoadOptions,
    positions: Positions,
    budget: u64,
}

/// A batch on its way through the layers.
struct Moving<'a> {
    batch: &'a Batch,
    /// (samples, width, hidden); none if nothing is predicted.
    state: Option<(Tensor, Rotary)>,
}

impl Streamed {
    /// `budget` is the number of bytes for the hidden states and predictions of one pass.
    pub(super) fn new(source: Source, options: LoadOptions, budget: u64) -> Result<Self> {
        let frequencies = source.frequencies()?;
        Ok(Self {
            positions: Positions::new(source.config(), frequencies, &options.device)?,
            source,
            options,
            budget,
        })
    }

    pub(super) fn config(&self) -> &Config {
        self.source.config()
    }

    /// What is in memory at one time.
    pub(super) fn memory(&self, options: &PredictOptions) -> StreamMemory {
        StreamMemory::new(&self.source, &self.options, options, self.budget)
    }

    /// How many of the next batches fit in the budget; at least one.
    pub(super) fn fitting(
        &self,
        batches: &[Vec<usize>],
        samples: &[SampleTokens],
        options: &PredictOptions,
    ) -> usize {
        let limit = self.memory(options).pass_tokens();
        let mut tokens = 0;
        let fitting = batches.iter().take_while(|batch| {
            tokens += (batch.len() * samples[batch[0]].ids.len()) as u64;
            tokens <= limit
        });
        fitting.count().max(1)
    }

    /// One pass over the weights: the predictions of each sample of each batch.
    pub(super) fn run(
        &self,
        batches: &[Batch],
        samples: &[SampleTokens],
        options: &PredictOptions,
        advance: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Vec<Predictions>>> {
        let config = self.config();
        let device = &self.options.device;
        let count: usize = batches.iter().map(|batch| batch.samples.len()).sum();
        let steps = config.num_hidden_layers + 1;
        let finished = |step: usize| advance(count * (step + 1) / steps - count * step / steps);

        let outer = self.outer_tensors();
        let places = config.positions_tensor();
        let places = places.map(|spec| self.source.read(&spec, &self.options));
        let places = places.transpose()?;
        let start = |batch| self.start(batch, places.as_ref());
        let mut moving = each(device, batches.iter().collect(), start)?;
        for index in 0..config.num_hidden_layers {
            let specs = config.layer_tensors(index);
            let next = match index + 1 < config.num_hidden_layers {
                true => config.layer_tensors(index + 1),
                false => outer.clone(),
            };
            let layer = {
                let params = self.source.read_all(&specs, &self.options)?;
                Layer::assemble(config, index, |name| params.get(name).cloned(), |_| None)?
            };
            self.source.release(&specs);
            self.source.read_ahead(&next);
            moving = each(device, moving, |batch| batch.through(&layer, index, config))?;
            finished(index);
        }
        let (norm, head) = self.last(&outer)?;
        self.source.release(&outer);
        let results = each(device, moving, |moving| {
            let Moving { batch, state } = moving;
            let Some((hidden, _)) = state else {
                return Ok(vec![Predictions::default(); batch.samples.len()]);
            };
            let hidden = norm
                .forward(&hidden)
                .during(|| "computing the final norm".to_owned())?;
            batch.predictions(&head, &hidden, samples, options)
        })?;
        finished(config.num_hidden_layers);
        Ok(results)
    }

    /// The embeddings of a batch; `places` is the table of learned positions.
    fn start<'a>(&self, batch: &'a Batch, places: Option<&Tensor>) -> Result<Moving<'a>> {
        if batch.is_idle() {
            return Ok(Moving { batch, state: None });
        }
        // One row for each token of the batch.
        let table = self.source.embeddings(&batch.ids, &self.options)?;
        let embedder = Embedder::new(self.config(), table, places.cloned())?;
        let rotary = self.positions.rotary(0..batch.width)?;
        let shape = (batch.samples.len(), batch.width);
        let count = batch.ids.len() as u32;
        let hidden = Tensor::arange(0, count, &self.options.device)
            .and_then(|ids| ids.reshape(shape))
            .during(|| "copying a batch".into())
            .and_then(|ids| embedder.forward(&ids, &rotary))?;
        Ok(Moving {
            batch,
            state: Some((hidden, rotary)),
        })
    }

    /// The parameters that are needed after the layers.
    fn outer_tensors(&self) -> Vec<TensorSpec> {
        let config = self.config();
        let (embedding, places) = (config.embedding_name(), config.names().positions);
        let needed = |spec: &TensorSpec| {
            let is_head = spec.name == embedding && config.tie_word_embeddings;
            is_head || (spec.name != embedding && Some(spec.name.as_str()) != places)
        };
        config.outer_tensors().into_iter().filter(needed).collect()
    }

    /// Reads what comes after the layers, whose parameters are `specs`.
    fn last(&self, specs: &[TensorSpec]) -> Result<(Norm, Head)> {
        let params = self.source.read_all(specs, &self.options)?;
        let get = |name: &str| {
            let found = params.get(name).cloned();
            found.ok_or_else(|| Error::usage(format!("the model lacks tensor `{name}`")))
        };
        Ok((
            Norm::last(self.config(), get)?,
            Head::of(self.config(), get)?,
        ))
    }
}

impl Moving<'_> {
    fn through(self, layer: &Layer, index: usize, config: &Config) -> Result<Self> {
        let Self { batch, state } = self;
        let through = |(hidden, rotary): (Tensor, Rotary)| {
            layer
                .forward(config, &hidden, &rotary, |key, value| Ok((key, value)))
                .map(|hidden| (hidden, rotary))
                .during(|| format!("running layer {index}"))
        };
        Ok(Self {
            batch,
            state: state.map(through).transpose()?,
        })
    }
}
