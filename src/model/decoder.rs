//! The decoder: its parameters, from the embedding to the head.

use std::cell::Cell;
use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};

use super::config::{Config, Init, Rope};
use super::head::Head;
use super::layers::{Embedder, KeyValue, Layer, Norm, Positions, Rotary};
use super::lora::Adapters;
use super::options::{LoadOptions, Mode};
use super::source::Source;
use super::{ops, random};
use crate::error::{Context, Error, Result};
use crate::lora::ModelPath;

/// A decoder-only transformer with all its parameters in memory.
pub struct Decoder {
    parts: Parts,
    embedder: Embedder,
    layers: Vec<Layer>,
    norm: Norm,
    head: Head,
}

/// What a decoder is assembled from.
struct Parts {
    config: Config,
    options: LoadOptions,
    positions: Positions,
    params: BTreeMap<String, Var>,
    /// What is trained, of `params` and `adapters`; the rest gets no gradient.
    trained: BTreeMap<String, Var>,
    adapters: Option<Adapters>,
}

impl Parts {
    /// All of `params` are trained.
    fn new(
        config: Config,
        params: BTreeMap<String, Var>,
        frequencies: Vec<f32>,
        options: &LoadOptions,
    ) -> Result<Self> {
        Ok(Self {
            positions: Positions::new(&config, frequencies, &options.device)?,
            trained: params.clone(),
            params,
            adapters: None,
            options: options.clone(),
            config,
        })
    }

    /// A parameter, in the graph if it is trained.
    fn find(&self, name: &str) -> Option<Tensor> {
        self.params.get(name).map(|var| match self.options.mode {
            Mode::Training if self.trained.contains_key(name) => var.as_tensor().clone(),
            _ => var.as_detached_tensor(),
        })
    }
}

impl Decoder {
    /// Loads `config.json` and the safetensors file or shards of a Hugging Face model folder, or
    /// a GGUF file. Where there is an adapter on top, it is merged into what is read.
    ///
    /// All headers are checked against the configuration before any weight is read. Memory: the
    /// parameters in `options.dtype`, plus one tensor.
    ///
    /// # Errors
    /// Those of [`Config::load`] and, with an adapter, of [`Adapter::open`](crate::lora::Adapter::open);
    /// missing, unknown or wrongly shaped tensors (names tensor, expected and found); a truncated file; an index that points outside of the folder; a GGUF
    /// file for training.
    pub fn load(model: impl Into<ModelPath>, options: &LoadOptions) -> Result<Self> {
        Self::from_source(&Source::open(model)?, options)
    }

    /// [`Decoder::load`] of a checkpoint that is already open.
    pub(crate) fn from_source(source: &Source, options: &LoadOptions) -> Result<Self> {
        if options.mode == Mode::Training {
            source.check_trainable()?;
        }
        let params = source.load(options)?;
        let config = source.config().clone();
        Self::assemble(Parts::new(config, params, source.frequencies()?, options)?)
    }

    /// A model initialised as Hugging Face does: normal weights with standard deviation
    /// `initializer_range`, unit norms, zero biases.
    ///
    /// The same seed gives the same weights on every machine: each tensor has its own
    /// counter-based generator that only uses integer arithmetic.
    ///
    /// # Errors
    /// Not enough memory on the device.
    pub fn random(config: Config, options: &LoadOptions, seed: u64) -> Result<Self> {
        let mut params = BTreeMap::new();
        for (index, spec) in config.tensors().into_iter().enumerate() {
            let count = spec.shape.iter().product();
            let values: Vec<f32> = match spec.init {
                Init::Ones => vec![1.0; count],
                Init::Zeros => vec![0.0; count],
                Init::Normal => {
                    let std = config.initializer_range as f32;
                    random::normal(seed, index as u64)
                        .map(|z| z * std)
                        .take(count)
                        .collect()
                }
            };
            let var = Tensor::from_vec(values, spec.shape, &options.device)
                .and_then(|tensor| tensor.to_dtype(options.dtype))
                .and_then(|tensor| Var::from_tensor(&tensor))
                .during(|| format!("initialising tensor `{}`", spec.name))?;
            params.insert(spec.name, var);
        }
        Self::from_params(config, params, options)
    }

    /// A model with the given parameters, which have the names, shapes and types that `config` and
    /// `options` ask for.
    ///
    /// # Errors
    /// A parameter is missing.
    pub fn from_params(
        config: Config,
        params: BTreeMap<String, Var>,
        options: &LoadOptions,
    ) -> Result<Self> {
        let frequencies = config.rope.as_ref().map_or(Vec::new(), Rope::frequencies);
        Self::assemble(Parts::new(config, params, frequencies, options)?)
    }

    fn assemble(parts: Parts) -> Result<Self> {
        let (config, mode) = (&parts.config, parts.options.mode);
        let find = |name: &str| parts.find(name);
        let used = Cell::new(0);
        let adapter = |module: &str| {
            let found = parts.adapters.as_ref()?.of(module, mode)?;
            used.set(used.get() + 1);
            Some(found)
        };
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::assemble(config, index, find, adapter))
            .collect::<Result<_>>()?;
        let adapters = parts.adapters.as_ref();
        if adapters.is_some_and(|adapters| adapters.modules().len() != used.get()) {
            return Err(
                Error::usage("the model has projections that cannot be adapted")
                    .remedy("name the projections of attention and feed-forward in `lora.targets`"),
            );
        }
        let get = |name: &str| {
            find(name).ok_or_else(|| Error::usage(format!("the model lacks tensor `{name}`")))
        };
        Ok(Self {
            layers,
            norm: Norm::last(config, get)?,
            embedder: Embedder::new(
                config,
                get(config.embedding_name())?,
                config.names().positions.map(get).transpose()?,
            )?,
            head: Head::of(config, get)?,
            parts,
        })
    }

    /// The same model with `adapters`, which are all that is trained.
    ///
    /// # Errors
    /// A projection that cannot be adapted.
    pub fn adapt(self, adapters: Adapters) -> Result<Self> {
        Self::assemble(Parts {
            trained: adapters.params().clone(),
            adapters: Some(adapters),
            ..self.parts
        })
    }

    /// The same model, in which the parameters whose name `frozen` holds of are not trained.
    ///
    /// # Errors
    /// None beyond those of loading.
    pub fn freeze(mut self, frozen: impl Fn(&str) -> bool) -> Result<Self> {
        self.parts.trained.retain(|name, _| !frozen(name));
        Self::assemble(self.parts)
    }

    /// The model's shape and settings.
    pub fn config(&self) -> &Config {
        &self.parts.config
    }

    /// The parameters by Hugging Face name; a tied head is not listed again.
    ///
    /// Setting a variable changes the model in place.
    pub fn params(&self) -> &BTreeMap<String, Var> {
        &self.parts.params
    }

    /// What training changes: all parameters, those that are not frozen, or the adapters.
    pub fn trained(&self) -> &BTreeMap<String, Var> {
        &self.parts.trained
    }

    /// The adapters, if the model has some.
    pub fn adapters(&self) -> Option<&Adapters> {
        self.parts.adapters.as_ref()
    }

    /// Where the parameters live.
    pub fn device(&self) -> &Device {
        &self.parts.options.device
    }

    /// Type of parameters and activations.
    pub fn dtype(&self) -> DType {
        self.parts.options.dtype
    }

    /// Whether gradients are recorded.
    pub fn mode(&self) -> Mode {
        self.parts.options.mode
    }

    /// Angles for positions `0..len`.
    ///
    /// # Errors
    /// `len` is 0 or beyond `max_position_embeddings`.
    pub fn rotary(&self, len: usize) -> Result<Rotary> {
        self.parts.positions.rotary(0..len)
    }

    /// Angles for positions `offset..offset + len`.
    pub(crate) fn rotary_from(&self, offset: usize, len: usize) -> Result<Rotary> {
        self.parts
            .positions
            .rotary(offset..offset.saturating_add(len))
    }

    /// Angles for rows of `len` tokens that hold several samples: `starts` (rows · len) is the
    /// place in its row at which each token's sample begins. Positions count from there.
    ///
    /// # Errors
    /// A start is after its token; a sample is longer than `max_position_embeddings`.
    pub fn rotary_packed(&self, starts: &[u32], len: usize) -> Result<Rotary> {
        self.parts.positions.packed(starts, len)
    }

    /// Embeddings of `ids` (batch, len) u32 at the positions of `rotary`, scaled and with learned
    /// positions if the model does so: (batch, len, hidden).
    ///
    /// # Errors
    /// An id is not below `vocab_size`, or `rotary` is for another shape.
    pub fn embed(&self, ids: &Tensor, rotary: &Rotary) -> Result<Tensor> {
        self.embedder.forward(ids, rotary)
    }

    /// Runs layer `index` on `x` (batch, len, hidden), attending within `x` only.
    ///
    /// # Errors
    /// There is no such layer, or shapes disagree.
    pub fn layer(&self, index: usize, x: &Tensor, rotary: &Rotary) -> Result<Tensor> {
        self.layer_with(index, x, rotary, |key, value| Ok((key, value)))
    }

    /// [`Decoder::layer`] where `extend` turns new keys and values into all that are attended to.
    pub(crate) fn layer_with(
        &self,
        index: usize,
        x: &Tensor,
        rotary: &Rotary,
        extend: impl FnOnce(Tensor, Tensor) -> candle_core::Result<KeyValue>,
    ) -> Result<Tensor> {
        let layer = self
            .layers
            .get(index)
            .ok_or_else(|| Error::usage(format!("the model has no layer {index}")))?;
        layer
            .forward(self.config(), x, rotary, extend)
            .during(|| format!("running layer {index}"))
    }

    /// The norm before the head, for `x` (.., hidden).
    ///
    /// # Errors
    /// Shapes disagree.
    pub fn final_norm(&self, x: &Tensor) -> Result<Tensor> {
        self.norm
            .forward(x)
            .during(|| "computing the final norm".to_owned())
    }

    /// Hidden states that the head reads, for `ids` (batch, len) u32: (batch, len, hidden).
    ///
    /// Memory in inference: about batch · len · (4 · hidden + 3 · intermediate) activations and
    /// 64 MiB of attention scores (or group · len² per thread, if that is more). In training
    /// the graph keeps about 12 · hidden + 4 · intermediate numbers per token and layer.
    ///
    /// # Errors
    /// An id is not below `vocab_size`, or `len` is beyond the model's context.
    pub fn hidden(&self, ids: &Tensor) -> Result<Tensor> {
        let (_, len) = ids.dims2().during(|| "reading token ids".to_owned())?;
        self.hidden_at(ids, &self.rotary(len)?)
    }

    /// [`Decoder::hidden`] at the positions of `rotary`.
    ///
    /// # Errors
    /// An id is not below `vocab_size`, or `rotary` is for another shape.
    pub fn hidden_at(&self, ids: &Tensor, rotary: &Rotary) -> Result<Tensor> {
        let mut x = self.embed(ids, rotary)?;
        for index in 0..self.layers.len() {
            x = self.layer(index, &x, rotary)?;
        }
        self.final_norm(&x)
    }

    pub(super) fn embedder(&self) -> &Embedder {
        &self.embedder
    }

    pub(super) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    pub(super) fn norm(&self) -> &Norm {
        &self.norm
    }

    /// The head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Logits (n, vocab) of hidden states (n, hidden), capped if the model does so; f32 for
    /// every type of parameters.
    ///
    /// # Errors
    /// Shapes disagree.
    pub fn logits(&self, rows: &Tensor) -> Result<Tensor> {
        ops::logits(rows, &self.head).during(|| "computing logits".to_owned())
    }
}
