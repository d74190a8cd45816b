//! What a model folder, a safetensors file or a GGUF file is, from its headers.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::checkpoint::{
    CONFIG, Checkpoint, Companions, Encoding, Found, Gguf, GgufSummary, WeightFiles, read_config,
};
use crate::error::{Context, Result};
use crate::model::{Config, check_weights};
use crate::tensors::Header;
use crate::units::{Bytes, Count};

/// What a checkpoint is, whether or not this program can run it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CheckpointReport {
    /// The folder or file.
    pub path: PathBuf,
    /// What it is where it is no model in Hugging Face's layout: a GGUF file, pickled weights.
    pub form: Option<String>,
    /// Architecture as `config.json` names it.
    pub architecture: Option<String>,
    /// The sizes that `config.json` gives: layers, heads, vocabulary and so on.
    pub sizes: BTreeMap<String, u64>,
    /// Weight files.
    pub files: usize,
    /// Weight files that the index names and that are not there.
    pub missing: Vec<String>,
    /// Tensors in all files; with an index, those that it lists.
    pub tensors: usize,
    /// Tensors in the files that the index does not list.
    pub unlisted: usize,
    /// Elements of all tensors: of packed weights, of what they are packed in.
    pub parameters: u64,
    /// Elements by dtype.
    pub dtypes: BTreeMap<String, u64>,
    /// Bytes of the weight files.
    pub bytes: u64,
    /// How the weights are packed, where they are no numbers.
    pub quantised: Option<String>,
    /// Why it cannot be scored; nothing where it can.
    pub not_scored: Option<String>,
    /// Files beside it that do not belong to it.
    pub beside: Option<String>,
}

impl fmt::Display for CheckpointReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let architecture = self
            .architecture
            .as_deref()
            .unwrap_or("unknown (no config.json)");
        writeln!(f, "checkpoint    {}", self.path.display())?;
        if let Some(form) = &self.form {
            writeln!(f, "is            {form}")?;
        }
        writeln!(f, "architecture  {architecture}")?;
        for (name, value) in &self.sizes {
            writeln!(f, "  {name} {value}")?;
        }
        if self.files > 0 {
            writeln!(
                f,
                "tensors       {} in {} files",
                Count(self.tensors as u64),
                self.files
            )?;
        }
        if self.unlisted > 0 {
            let unlisted = Count(self.unlisted as u64);
            writeln!(
                f,
                "unlisted      {unlisted} in these files: the index does not list them"
            )?;
        }
        if let Some(first) = self.missing.first() {
            let count = self.missing.len();
            writeln!(
                f,
                "missing       {count} files that the index names, such as `{first}`"
            )?;
        }
        if self.files > 0 {
            writeln!(f, "parameters    {}", Count(self.parameters))?;
        }
        for (dtype, parameters) in &self.dtypes {
            writeln!(f, "  {dtype} {}", Count(*parameters))?;
        }
        if self.files > 0 {
            writeln!(f, "size          {}", Bytes(self.bytes))?;
        }
        if let Some(quantised) = &self.quantised {
            writeln!(f, "quantised     {quantised}")?;
        }
        match &self.not_scored {
            None => writeln!(f, "scored        yes")?,
            Some(why) => writeln!(f, "scored        no: {why}")?,
        }
        match &self.beside {
            Some(beside) => writeln!(f, "beside        {beside}"),
            None => Ok(()),
        }
    }
}

pub(super) fn of_folder(dir: &Path) -> Result<CheckpointReport> {
    let found = WeightFiles::of(dir)?;
    let mut report = CheckpointReport {
        path: dir.to_path_buf(),
        form: Found::at(dir).describe(),
        missing: found.missing.clone(),
        ..CheckpointReport::default()
    };
    for file in &found.files {
        report.read(&dir.join(file), &|tensor| found.has(tensor, file))?;
    }
    if dir.join(CONFIG).is_file() {
        let (config, file) = read_config(dir)?;
        report.describe(&config);
        if let Ok(checkpoint) = Checkpoint::open(dir)
            && let Ok(Encoding::Packed(packed)) = Encoding::of(&checkpoint, &config, &file)
        {
            report.quantised = Some(packed.describe());
        }
    }
    report.not_scored = why_not(dir);
    report.beside = Companions::of(dir)?.left_out(|_| None);
    Ok(report)
}

/// Why the model at `path` cannot be scored.
fn why_not(path: &Path) -> Option<String> {
    let checked = Config::load(path).and_then(|config| check_weights(path, &config));
    checked.err().map(|error| error.to_string())
}

pub(super) fn of_gguf(path: &Path) -> Result<CheckpointReport> {
    let summary = GgufSummary::read(path)?;
    let form = match summary.part {
        Some(part) => format!("a GGUF file: {part}"),
        None => "a GGUF file".to_owned(),
    };
    let mut report = CheckpointReport {
        path: path.to_path_buf(),
        form: Some(form),
        architecture: summary.architecture,
        sizes: summary.sizes,
        files: summary.files,
        tensors: summary.tensors,
        bytes: summary.bytes,
        not_scored: why_not(path),
        ..CheckpointReport::default()
    };
    for (dtype, elements) in summary.elements {
        report.add(&dtype, elements);
    }
    if let Some(config) = Gguf::open(path).ok().and_then(|gguf| gguf.config().ok()) {
        report.sizes.clear();
        report.describe(&config);
    }
    Ok(report)
}

pub(super) fn of_file(path: &Path) -> Result<CheckpointReport> {
    let found = Found::at(path);
    let mut report = CheckpointReport {
        path: path.to_path_buf(),
        form: found.describe(),
        not_scored: Some(format!("a model is a folder; {}", found.remedy(path))),
        ..CheckpointReport::default()
    };
    report.read(path, &|_| true)?;
    Ok(report)
}

impl CheckpointReport {
    /// Adds a weight file: the tensors that belong to the model.
    fn read(&mut self, path: &Path, is_listed: &dyn Fn(&str) -> bool) -> Result<()> {
        let mut file = File::open(path).at(path)?;
        let (header, _) = Header::read(path, &mut file)?;
        self.files += 1;
        self.bytes += file.metadata().at(path)?.len();
        for tensor in header.tensors {
            if !is_listed(&tensor.name) {
                self.unlisted += 1;
                continue;
            }
            self.tensors += 1;
            let elements = tensor.shape.iter().map(|size| *size as u64);
            let elements = elements.fold(1, u64::saturating_mul);
            self.add(tensor.dtype.safetensors_name(), elements);
        }
        Ok(())
    }

    /// Counts the elements of a tensor.
    fn add(&mut self, dtype: &str, elements: u64) {
        self.parameters = self.parameters.saturating_add(elements);
        *self.dtypes.entry(dtype.to_owned()).or_default() += elements;
    }

    /// Fills in what `config.json` says.
    fn describe(&mut self, config: &Map<String, Value>) {
        let own = config;
        // The language model of a model of several kinds of input has settings of its own.
        let nested = config.get("text_config").and_then(Value::as_object);
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
            let found = own.get(key).or_else(|| nested?.get(key));
            if let Some(value) = found.and_then(Value::as_u64) {
                self.sizes.insert(key.to_owned(), value);
            }
        }
    }
}
