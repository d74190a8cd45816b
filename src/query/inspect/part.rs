//! What belongs to a model without being one: an adapter, a tokenizer, weights in other formats.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::checkpoint::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, Found, TOKENIZER};
use crate::error::{Context, Result};
use crate::files::read_json;
use crate::tensors::Header;
use crate::units::{Bytes, Count};

/// Something that is no model by itself.
#[derive(Clone, Debug, Serialize)]
pub struct PartReport {
    /// The folder or file.
    pub path: PathBuf,
    /// What it is, in words.
    pub what: String,
    /// What its files say, in order: name and value.
    pub facts: Vec<(String, String)>,
    /// Bytes of its files.
    pub bytes: u64,
    /// How to use it.
    pub usage: String,
}

impl fmt::Display for PartReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "path      {}", self.path.display())?;
        writeln!(f, "is        {}", self.what)?;
        for (name, value) in &self.facts {
            writeln!(f, "  {name} {value}")?;
        }
        writeln!(f, "size      {}", Bytes(self.bytes))?;
        writeln!(f, "use       {}", self.usage)
    }
}

/// The settings of an adapter that are shown.
const SETTINGS: [&str; 9] = [
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "use_dora",
    "init_lora_weights",
    "bias",
    "target_modules",
    "modules_to_save",
];

/// The folder of an adapter.
pub(super) fn adapter(dir: &Path, found: &Found) -> Result<PartReport> {
    let mut report = PartReport {
        path: dir.to_path_buf(),
        what: found.describe().unwrap_or_default(),
        facts: Vec::new(),
        bytes: 0,
        usage: found.remedy(dir),
    };
    let settings = read_json(&dir.join(ADAPTER_CONFIG))?.unwrap_or_default();
    for key in SETTINGS {
        let Some(value) = settings.get(key) else {
            continue;
        };
        let is_default = value.is_null() || *value == false || value == "none";
        if !is_default {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            report.fact(key, text);
        }
    }
    let weights = dir.join(ADAPTER_WEIGHTS);
    if weights.is_file() {
        let mut file = std::fs::File::open(&weights).at(&weights)?;
        let (header, _) = Header::read(&weights, &mut file)?;
        let sizes = header.tensors.iter().map(|tensor| {
            let sizes = tensor.shape.iter().map(|size| *size as u64);
            sizes.fold(1, u64::saturating_mul)
        });
        let parameters = sizes.fold(0, u64::saturating_add);
        report.fact("tensors", Count(header.tensors.len() as u64).to_string());
        report.fact("parameters", Count(parameters).to_string());
        report.bytes = file.metadata().at(&weights)?.len();
    } else {
        report.what += &format!(", without `{ADAPTER_WEIGHTS}`");
        report.usage = format!(
            "pickled adapters are not read: load it with PEFT and save it again, that writes \
             `{ADAPTER_WEIGHTS}`"
        );
    }
    Ok(report)
}

/// The folder of a tokenizer.
pub(super) fn tokenizer(dir: &Path) -> Result<PartReport> {
    let path = dir.join(TOKENIZER);
    let mut report = PartReport {
        path: dir.to_path_buf(),
        what: "a tokenizer, without a model".to_owned(),
        facts: Vec::new(),
        bytes: std::fs::metadata(&path).map_or(0, |meta| meta.len()),
        usage: "name it where a tokenizer is wanted (`tokenizer` in a recipe, `tokenizer_source` \
                in a merge)"
            .to_owned(),
    };
    let text = read_json(&path)?.unwrap_or_default();
    if let Some(kind) = text.pointer("/model/type").and_then(Value::as_str) {
        report.fact("kind", kind.to_owned());
    }
    let pieces = match text.pointer("/model/vocab") {
        Some(Value::Object(map)) => map.len(),
        Some(Value::Array(list)) => list.len(),
        _ => 0,
    };
    let added = text.get("added_tokens").and_then(Value::as_array);
    report.fact("pieces", Count(pieces as u64).to_string());
    report.fact(
        "added_tokens",
        Count(added.map_or(0, Vec::len) as u64).to_string(),
    );
    Ok(report)
}

/// A file of weights in a format that is not read.
pub(super) fn weights(path: &Path, found: &Found) -> Result<PartReport> {
    Ok(PartReport {
        path: path.to_path_buf(),
        what: found.describe().unwrap_or_default(),
        facts: Vec::new(),
        bytes: std::fs::metadata(path).at(path)?.len(),
        usage: found.remedy(path),
    })
}

impl PartReport {
    fn fact(&mut self, name: &str, value: String) {
        self.facts.push((name.to_owned(), value));
    }
}
