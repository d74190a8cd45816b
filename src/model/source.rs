//! A checkpoint on disk, open for reading: a model folder or a GGUF file.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

use candle_core::{Device, Tensor, Var};
use memmap2::Mmap;

use super::config::{Config, Rope, TensorSpec};
use super::gguf::{Gguf, is_gguf};
use super::options::LoadOptions;
use super::weights::Weights;
use crate::error::{Context, Error, Result};

enum Files {
    Safetensors(Weights),
    Gguf(Gguf),
}

/// An open checkpoint: memory-mapped, and checked against its configuration.
pub(crate) struct Source {
    config: Config,
    files: Files,
}

impl Source {
    /// Opens a model folder or a GGUF file; reads headers only.
    ///
    /// # Errors
    /// Those of [`Config::load`] and of [`super::check_weights`].
    pub fn open(path: &Path) -> Result<Self> {
        if is_gguf(path) {
            let gguf = Gguf::open(path)?;
            let config = gguf.config()?;
            gguf.check(&config)?;
            return Ok(Self {
                config,
                files: Files::Gguf(gguf),
            });
        }
        let config = Config::load(path)?;
        let weights = Weights::open(path, &config)?;
        Ok(Self {
            config,
            files: Files::Safetensors(weights),
        })
    }

    /// The model's shape and settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Bytes that reading a parameter of `elements` takes beside the parameter itself, at most.
    pub fn overhead(&self, elements: u64) -> u64 {
        match self.files {
            Files::Safetensors(_) => elements.saturating_mul(4),
            Files::Gguf(_) => 0,
        }
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
        let tensor = match &self.files {
            Files::Safetensors(weights) => weights.read(&spec.name, &spec.shape, None)?,
            Files::Gguf(gguf) => gguf.read(&self.config, spec, options.dtype)?,
        };
        tensor
            .to_dtype(options.dtype)
            .and_then(|tensor| tensor.to_device(&options.device))
            .during(|| format!("loading tensor `{}`", spec.name))
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
        let width = self.config.hidden_size;
        let shape = (ids.len(), width);
        let spec = self.config.embedding_tensor();
        let tensor = match &self.files {
            Files::Safetensors(weights) => weights.read(&spec.name, &spec.shape, Some(ids)),
            Files::Gguf(gguf) => {
                let values = gguf.read_rows(&self.config, &spec, ids)?;
                let tensor = Tensor::from_vec(values, shape, &Device::Cpu);
                tensor.during(|| "reading token embeddings".to_owned())
            }
        };
        tensor?
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

    fn place(&self, name: &str) -> Option<(&Mmap, Range<usize>)> {
        match &self.files {
            Files::Safetensors(weights) => weights.place(name),
            Files::Gguf(gguf) => gguf.place(&self.config, name).ok(),
        }
    }

    /// Asks the system to read parameters ahead. Has no effect on results.
    pub fn read_ahead(&self, specs: &[TensorSpec]) {
        #[cfg(unix)]
        for (map, place) in specs.iter().filter_map(|spec| self.place(&spec.name)) {
            let _ = map.advise_range(memmap2::Advice::WillNeed, place.start, place.len());
        }
    }

    /// Drops the pages of parameters from this process; the system may keep them in its cache.
    /// Has no effect on results.
    pub fn release(&self, specs: &[TensorSpec]) {
        #[cfg(unix)]
        for (map, place) in specs.iter().filter_map(|spec| self.place(&spec.name)) {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the map is a read-only view of a file: dropped pages are read from the
            // file again when they are touched.
            let _ = unsafe { map.unchecked_advise_range(advice, place.start, place.len()) };
        }
    }
}
