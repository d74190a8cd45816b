//! What a model folder, a safetensors file or a GGUF file is, from its headers.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::checkpoint::{CONFIG, Gguf, read_config, weight_files};
use crate::error::{Context, Result};
use crate::tensors::Header;
use crate::units::{Bytes, Count};

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

pub(super) fn of_folder(dir: &Path) -> Result<CheckpointReport> {
    let files = weight_files(dir)?;
    let files: Vec<PathBuf> = files.iter().map(|file| dir.join(file)).collect();
    let mut report = weights(dir, &files)?;
    if dir.join(CONFIG).is_file() {
        report.describe(&read_config(dir)?.0);
    }
    Ok(report)
}

pub(super) fn of_gguf(path: &Path) -> Result<CheckpointReport> {
    let gguf = Gguf::open(path)?;
    let mut report = CheckpointReport {
        path: path.to_path_buf(),
        architecture: None,
        sizes: BTreeMap::new(),
        files: gguf.files(),
        tensors: gguf.tensors().len(),
        parameters: 0,
        dtypes: BTreeMap::new(),
        bytes: gguf.bytes(),
    };
    for (_, tensor) in gguf.tensors() {
        let elements = tensor.shape.iter().product::<usize>() as u64;
        report.add(Gguf::type_name(tensor), elements);
    }
    report.describe(&gguf.config()?);
    Ok(report)
}

impl CheckpointReport {
    /// Counts the elements of a tensor.
    fn add(&mut self, dtype: &str, elements: u64) {
        self.parameters = self.parameters.saturating_add(elements);
        *self.dtypes.entry(dtype.to_owned()).or_default() += elements;
    }

    /// Fills in what `config.json` says.
    fn describe(&mut self, config: &Map<String, Value>) {
        let classes = config.get("architectures").and_then(|list| list.get(0));
        let named = classes.or_else(|| config.get("model_type"));
        self.architecture = named.and_then(|name| name.as_str()).map(str::to_owned);
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
            if let Some(value) = config.get(key).and_then(Value::as_u64) {
                self.sizes.insert(key.to_owned(), value);
            }
        }
    }
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
    for path in files {
        let mut file = File::open(path).at(path)?;
        let (header, _) = Header::read(path, &mut file)?;
        report.tensors += header.tensors.len();
        report.bytes += file.metadata().at(path)?.len();
        for tensor in header.tensors {
            let elements = tensor.shape.iter().product::<usize>() as u64;
            report.add(tensor.dtype.safetensors_name(), elements);
        }
    }
    Ok(report)
}
