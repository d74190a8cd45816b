//! A checkpoint on disk, open for reading: a model folder or a GGUF file, with an adapter or
//! without.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use candle_core::{DType, Device, Result as CandleResult, Tensor, Var};
use serde_json::{Map, Value};

use super::config::{Config, Rope, TensorSpec};
use super::gguf::Gguf;
use super::options::LoadOptions;
use super::weights::Weights;
use crate::checkpoint::is_gguf;
use crate::error::{Context, Error, Result};
use crate::lora::{Adapter, Base, ModelPath};

/// All bytes of a tensor.
const WHOLE: Range<usize> = 0..usize::MAX;

enum Files {
    Safetensors(Weights),
    Gguf(Gguf),
}

/// An open checkpoint: memory-mapped, and checked against its configuration.
pub(crate) struct Source {
    /// With the adapter.
    config: Config,
    /// Of the files.
    stored: Config,
    files: Files,
    adapter: Option<Adapter>,
}

impl Source {
    /// Opens a model folder or a GGUF file, and the adapter on top of it; reads headers only.
    ///
    /// # Errors
    /// Those of [`Config::load`], of [`super::check_weights`] and of [`Adapter::open`].
    pub fn open(model: impl Into<ModelPath>) -> Result<Self> {
        let model = model.into();
        let path = &model.base;
        let (config, files) = if is_gguf(path) {
            let gguf = Gguf::open(path)?;
            let config = gguf.config()?;
            gguf.check(&config)?;
            (config, Files::Gguf(gguf))
        } else {
            let config = Config::load(path)?;
            let weights = Weights::open(path, &config)?;
            (config, Files::Safetensors(weights))
        };
        let adapter = open_adapter(&model, &config)?;
        let mut adapted = config.clone();
        if let Some(adapter) = &adapter {
            // Where one tensor was both, the adapter has made two of it.
            adapted.tie_word_embeddings &= !adapter.unties();
            adapted.vocab_size = adapter.rows().unwrap_or(config.vocab_size);
        }
        Ok(Self {
            adapter,
            config: adapted,
            stored: config,
            files,
        })
    }

    /// The model's shape and settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The fields of a `config.json` for its weights as a plain folder has them.
    ///
    /// # Errors
    /// Frequencies of the rotary embedding that no field can say.
    pub fn plain_config(&self) -> Result<Map<String, Value>> {
        match &self.files {
            Files::Safetensors(_) => Ok(self.config.raw.clone()),
            Files::Gguf(gguf) => gguf.plain_config(&self.config),
        }
    }

    /// Bytes that reading a parameter of `elements` takes beside the parameter itself, at most.
    pub fn overhead(&self, elements: u64) -> u64 {
        let converted = match self.files {
            Files::Safetensors(_) => elements.saturating_mul(4),
            Files::Gguf(_) => 0,
        };
        let adapted = self
            .adapter
            .as_ref()
            .map_or(0, |_| elements.saturating_mul(4));
        converted.saturating_add(adapted)
    }

    /// Fails for a checkpoint that can only be scored.
    pub fn check_trainable(&self) -> Result<()> {
        match &self.files {
            Files::Safetensors(_) => Ok(()),
            Files::Gguf(gguf) => Err(Error::file(gguf.path(), "a GGUF file cannot be trained")
                .remedy("give the folder of the model that it was made from")),
        }
    }

    /// Radians per position of the rotary embedding's pairs.
    pub fn frequencies(&self) -> Result<Vec<f32>> {
        let rope = self.config.rope.as_ref();
        let mut frequencies = rope.map_or(Vec::new(), Rope::frequencies);
        if let Files::Gguf(gguf) = &self.files
            && let Some(factors) = gguf.rope_factors(&self.config)?
        {
            for (frequency, factor) in frequencies.iter_mut().zip(factors) {
                *frequency /= factor;
            }
        }
        Ok(frequencies)
    }

    /// Reads every parameter. Memory: all of them in `options.dtype`, and one more.
    pub fn load(&self, options: &LoadOptions) -> Result<BTreeMap<String, Var>> {
        let mut params = BTreeMap::new();
        for spec in self.config.tensors() {
            let var = Var::from_tensor(&self.read(&spec, options)?)
                .during(|| format!("loading tensor `{}`", spec.name))?;
            params.insert(spec.name, var);
        }
        Ok(params)
    }

    /// Reads one parameter of the configuration.
    pub fn read(&self, spec: &TensorSpec, options: &LoadOptions) -> Result<Tensor> {
        let name = &spec.name;
        let tensor = match self
            .adapter
            .as_ref()
            .filter(|adapter| adapter.changes(name))
        {
            None => self.stored(spec, None, options.dtype)?,
            Some(adapter) => {
                let values = adapter.adapted(name, || self.numbers(spec, None))?;
                Tensor::from_vec(values, spec.shape.as_slice(), &Device::Cpu)
                    .during(|| format!("adapting tensor `{name}`"))?
            }
        };
        tensor
            .to_dtype(options.dtype)
            .and_then(|tensor| tensor.to_device(&options.device))
            .during(|| format!("loading tensor `{name}`"))
    }

    /// What the files have for a parameter: the embedding for a head that is tied to it.
    fn spec_of(&self, spec: &TensorSpec) -> TensorSpec {
        let is_tied = self.stored.tie_word_embeddings && spec.name == self.stored.names().head;
        match is_tied || spec.name == self.stored.embedding_name() {
            true => self.stored.embedding_tensor(),
            false => spec.clone(),
        }
    }

    /// A parameter as it is stored, or some of its rows; what must be decoded is decoded to `dtype`.
    fn stored(&self, spec: &TensorSpec, rows: Option<&[u32]>, dtype: DType) -> Result<Tensor> {
        let spec = &self.spec_of(spec);
        match (&self.files, rows) {
            (Files::Safetensors(weights), rows) => weights.read(&spec.name, &spec.shape, rows),
            (Files::Gguf(gguf), None) => gguf.read(&self.stored, spec, dtype),
            (Files::Gguf(gguf), Some(rows)) => {
                let values = gguf.read_rows(&self.stored, spec, rows)?;
                let shape = (rows.len(), values.len() / rows.len().max(1));
                Tensor::from_vec(values, shape, &Device::Cpu)
                    .during(|| format!("reading rows of tensor `{}`", spec.name))
            }
        }
    }

    /// The numbers of [`Source::stored`], which an adapter changes.
    fn numbers(&self, spec: &TensorSpec, rows: Option<&[u32]>) -> Result<Vec<f32>> {
        numbers(&self.stored(spec, rows, DType::F32)?)
            .during(|| format!("reading tensor `{}`", spec.name))
    }

    /// Reads the embeddings of `ids`: (ids, hidden).
    ///
    /// # Errors
    /// An id is not below `vocab_size`.
    pub fn embeddings(&self, ids: &[u32], options: &LoadOptions) -> Result<Tensor> {
        let rows = self.config.vocab_size;
        if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
            return Err(Error::usage(format!(
                "token id {id} is beyond the model's {rows} embeddings"
            )));
        }
        let spec = self.config.embedding_tensor();
        let name = &spec.name;
        let tensor = match self
            .adapter
            .as_ref()
            .filter(|adapter| adapter.changes(name))
        {
            None => self.stored(&spec, Some(ids), options.dtype)?,
            Some(adapter) => {
                let width = self.config.hidden_size;
                let read = |rows: Option<&[u32]>| self.numbers(&spec, rows);
                let values = adapter.adapted_rows(name, width, ids, read)?;
                Tensor::from_vec(values, (ids.len(), width), &Device::Cpu)
                    .during(|| "adapting token embeddings".to_owned())?
            }
        };
        tensor
            .to_dtype(options.dtype)
            .and_then(|tensor| tensor.to_device(&options.device))
            .during(|| "reading token embeddings".to_owned())
    }

    /// Reads the parameters `specs`, by name.
    pub fn read_all(
        &self,
        specs: &[TensorSpec],
        options: &LoadOptions,
    ) -> Result<HashMap<String, Tensor>> {
        let read = |spec: &TensorSpec| Ok((spec.name.clone(), self.read(spec, options)?));
        specs.iter().map(read).collect()
    }

    /// Asks the system to read parameters ahead. Has no effect on results.
    pub fn read_ahead(&self, specs: &[TensorSpec]) {
        for spec in specs {
            let name = &self.spec_of(spec).name;
            match &self.files {
                Files::Safetensors(weights) => weights.checkpoint().read_ahead(name, WHOLE),
                Files::Gguf(gguf) => gguf.read_ahead(&self.stored, name),
            }
        }
    }

    /// Drops the pages of parameters from this process; the system may keep them in its cache.
    /// Has no effect on results.
    pub fn release(&self, specs: &[TensorSpec]) {
        for spec in specs {
            let name = &self.spec_of(spec).name;
            match &self.files {
                Files::Safetensors(weights) => weights.checkpoint().release(name, WHOLE, false),
                Files::Gguf(gguf) => gguf.release(&self.stored, name),
            }
        }
    }
}

/// The adapter of `model`, checked against the parameters of `config`.
pub(crate) fn open_adapter(model: &ModelPath, config: &Config) -> Result<Option<Adapter>> {
    let specs = config.tensors().into_iter();
    let names = config.names();
    let tied = [names.embedding, names.head];
    let mut fields = config.raw.clone();
    // A file may name its class alone.
    let kind = Value::from(config.architecture.model_type);
    fields.insert("model_type".to_owned(), kind);
    let base = Base::new(
        specs.map(|spec| (spec.name, spec.shape)),
        &Value::Object(fields),
        config.tie_word_embeddings.then_some(tied),
    );
    model.open_adapter(&base)
}

/// The elements of a tensor as f32, on the CPU.
pub(super) fn numbers(tensor: &Tensor) -> CandleResult<Vec<f32>> {
    let tensor = tensor.detach().to_device(&Device::Cpu)?;
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}
