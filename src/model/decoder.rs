//! The decoder: its parameters, from the embedding to the head.

use std::cell::Cell;
use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};

use super::config::{Config, Init};
use super::head;
use super::layer::{KeyValue, Layer};
use super::lora::Adapters;
use super::norm::Norm;
use super::ops;
use super::rope::Rope;
use super::source::Source;
use crate::error::{Context, Error, Result};
use crate::lora::ModelPath;

/// Whether gradients are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No graph is recorded; attention works in place.
    Inference,
    /// Parameters are variables in the graph of what is computed from them.
    Training,
}

/// Where and how the parameters are held.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where the parameters live and all work is done.
    pub device: Device,
    /// Type of parameters and activations (norms and softmax are always f32 inside).
    pub dtype: DType,
    /// Whether gradients are wanted.
    pub mode: Mode,
}

/// How the positions of a batch enter attention; computed once per batch, shared by all layers.
#[derive(Clone, Debug)]
pub struct Rotary {
    /// Cosines and sines, f32 (len, rotated dimensions / 2), or (batch · len, ..) where rows are
    /// packed; none for a model that does not rotate.
    pub(crate) tables: Option<(Tensor, Tensor)>,
    /// Penalties on distance, f32 (heads), for a model that has them.
    pub(crate) slopes: Option<Tensor>,
    /// Where rows are packed: the first token of each token's sample, u32 (batch, len).
    pub(crate) starts: Option<Tensor>,
    /// Position of the first token.
    pub(crate) offset: usize,
    /// Number of tokens.
    pub(crate) len: usize,
}

/// A decoder-only transformer with all its parameters in memory.
pub struct Decoder {
    config: Config,
    device: Device,
    dtype: DType,
    mode: Mode,
    params: BTreeMap<String, Var>,
    trained: BTreeMap<String, Var>,
    adapters: Option<Adapters>,
    frequencies: Vec<f32>,
    slopes: Option<Tensor>,
    embedding: Tensor,
    embedding_scale: f64,
    layers: Vec<Layer>,
    norm: Norm,
    head: Tensor,
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
        let frequencies = source.frequencies()?;
        Self::assemble(source.config().clone(), params, frequencies, options)
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
                    normal(seed, index as u64)
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
        Self::assemble(config, params, frequencies, options)
    }

    fn assemble(
        config: Config,
        params: BTreeMap<String, Var>,
        frequencies: Vec<f32>,
        options: &LoadOptions,
    ) -> Result<Self> {
        let trained = params.clone();
        Self::assemble_with(config, params, frequencies, trained, None, options)
    }

    /// Trains what is in `trained` (of `params` and `adapters`); the rest gets no gradient.
    fn assemble_with(
        config: Config,
        params: BTreeMap<String, Var>,
        frequencies: Vec<f32>,
        trained: BTreeMap<String, Var>,
        adapters: Option<Adapters>,
        options: &LoadOptions,
    ) -> Result<Self> {
        let find = |name: &str| {
            params.get(name).map(|var| match options.mode {
                Mode::Training if trained.contains_key(name) => var.as_tensor().clone(),
                _ => var.as_detached_tensor(),
            })
        };
        let used = Cell::new(0);
        let adapter = |module: &str| {
            let found = adapters.as_ref()?.of(module, options.mode)?;
            used.set(used.get() + 1);
            Some(found)
        };
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::assemble(&config, index, find, adapter))
            .collect::<Result<_>>()?;
        if adapters
            .as_ref()
            .is_some_and(|adapters| adapters.modules().len() != used.get())
        {
            return Err(
                Error::usage("the model has projections that cannot be adapted")
                    .remedy("name the projections of attention and feed-forward in `lora.targets`"),
            );
        }
        let outer = Self::without_layers(config.clone(), frequencies, options, find)?;
        Ok(Self {
            layers,
            params,
            trained,
            adapters,
            ..outer
        })
    }

    /// What is left of a model when its layers are taken away; `find` knows the parameters that
    /// belong to no layer.
    pub(crate) fn without_layers(
        config: Config,
        frequencies: Vec<f32>,
        options: &LoadOptions,
        find: impl Fn(&str) -> Option<Tensor>,
    ) -> Result<Self> {
        let get = |name: &str| {
            find(name).ok_or_else(|| Error::usage(format!("the model lacks tensor `{name}`")))
        };
        let norm = Norm {
            weight: get(config.names().final_norm)?,
            eps: config.norm_eps,
            kind: config.norm,
        };
        let scale = Tensor::new(config.embedding_scale, &Device::Cpu)
            .and_then(|scale| {
                scale
                    .to_dtype(options.dtype)?
                    .to_dtype(DType::F64)?
                    .to_scalar()
            })
            .during(|| "rounding the embeddings' scale".to_owned())?;
        let slopes = config.alibi_slopes();
        let slopes = slopes
            .map(|slopes| Tensor::new(slopes, &options.device))
            .transpose()
            .during(|| "computing the slopes of ALiBi".to_owned())?;
        Ok(Self {
            slopes,
            embedding_scale: scale,
            frequencies,
            norm,
            embedding: get(config.embedding_name())?,
            head: get(config.head_name())?,
            config,
            device: options.device.clone(),
            dtype: options.dtype,
            mode: options.mode,
            layers: Vec::new(),
            params: BTreeMap::new(),
            trained: BTreeMap::new(),
            adapters: None,
        })
    }

    /// The same model with `adapters`, which are all that is trained.
    ///
    /// # Errors
    /// A projection that cannot be adapted.
    pub fn adapt(self, adapters: Adapters) -> Result<Self> {
        let options = self.options();
        let trained = adapters.params().clone();
        Self::assemble_with(
            self.config,
            self.params,
            self.frequencies,
            trained,
            Some(adapters),
            &options,
        )
    }

    /// The same model, in which the parameters whose name `frozen` holds of are not trained.
    ///
    /// # Errors
    /// None beyond those of loading.
    pub fn freeze(self, frozen: impl Fn(&str) -> bool) -> Result<Self> {
        let options = self.options();
        let mut trained = self.trained;
        trained.retain(|name, _| !frozen(name));
        Self::assemble_with(
            self.config,
            self.params,
            self.frequencies,
            trained,
            self.adapters,
            &options,
        )
    }

    fn options(&self) -> LoadOptions {
        LoadOptions {
            device: self.device.clone(),
            dtype: self.dtype,
            mode: self.mode,
        }
    }

    /// The model's shape and settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The parameters by Hugging Face name; a tied head is not listed again.
    ///
    /// Setting a variable changes the model in place.
    pub fn params(&self) -> &BTreeMap<String, Var> {
        &self.params
    }

    /// What training changes: all parameters, those that are not frozen, or the adapters.
    pub fn trained(&self) -> &BTreeMap<String, Var> {
        &self.trained
    }

    /// The adapters, if the model has some.
    pub fn adapters(&self) -> Option<&Adapters> {
        self.adapters.as_ref()
    }

    /// Where the parameters live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Type of parameters and activations.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whether gradients are recorded.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Angles for positions `0..len`.
    ///
    /// # Errors
    /// `len` is 0 or beyond `max_position_embeddings`.
    pub fn rotary(&self, len: usize) -> Result<Rotary> {
        self.rotary_from(0, len)
    }

    /// Angles for positions `offset..offset + len`.
    pub(crate) fn rotary_from(&self, offset: usize, len: usize) -> Result<Rotary> {
        let end = offset.saturating_add(len);
        let limit = self.config.max_position_embeddings;
        if len == 0 || end > limit {
            return Err(Error::usage(format!(
                "a sequence of {end} tokens does not fit the model's context of {limit} tokens"
            )));
        }
        Ok(Rotary {
            tables: self.angles(offset..end)?,
            slopes: self.slopes.clone(),
            starts: None,
            offset,
            len,
        })
    }

    /// Angles for rows of `len` tokens that hold several samples: `starts` (rows · len) is the
    /// place in its row at which each token's sample begins. Positions count from there.
    ///
    /// # Errors
    /// A start is after its token; a sample is longer than `max_position_embeddings`.
    pub fn rotary_packed(&self, starts: &[u32], len: usize) -> Result<Rotary> {
        let limit = self.config.max_position_embeddings;
        let mut positions = Vec::with_capacity(starts.len());
        for (index, &start) in starts.iter().enumerate() {
            match (index % len.max(1)).checked_sub(start as usize) {
                Some(position) if position < limit => positions.push(position),
                _ => {
                    return Err(Error::usage(format!(
                        "token {} of a packed row, in a sample from {start} on, does not fit \
                         the model's context of {limit} tokens",
                        index % len.max(1)
                    )));
                }
            }
        }
        let rows = starts.len() / len.max(1);
        let starts = Tensor::from_slice(starts, (rows, len), &self.device)
            .during(|| "preparing packed rows".to_owned())?;
        Ok(Rotary {
            tables: self.angles(positions.into_iter())?,
            slopes: self.slopes.clone(),
            starts: Some(starts),
            offset: 0,
            len,
        })
    }

    /// Cosines and sines (positions, rotated dimensions / 2), if the model rotates.
    fn angles(&self, positions: impl Iterator<Item = usize>) -> Result<Option<(Tensor, Tensor)>> {
        let Some(rope) = &self.config.rope else {
            return Ok(None);
        };
        let factor = rope.attention_factor();
        let angles = positions.flat_map(|position| {
            let position = position as f32;
            self.frequencies
                .iter()
                .map(move |frequency| position * frequency)
        });
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles
            .map(|angle| (angle.cos() * factor, angle.sin() * factor))
            .unzip();
        let count = cos.len() / self.frequencies.len().max(1);
        let shape = (count, self.frequencies.len());
        let table = |values| Tensor::from_vec(values, shape, &self.device);
        let tables = table(cos).and_then(|cos| Ok((cos, table(sin)?)));
        tables
            .map(Some)
            .during(|| "computing rotary angles".to_owned())
    }

    /// Embeddings of `ids` (batch, len) u32, scaled if the model does so: (batch, len, hidden).
    ///
    /// # Errors
    /// An id is not below `vocab_size`.
    pub fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        let embed = || {
            let (batch, len) = ids.dims2()?;
            let x = ops::embed(&self.embedding, &ids.flatten_all()?)?;
            let x = x.reshape((batch, len, self.config.hidden_size))?;
            match self.embedding_scale {
                1.0 => Ok(x),
                scale => x * scale,
            }
        };
        embed().during(|| "looking up token embeddings".to_owned())
    }

    /// Runs layer `index` on `x` (batch, len, hidden), attending within `x` only.
    ///
    /// # Errors
    /// There is no such layer, or shapes disagree.
    pub fn layer(&self, index: usize, x: &Tensor, rotary: &Rotary) -> Result<Tensor> {
        let layer = self
            .layers
            .get(index)
            .ok_or_else(|| Error::usage(format!("the model has no layer {index}")))?;
        layer
            .forward(&self.config, x, rotary, |key, value| Ok((key, value)))
            .during(|| format!("running layer {index}"))
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
            .forward(&self.config, x, rotary, extend)
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
        let mut x = self.embed(ids)?;
        for index in 0..self.layers.len() {
            x = self.layer(index, &x, rotary)?;
        }
        self.final_norm(&x)
    }

    /// The output matrix (vocab, hidden).
    pub fn head(&self) -> &Tensor {
        &self.head
    }

    /// Logits (n, vocab) of hidden states (n, hidden), capped if the model does so; f32 for
    /// every type of parameters.
    ///
    /// # Errors
    /// Shapes disagree.
    pub fn logits(&self, rows: &Tensor) -> Result<Tensor> {
        head::logits(rows, &self.head, self.config.final_softcap)
            .during(|| "computing logits".to_owned())
    }
}

/// Standard normal numbers of `stream`: sums of twelve uniform 16-bit integers, which need no
/// transcendental functions and are therefore the same everywhere. |z| is below 6.
fn normal(seed: u64, stream: u64) -> impl Iterator<Item = f32> {
    let key = mix(mix(seed) ^ mix(stream.wrapping_add(0x9e37_79b9_7f4a_7c15)));
    (0u64..).map(move |counter| {
        let mut sum = 0u64;
        for part in 0..3 {
            let bits = mix(key.wrapping_add(counter.wrapping_mul(3).wrapping_add(part)));
            sum += (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
        }
        // Mean 12 * 65535 / 2; variance 12 * (65536^2 - 1) / 12.
        (sum as f32 - 393_210.0) / 65_536.0
    })
}

/// The finaliser of SplitMix64, after an odd multiplication that spreads counters.
pub(super) fn mix(x: u64) -> u64 {
    let x = x.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
