//! Reading the parameters of a Hugging Face model folder.
//!
//! The folder has `model.safetensors`, or `model.safetensors.index.json` and the shards that it
//! names. The headers alone decide whether the checkpoint fits the configuration; only then are
//! weights read, from a memory map, one tensor at a time.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Component, Path, PathBuf};

use candle_core::{DType, Tensor, Var};
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::TensorInfo;
use serde_json::Value;

use super::config::{Config, TensorSpec};
use super::decoder::LoadOptions;
use crate::error::{Context, Error, Result};

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
    fn open(path: PathBuf) -> Result<Self> {
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

    fn bytes(&self, info: &TensorInfo) -> Option<&[u8]> {
        let (begin, end) = info.data_offsets;
        self.map
            .get(self.data.checked_add(begin)?..self.data.checked_add(end)?)
    }
}

/// Loads every parameter of `config` from `dir`.
pub(crate) fn load(
    dir: &Path,
    config: &Config,
    options: &LoadOptions,
) -> Result<BTreeMap<String, Var>> {
    let shards = open(dir)?;
    let specs = config.tensors();
    let places = check(dir, &shards, config, &specs)?;
    let mut params = BTreeMap::new();
    for (spec, (shard, info, dtype)) in specs.into_iter().zip(places) {
        let damaged = || Error::file(&shard.path, format!("tensor `{}` is damaged", spec.name));
        let bytes = shard.bytes(info).ok_or_else(damaged)?;
        let var = Tensor::from_raw_buffer(bytes, dtype, &spec.shape, &candle_core::Device::Cpu)
            .and_then(|tensor| tensor.to_dtype(options.dtype)?.to_device(&options.device))
            .and_then(|tensor| Var::from_tensor(&tensor))
            .during(|| format!("loading tensor `{}`", spec.name))?;
        params.insert(spec.name, var);
    }
    Ok(params)
}

/// Compares the tensors of the checkpoint in `dir` with its configuration; reads headers only.
///
/// # Errors
/// Missing, unknown or wrongly shaped tensors, a dtype that cannot be read, a truncated file.
pub fn check_weights(dir: &Path, config: &Config) -> Result<()> {
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

type Place<'a> = (&'a Shard, &'a TensorInfo, DType);

/// Compares the headers with the configuration; returns where each of `specs` is.
fn check<'a>(
    dir: &Path,
    shards: &'a [Shard],
    config: &Config,
    specs: &[TensorSpec],
) -> Result<Vec<Place<'a>>> {
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
    let mut missing = Vec::new();
    let mut places = Vec::with_capacity(specs.len());
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
        let dtype = match info.dtype {
            safetensors::Dtype::F16 => DType::F16,
            safetensors::Dtype::BF16 => DType::BF16,
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::F64 => DType::F64,
            other => {
                return Err(Error::file(
                    &shard.path,
                    format!(
                        "tensor `{}`: expected dtype F16, BF16, F32 or F64, found {other}",
                        spec.name
                    ),
                )
                .remedy("quantised checkpoints cannot be read"));
            }
        };
        places.push((shard, info, dtype));
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
        .filter(|name| !name.ends_with(".rotary_emb.inv_freq"))
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
    Ok(places)
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
