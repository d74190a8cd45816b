//! Reading the parameters of a Hugging Face model folder.
//!
//! The folder has `model.safetensors`, or `model.safetensors.index.json` and the shards that it
//! names. The headers alone decide whether the checkpoint fits the configuration; only then are
//! weights read, from a memory map. Weights of 8 bits are multiplied by their scales.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::TensorInfo;
use serde_json::Value;

use super::config::{Config, TensorSpec};
use super::gguf::{Gguf, is_gguf};
use crate::error::{Context, Error, Result};
use crate::tensors::{Dtype, Grid, Quantisation, ScaleMap, Scales, Stored};

/// Name of the file of an unsharded checkpoint.
pub(crate) const SINGLE: &str = "model.safetensors";
/// Name of the list of shards.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// A mapped safetensors file with a valid header.
struct Shard {
    path: PathBuf,
    map: Mmap,
    /// Offset of the tensors' bytes.
    data: usize,
    tensors: HashMap<String, TensorInfo>,
}

impl Shard {
    pub fn open(path: PathBuf) -> Result<Self> {
        let file = File::open(&path).at(&path)?;
        // SAFETY: the map is only read; as with every reader of mapped checkpoints, another
        // process must not truncate the file meanwhile.
        let map = unsafe { Mmap::map(&file) }.at(&path)?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|error| {
            Error::file(
                &path,
                format!(
                    "not a complete safetensors file ({} bytes): {error}",
                    map.len()
                ),
            )
            .remedy("download or copy the file again")
        })?;
        let tensors = metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| (name, info.clone()))
            .collect();
        Ok(Self {
            data: header.saturating_add(8),
            path,
            map,
            tensors,
        })
    }

    fn place(&self, info: &TensorInfo) -> Option<Range<usize>> {
        let (begin, end) = info.data_offsets;
        let place = self.data.checked_add(begin)?..self.data.checked_add(end)?;
        self.map.get(place.clone()).map(|_| place)
    }
}

/// The parameters of a model folder, mapped and checked against its configuration.
pub(crate) struct Weights {
    shards: Vec<Shard>,
    /// Of each parameter: where it is, and where its scales are.
    places: HashMap<String, (Bytes, Option<(Bytes, Grid)>)>,
}

/// Where the bytes of a tensor are.
#[derive(Clone, Debug)]
struct Bytes {
    shard: usize,
    place: Range<usize>,
    dtype: Dtype,
}

impl Weights {
    /// Maps the files in `dir` and checks their headers.
    ///
    /// # Errors
    /// Those of [`check_weights`].
    pub fn open(dir: &Path, config: &Config) -> Result<Self> {
        let shards = open(dir)?;
        let scales = check(dir, &shards, config, &config.tensors())?;
        let bytes = |name: &str| {
            let (shard, (file, info)) = shards
                .iter()
                .enumerate()
                .find_map(|(shard, file)| Some((shard, (file, file.tensors.get(name)?))))
                .ok_or_else(|| Error::file(dir, format!("tensor `{name}` is missing")))?;
            let damaged = || Error::file(&file.path, format!("tensor `{name}` is damaged"));
            Result::Ok(Bytes {
                shard,
                place: file.place(info).ok_or_else(damaged)?,
                dtype: float(&file.path, name, info.dtype)?,
            })
        };
        let mut places = HashMap::new();
        for spec in config.tensors() {
            let scales = match scales.of(&spec.name) {
                Some((name, grid)) => Some((bytes(name)?, grid)),
                None => None,
            };
            places.insert(spec.name.clone(), (bytes(&spec.name)?, scales));
        }
        Ok(Self { shards, places })
    }

    /// Where a parameter of the configuration lies: the map of its file, and its bytes in it.
    pub fn place(&self, name: &str) -> Option<(&Mmap, Range<usize>)> {
        let (bytes, _) = self.places.get(name)?;
        Some((&self.shards[bytes.shard].map, bytes.place.clone()))
    }

    /// Reads a parameter of the configuration: its `rows`, or all of it. 8-bit numbers become
    /// `f32`, others stay as they are.
    pub fn read(&self, name: &str, shape: &[usize], rows: Option<&[u32]>) -> Result<Tensor> {
        let missing = || Error::usage(format!("the model lacks tensor `{name}`"));
        let (stored, scales) = self.places.get(name).ok_or_else(missing)?;
        let shard = &self.shards[stored.shard];
        let table = &shard.map[stored.place.clone()];
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
            let scales = scales.as_ref().map(|scales| self.scales(name, scales));
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
                return Err(
                    Error::file(&shard.path, problem).remedy("the file is damaged; copy it again")
                );
            }
            Tensor::from_vec(values, shape, &Device::Cpu)
        };
        tensor.during(|| format!("loading tensor `{name}`"))
    }

    fn scales(&self, name: &str, (stored, grid): &(Bytes, Grid)) -> Result<Scales> {
        let Shard { map, path, .. } = &self.shards[stored.shard];
        let bytes = &map[stored.place.clone()];
        let mut values = vec![0.0; bytes.len() / stored.dtype.size()];
        stored.dtype.decode(bytes, &mut values);
        Scales::new(*grid, values).map_err(|at| {
            Error::file(path, format!("scale {at} of tensor `{name}` is no scale"))
                .remedy("the file is damaged; copy it again")
        })
    }
}

/// candle's name of a dtype that its tensors are made from as it is.
fn candle(dtype: Dtype) -> Option<DType> {
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
    check(dir, &open(dir)?, config, &config.tensors()).map(drop)
}

/// Maps the checkpoint's files and reads their headers.
fn open(dir: &Path) -> Result<Vec<Shard>> {
    let single = dir.join(SINGLE);
    if single.exists() {
        return Ok(vec![Shard::open(single)?]);
    }
    let path = dir.join(INDEX);
    if !path.exists() {
        return Err(Error::file(
            dir,
            format!("expected `{SINGLE}` or `{INDEX}`, found neither"),
        )
        .remedy("only safetensors checkpoints can be read; convert others first"));
    }
    let text = std::fs::read_to_string(&path).at(&path)?;
    let index: Value = serde_json::from_str(&text)
        .map_err(|error| Error::file(&path, format!("not valid JSON: {error}")))?;
    let Some(Value::Object(map)) = index.get("weight_map") else {
        return Err(Error::file(&path, "field `weight_map`: expected an object"));
    };
    let mut files: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, file) in map {
        let plain = file.as_str().filter(|file| {
            let mut parts = Path::new(file).components();
            matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none()
        });
        let Some(file) = plain else {
            return Err(Error::file(
                &path,
                format!(
                    "field `weight_map.{tensor}`: expected the name of a file in the same folder, found `{file}`"
                ),
            ));
        };
        files.entry(file).or_default().push(tensor);
    }
    let mut shards = Vec::with_capacity(files.len());
    for (file, tensors) in files {
        let shard = Shard::open(dir.join(file))?;
        for tensor in tensors {
            if !shard.tensors.contains_key(tensor) {
                return Err(Error::file(
                    &shard.path,
                    format!("lacks tensor `{tensor}`, which `{INDEX}` says is in it"),
                ));
            }
        }
        shards.push(shard);
    }
    Ok(shards)
}

/// Compares the headers with the configuration; returns which tensors are scales.
fn check(dir: &Path, shards: &[Shard], config: &Config, specs: &[TensorSpec]) -> Result<ScaleMap> {
    let mut found: BTreeMap<&str, (&Shard, &TensorInfo)> = BTreeMap::new();
    for shard in shards {
        for (name, info) in &shard.tensors {
            if let Some((other, _)) = found.insert(name, (shard, info)) {
                return Err(Error::file(
                    &shard.path,
                    format!("tensor `{name}` is also in {}", other.path.display()),
                ));
            }
        }
    }
    let stored = found.iter().map(|(name, (_, info))| Stored {
        name,
        dtype: Dtype::from_safetensors(&info.dtype.to_string()),
        shape: &info.shape,
    });
    let stored: Vec<Stored<'_>> = stored.collect();
    let quantisation = match stored.iter().any(|t| t.dtype.is_some_and(Dtype::is_f8)) {
        true => Quantisation::of(&config.raw, &dir.join("config.json"))?,
        false => None,
    };
    let scales = ScaleMap::new(dir, &stored, quantisation.as_ref())?;
    let mut missing = Vec::new();
    for spec in specs {
        let Some((shard, info)) = found.remove(spec.name.as_str()) else {
            missing.push(spec.name.as_str());
            continue;
        };
        if info.shape != spec.shape {
            return Err(Error::file(
                &shard.path,
                format!(
                    "tensor `{}`: expected shape {:?}, found {:?}",
                    spec.name, spec.shape, info.shape
                ),
            )
            .remedy("check that `config.json` belongs to this checkpoint"));
        }
        float(&shard.path, &spec.name, info.dtype)?;
    }
    if !missing.is_empty() {
        return Err(
            Error::file(dir, format!("the checkpoint lacks {}", some(&missing)))
                .remedy("check that `config.json` belongs to this checkpoint"),
        );
    }
    // Buffers of old exporters, and the copy of a tied embedding, carry nothing.
    let extra: Vec<&str> = found
        .into_keys()
        .filter(|name| !name.ends_with(".rotary_emb.inv_freq") && !scales.contains(name))
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

/// The dtype of a tensor, if it is one of floats.
fn float(path: &Path, tensor: &str, dtype: safetensors::Dtype) -> Result<Dtype> {
    let known = Dtype::from_safetensors(&dtype.to_string()).filter(|dtype| dtype.is_float());
    known.ok_or_else(|| {
        let problem = format!("tensor `{tensor}`: expected dtype F16, BF16, F32 or F64 (or F8_E4M3, F8_E5M2), found {dtype}");
        Error::file(path, problem).remedy("quantised checkpoints of other kinds cannot be read")
    })
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
