//! What a GGUF file says about itself, whether or not it is a model that we read.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

use super::gguf_files;
use super::header::{Contents, Value};
use super::types;
use crate::error::{Context, Result};

/// What a GGUF file (or all files of a split model) says about itself.
#[derive(Clone, Debug, Default)]
pub struct GgufSummary {
    /// `general.architecture`.
    pub architecture: Option<String>,
    /// What it is where it is no language model: an encoder of images, an adapter.
    pub part: Option<&'static str>,
    /// Settings of its architecture that are sizes, by their names without the architecture's.
    pub sizes: BTreeMap<String, u64>,
    /// Files.
    pub files: usize,
    /// Bytes of all files.
    pub bytes: u64,
    /// Tensors in all files.
    pub tensors: usize,
    /// Elements by the names of their types.
    pub elements: BTreeMap<String, u64>,
}

/// The settings that are shown.
const SIZES: [&str; 9] = [
    "block_count",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "context_length",
    "expert_count",
    "vision.block_count",
    "audio.block_count",
];

impl GgufSummary {
    /// Reads the headers.
    ///
    /// # Errors
    /// A missing file, one that is no GGUF file or damaged.
    pub fn read(path: &Path) -> Result<Self> {
        let mut summary = Self::default();
        for (at, path) in gguf_files(path).into_iter().enumerate() {
            let file = File::open(&path).at(&path)?;
            let length = file.metadata().at(&path)?.len();
            // An empty file cannot be mapped; it is no GGUF file either.
            let map = match length {
                0 => None,
                // SAFETY: the map is only read; as with every reader of mapped checkpoints,
                // another process must not truncate the file meanwhile.
                _ => Some(unsafe { Mmap::map(&file) }.at(&path)?),
            };
            let contents = Contents::read(&path, map.as_deref().unwrap_or(&[]))?;
            summary.files += 1;
            summary.bytes += length;
            summary.tensors += contents.tensors.len();
            for tensor in &contents.tensors {
                let elements = tensor.shape.iter().map(|size| *size as u64);
                let elements = elements.fold(1, u64::saturating_mul);
                let all = summary
                    .elements
                    .entry(types::name_of(tensor.code))
                    .or_default();
                *all = all.saturating_add(elements);
            }
            if at == 0 {
                summary.describe(&contents);
            }
        }
        Ok(summary)
    }

    fn describe(&mut self, contents: &Contents) {
        let text = |key: &str| match contents.metadata.get(key) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        };
        self.architecture = text("general.architecture");
        let architecture = self.architecture.clone().unwrap_or_default();
        for size in SIZES {
            let key = format!("{architecture}.{size}");
            if let Some(Value::Unsigned(value)) = contents.metadata.get(&key) {
                self.sizes.insert(size.to_owned(), *value);
            }
        }
        if let Some(Value::Array { count, .. }) = contents.metadata.get("tokenizer.ggml.tokens") {
            self.sizes.insert("tokens".to_owned(), *count);
        }
        self.part = match (text("general.type").as_deref(), architecture.as_str()) {
            (Some("adapter"), _) => Some("a LoRA adapter"),
            (Some("imatrix"), _) | (_, "imatrix") => Some("statistics for quantising"),
            (Some("vocab"), _) => Some("a vocabulary"),
            (Some("mmproj"), _) | (_, "clip") => {
                Some("an encoder of images or sound, to be used beside its language model")
            }
            _ => None,
        };
    }
}
