//! Reading the parameters of a Hugging Face model folder.
//!
//! The headers alone decide whether the checkpoint fits the configuration; only then are weights
//! read. Weights of 8 bits are multiplied by their scales.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::config::Config;
use super::gguf::Gguf;
use crate::checkpoint::{CONFIG, Checkpoint, Encoding, is_gguf};
use crate::error::{Context, Error, Result};
use crate::progress::warn_once;
use crate::tensors::{Dtype, Grid, ScaleMap, Scales, TensorInfo, is_buffer};

/// The parameters of a model folder, mapped and checked against its configuration.
pub(crate) struct Weights {
    checkpoint: Checkpoint,
    scales: ScaleMap,
}

impl Weights {
    /// Maps the files in `dir` and checks their headers.
    ///
    /// # Errors
    /// Those of [`check_weights`].
    pub fn open(dir: &Path, config: &Config) -> Result<Self> {
        let checkpoint = open(dir, config)?;
        if let Some(unlisted) = checkpoint.about_unlisted() {
            warn_once(unlisted);
        }
        let scales = check(&checkpoint, config)?;
        Ok(Self { checkpoint, scales })
    }

    /// The files that the parameters are in.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Reads a parameter of the configuration: its `rows`, or all of it. 8-bit numbers become
    /// `f32`, others stay as they are.
    pub fn read(&self, name: &str, shape: &[usize], rows: Option<&[u32]>) -> Result<Tensor> {
        let stored = self.checkpoint.tensor(name)?;
        let table = stored.bytes;
        let width: usize = shape.iter().skip(1).product();
        let row = |id: &u32| &table[*id as usize * width * stored.dtype.size()..];
        let mut shape = shape.to_vec();
        if let Some(rows) = rows {
            shape[0] = rows.len();
        }
        let tensor = if let Some(dtype) = candle(stored.dtype) {
            let size = stored.dtype.size() * width;
            let some = rows.map(|ids| ids.iter().flat_map(|id| &row(id)[..size]).copied());
            let some: Option<Vec<u8>> = some.map(Iterator::collect);
            let bytes = some.as_deref().unwrap_or(table);
            Tensor::from_raw_buffer(bytes, dtype, &shape, &Device::Cpu)
        } else {
            let scales = self.scales.of(name).map(|scales| self.scales(scales));
            let scales = scales.transpose()?;
            let mut values = vec![0.0; shape.iter().product()];
            let read = |start: usize, bytes: &[u8], values: &mut [f32]| {
                stored.dtype.decode(bytes, values);
                if let Some(scales) = &scales {
                    scales.multiply(start, values);
                }
            };
            match rows {
                None => read(0, table, &mut values),
                Some(ids) => {
                    for (id, values) in ids.iter().zip(values.chunks_mut(width.max(1))) {
                        read(*id as usize * width, &row(id)[..width], values);
                    }
                }
            }
            if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                let problem = format!("tensor `{name}`: number {at} is {}", values[at]);
                return Err(self
                    .error(name, problem)
                    .remedy("the file is damaged; copy it again"));
            }
            Tensor::from_vec(values, shape, &Device::Cpu)
        };
        tensor.during(|| format!("loading tensor `{name}`"))
    }

    fn scales(&self, (name, grid): (&str, Grid)) -> Result<Scales> {
        Scales::new(grid, self.checkpoint.tensor(name)?.to_f32()).map_err(|at| {
            self.error(name, format!("scale {at} of tensor `{name}` is no scale"))
                .remedy("the file is damaged; copy it again")
        })
    }

    /// An error about the file that a tensor is in.
    fn error(&self, tensor: &str, problem: String) -> Error {
        Error::file(place(&self.checkpoint, tensor), problem)
    }
}

/// The checkpoint in `dir` with the names that `config` has for its tensors.
fn open(dir: &Path, config: &Config) -> Result<Checkpoint> {
    let names = config.names();
    let checkpoint = names.rename(Checkpoint::open(dir)?);
    Ok(match config.tie_word_embeddings {
        true => checkpoint.tied(names.embedding, names.head),
        false => checkpoint,
    })
}

/// The file that a tensor is in; the folder if it is in none.
fn place<'a>(checkpoint: &'a Checkpoint, tensor: &str) -> &'a Path {
    checkpoint.file_of(tensor).unwrap_or(checkpoint.dir())
}

/// candle's name of a dtype that its tensors are made from as it is.
pub(super) fn candle(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::BF16),
        Dtype::F32 => Some(DType::F32),
        Dtype::F64 => Some(DType::F64),
        _ => None,
    }
}

/// Compares the tensors of the checkpoint in `dir` with its configuration; reads headers only.
///
/// # Errors
/// Missing, unknown or wrongly shaped tensors, a dtype that cannot be read, a truncated file.
pub fn check_weights(dir: &Path, config: &Config) -> Result<()> {
    if is_gguf(dir) {
        return Gguf::open(dir)?.check(config);
    }
    check(&open(dir, config)?, config).map(drop)
}

/// Compares the headers with the configuration; returns which tensors are scales.
fn check(checkpoint: &Checkpoint, config: &Config) -> Result<ScaleMap> {
    let dir = checkpoint.dir();
    let mut found: BTreeMap<&str, &TensorInfo> = BTreeMap::new();
    found.extend(checkpoint.tensors().map(|info| (info.name.as_str(), info)));
    let encoding = Encoding::of(checkpoint, &config.raw, &dir.join(CONFIG))?;
    let scales = encoding.numbers(dir)?;
    let mut missing = Vec::new();
    let specs = config.tensors();
    for spec in &specs {
        let Some(info) = found.remove(spec.name.as_str()) else {
            missing.push(spec.name.as_str());
            continue;
        };
        if info.shape != spec.shape {
            return Err(Error::file(
                place(checkpoint, &spec.name),
                format!(
                    "tensor `{}`: expected shape {:?}, found {:?}",
                    spec.name, spec.shape, info.shape
                ),
            )
            .remedy("check that `config.json` belongs to this checkpoint"));
        }
        check_float(checkpoint, info)?;
    }
    if !missing.is_empty() {
        return Err(
            Error::file(dir, format!("the checkpoint lacks {}", some(&missing)))
                .remedy("check that `config.json` belongs to this checkpoint"),
        );
    }
    // Buffers of old exporters, and the copy of a tied embedding, carry nothing.
    let extra: Vec<&str> = found
        .into_iter()
        .filter(|(name, info)| !is_buffer(name, &info.shape) && !scales.contains(name))
        .map(|(name, _)| name)
        .filter(|name| !(config.tie_word_embeddings && *name == config.names().head))
        .collect();
    if !extra.is_empty() {
        return Err(Error::file(
            dir,
            format!(
                "the checkpoint has {}, which a {} of this configuration does not have",
                some(&extra),
                config.architecture.name()
            ),
        )
        .remedy("check that `config.json` belongs to this checkpoint"));
    }
    Ok(scales)
}

/// Fails unless a tensor is one of floats.
fn check_float(checkpoint: &Checkpoint, info: &TensorInfo) -> Result<()> {
    let (name, dtype) = (&info.name, info.dtype);
    match dtype.is_float() {
        true => Ok(()),
        false => {
            let found = dtype.safetensors_name();
            let problem = format!(
                "tensor `{name}`: expected dtype F16, BF16, F32 or F64 (or F8_E4M3, F8_E5M2), found {found}"
            );
            Err(Error::file(place(checkpoint, name), problem)
                .remedy("quantised checkpoints of other kinds cannot be read"))
        }
    }
}

/// "tensor `a`", or "3 tensors (`a`, `b`, `c`)", with at most three names.
fn some(names: &[&str]) -> String {
    let quoted: Vec<String> = names
        .iter()
        .take(3)
        .map(|name| format!("`{name}`"))
        .collect();
    let list = quoted.join(", ");
    match names.len() {
        1 => format!("tensor {list}"),
        2 | 3 => format!("{} tensors ({list})", names.len()),
        count => format!("{count} tensors ({list}, …)"),
    }
}
