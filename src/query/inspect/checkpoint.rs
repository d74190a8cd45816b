//! What a model folder or a safetensors file is, from its headers.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorInfo;
use serde::Serialize;

use crate::error::{Context, Error, Result};
use crate::units::{Bytes, Count};

/// The longest header that is read: the format's own limit.
const HEADER_BYTES: u64 = 100_000_000;

/// What a checkpoint is.
#[derive(Clone, Debug, Serialize)]
pub struct CheckpointReport {
    /// The folder or file.
    pub path: PathBuf,
    /// Architecture as `config.json` names it.
    pub architecture: Option<String>,
    /// The sizes that `config.json` gives: layers, heads, vocabulary and so on.
    pub sizes: BTreeMap<String, u64>,
    /// Weight files.
    pub files: usize,
    /// Tensors in all files.
    pub tensors: usize,
    /// Elements of all tensors.
    pub parameters: u64,
    /// Elements by dtype.
    pub dtypes: BTreeMap<String, u64>,
    /// Bytes of the weight files.
    pub bytes: u64,
}

impl fmt::Display for CheckpointReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let architecture = self
            .architecture
            .as_deref()
            .unwrap_or("unknown (no config.json)");
        writeln!(f, "checkpoint    {}", self.path.display())?;
        writeln!(f, "architecture  {architecture}")?;
        for (name, value) in &self.sizes {
            writeln!(f, "  {name} {value}")?;
        }
        writeln!(
            f,
            "tensors       {} in {} files",
            Count(self.tensors as u64),
            self.files
        )?;
        writeln!(f, "parameters    {}", Count(self.parameters))?;
        for (dtype, parameters) in &self.dtypes {
            writeln!(f, "  {dtype} {}", Count(*parameters))?;
        }
        writeln!(f, "size          {}", Bytes(self.bytes))
    }
}

/// The safetensors files in a folder, by name.
pub(super) fn weight_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).at(dir)? {
        let path = entry.at(dir)?.path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

pub(super) fn of_folder(dir: &Path) -> Result<CheckpointReport> {
    let mut report = weights(dir, &weight_files(dir)?)?;
    let path = dir.join("config.json");
    if path.is_file() {
        let text = fs::read_to_string(&path).at(&path)?;
        let config: serde_json::Value = serde_json::from_str(&text).at(&path)?;
        let named = config
            .pointer("/architectures/0")
            .or_else(|| config.get("model_type"));
        report.architecture = named.and_then(|name| name.as_str()).map(str::to_owned);
        for key in [
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "vocab_size",
            "max_position_embeddings",
            "num_local_experts",
            // MPT's names
            "d_model",
            "n_layers",
            "n_heads",
            "max_seq_len",
        ] {
            if let Some(value) = config.get(key).and_then(serde_json::Value::as_u64) {
                report.sizes.insert(key.to_owned(), value);
            }
        }
    }
    Ok(report)
}

pub(super) fn of_file(path: &Path) -> Result<CheckpointReport> {
    weights(path, &[path.to_path_buf()])
}

fn weights(path: &Path, files: &[PathBuf]) -> Result<CheckpointReport> {
    let mut report = CheckpointReport {
        path: path.to_path_buf(),
        architecture: None,
        sizes: BTreeMap::new(),
        files: files.len(),
        tensors: 0,
        parameters: 0,
        dtypes: BTreeMap::new(),
        bytes: 0,
    };
    for file in files {
        let (tensors, bytes) = header(file)?;
        report.tensors += tensors.len();
        report.bytes += bytes;
        for (name, info) in tensors {
            let elements = info
                .shape
                .iter()
                .try_fold(1_u64, |n, &d| n.checked_mul(d as u64))
                .ok_or_else(|| {
                    Error::file(file, format!("tensor `{name}` is too large to be true"))
                })?;
            report.parameters = report.parameters.saturating_add(elements);
            *report
                .dtypes
                .entry(format!("{:?}", info.dtype))
                .or_default() += elements;
        }
    }
    Ok(report)
}

/// The tensors of a safetensors file by name, and its length in bytes.
fn header(path: &Path) -> Result<(BTreeMap<String, TensorInfo>, u64)> {
    let damaged = |problem: String| {
        Error::file(path, problem).remedy("the file is damaged or incomplete; get it again")
    };
    let mut file = File::open(path).at(path)?;
    let bytes = file.metadata().at(path)?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length)
        .map_err(|_| damaged(format!("has {bytes} bytes, too few for a safetensors file")))?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES || length > bytes.saturating_sub(8) {
        return Err(damaged(format!(
            "its header claims {length} bytes, the file has {bytes}"
        )));
    }
    let mut text = Vec::new();
    file.take(length).read_to_end(&mut text).at(path)?;
    let mut object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&text)
        .map_err(|e| damaged(format!("its header is no JSON object: {e}")))?;
    object.remove("__metadata__");
    let mut tensors = BTreeMap::new();
    let mut end = 0;
    for (name, value) in object {
        let info: TensorInfo = serde_json::from_value(value)
            .map_err(|e| damaged(format!("tensor `{name}` has a wrong header entry: {e}")))?;
        end = end.max(info.data_offsets.1 as u64);
        tensors.insert(name, info);
    }
    let expected = end.saturating_add(8).saturating_add(length);
    if expected != bytes {
        return Err(damaged(format!(
            "has {bytes} bytes, its header describes {expected}"
        )));
    }
    Ok((tensors, bytes))
}
