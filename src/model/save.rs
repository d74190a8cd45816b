//! Writing a Hugging Face model folder.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use serde_json::{Map, Value, json};

use super::decoder::Decoder;
use super::lora::LoraSave;
use super::options::Mode;
use super::peft;
use super::weights::SINGLE;
use crate::error::{Context, Error, Result};
use crate::integrity::{FileRecord, FolderRecord, cells};

/// Files that belong to a model but not to its weights: what is made from it gets copies.
pub const COMPANIONS: [&str; 12] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "LICENSE",
];

impl Decoder {
    /// Writes the model to `dir` as a folder that `transformers` loads: `model.safetensors` in
    /// `dtype`, `config.json` as it was read with its dtype updated, and the tokenizer, template
    /// and generation files of `base_dir`. Adapters are merged into the projections.
    ///
    /// The folder is written beside its final name and renamed; an existing `dir` is replaced.
    /// Memory: one tensor.
    ///
    /// # Errors
    /// `dtype` is not F32, F16 or BF16; a file cannot be written.
    pub fn save(&self, dir: &Path, base_dir: &Path, dtype: DType) -> Result<()> {
        replace(dir, |dir| self.write_model(dir, base_dir, dtype))
    }

    /// Writes a model with adapters as `what` says, otherwise as [`Decoder::save`]; `base_dir` is
    /// also noted as the adapter's base model.
    ///
    /// # Errors
    /// Those of [`Decoder::save`]; the model has no adapters, but they are wanted.
    pub fn save_lora(
        &self,
        dir: &Path,
        base_dir: &Path,
        dtype: DType,
        what: LoraSave,
    ) -> Result<()> {
        let write_adapter = |dir: &Path| match self.adapters() {
            Some(adapters) => peft::write(adapters, dir, base_dir),
            None => Err(Error::usage("the model has no adapters to write")),
        };
        replace(dir, |dir| match what {
            LoraSave::Merged => self.write_model(dir, base_dir, dtype),
            LoraSave::Adapter => {
                let record = write_adapter(dir)?;
                copy_companions(base_dir, dir)?;
                Ok(record)
            }
            LoraSave::Both => {
                let inner = dir.join("adapter");
                std::fs::create_dir(&inner).at(&inner)?;
                let mut record = write_adapter(&inner)?.within("adapter");
                record.extend(self.write_model(dir, base_dir, dtype)?);
                Ok(record)
            }
        })
    }

    fn write_model(&self, dir: &Path, base_dir: &Path, dtype: DType) -> Result<FolderRecord> {
        let mut record = FolderRecord::default();
        record.insert(SINGLE, self.write_weights(&dir.join(SINGLE), dtype)?);
        self.write_config(&dir.join("config.json"), dtype)?;
        copy_companions(base_dir, dir)?;
        Ok(record)
    }

    fn write_config(&self, path: &Path, dtype: DType) -> Result<()> {
        let mut config = self.config().raw.clone();
        let field = if config.contains_key("dtype") {
            "dtype"
        } else {
            "torch_dtype"
        };
        config.insert(field.to_owned(), json!(dtype_names(dtype)?.1));
        // The weights that are written are not quantised, even if those that were read are.
        config.shift_remove("quantization_config");
        let text = serde_json::to_string_pretty(&Value::Object(config))
            .during(|| "writing config.json".to_owned())?;
        std::fs::write(path, text + "\n").at(path)
    }

    fn write_weights(&self, path: &Path, dtype: DType) -> Result<FileRecord> {
        let specs = self.config().tensors();
        let tensors: Vec<(String, Vec<usize>)> = specs
            .into_iter()
            .map(|spec| (spec.name, spec.shape))
            .collect();
        write_tensors(path, &tensors, dtype, |name| {
            let var = self
                .params()
                .get(name)
                .ok_or_else(|| Error::usage(format!("the model lacks tensor `{name}`")))?;
            let adapter = self
                .adapters()
                .and_then(|adapters| adapters.of(name.strip_suffix(".weight")?, Mode::Inference));
            match adapter {
                Some(adapter) => adapter
                    .merged(&var.as_detached_tensor())
                    .during(|| format!("merging the adapter of `{name}`")),
                None => Ok(var.as_detached_tensor()),
            }
        })
    }
}

/// Fills a folder beside `dir` with `write`, which returns what it wrote, adds the record of its
/// files, then puts it in the place of `dir`.
fn replace(dir: &Path, write: impl FnOnce(&Path) -> Result<FolderRecord>) -> Result<()> {
    let name = dir
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| Error::file(dir, "expected the path of a folder to write"))?;
    let parent = match dir.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    std::fs::create_dir_all(&parent).at(&parent)?;
    let partial = parent.join(format!(".{name}.partial"));
    remove(&partial)?;
    std::fs::create_dir(&partial).at(&partial)?;
    let written = write(&partial).and_then(|record| record.write(&partial, &[]));
    if let Err(error) = written {
        // The first failure is the one to report.
        let _ = remove(&partial);
        return Err(error);
    }
    let old = parent.join(format!(".{name}.old"));
    remove(&old)?;
    if dir.exists() {
        std::fs::rename(dir, &old).at(dir)?;
    }
    std::fs::rename(&partial, dir).at(dir)?;
    remove(&old)
}

/// Writes a safetensors file of `tensors` (names and shapes) in `dtype`, asking `get` for one
/// after the other; returns what was written.
pub(super) fn write_tensors(
    path: &Path,
    tensors: &[(String, Vec<usize>)],
    dtype: DType,
    mut get: impl FnMut(&str) -> Result<Tensor>,
) -> Result<FileRecord> {
    let dtype_name = dtype_names(dtype)?.0;
    let mut header = Map::new();
    // transformers refuses files that do not say this.
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut offset = 0u64;
    for (name, shape) in tensors {
        let bytes = shape
            .iter()
            .try_fold(dtype.size_in_bytes() as u64, |product, &dim| {
                product.checked_mul(dim as u64)
            })
            .ok_or_else(|| Error::file(path, "the model is too large for one file"))?;
        header.insert(
            name.clone(),
            json!({ "dtype": dtype_name, "shape": shape, "data_offsets": [offset, offset + bytes] }),
        );
        offset += bytes;
    }
    let mut header = serde_json::to_vec(&header).during(|| "writing a header".to_owned())?;
    // The tensors start at a multiple of eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');

    let file = File::create(path).at(path)?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    header.splice(..0, (header.len() as u64).to_le_bytes());
    out.write_all(&header).at(path)?;
    let mut written = Vec::with_capacity(tensors.len());
    for (name, _) in tensors {
        let bytes = bytes(&get(name)?, dtype).during(|| format!("reading tensor `{name}`"))?;
        out.write_all(&bytes).at(path)?;
        written.push((bytes.len() as u64, cells::of_tensor(&bytes)));
    }
    out.flush().at(path)?;
    Ok(cells::of_file(&header, written))
}

/// Names of a dtype in safetensors and in `config.json`.
fn dtype_names(dtype: DType) -> Result<(&'static str, &'static str)> {
    match dtype {
        DType::F32 => Ok(("F32", "float32")),
        DType::F16 => Ok(("F16", "float16")),
        DType::BF16 => Ok(("BF16", "bfloat16")),
        other => Err(Error::usage(format!(
            "dtype: expected f32, f16 or bf16, found {}",
            other.as_str()
        ))),
    }
}

/// The elements of `tensor` in `dtype`, little-endian.
fn bytes(tensor: &Tensor, dtype: DType) -> candle_core::Result<Vec<u8>> {
    let values = tensor.to_dtype(dtype)?.flatten_all()?;
    Ok(match dtype {
        DType::F16 => bytemuck::cast_slice(&values.to_vec1::<half::f16>()?).to_vec(),
        DType::BF16 => bytemuck::cast_slice(&values.to_vec1::<half::bf16>()?).to_vec(),
        _ => bytemuck::cast_slice(&values.to_vec1::<f32>()?).to_vec(),
    })
}

/// Copies the tokenizer, chat template and generation settings of one model folder to another.
///
/// # Errors
/// A file that exists cannot be copied.
pub fn copy_companions(from: &Path, to: &Path) -> Result<()> {
    for name in COMPANIONS {
        let source = from.join(name);
        if source.is_file() {
            std::fs::copy(&source, to.join(name)).at(&source)?;
        }
    }
    Ok(())
}

fn remove(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io(dir, error)),
        _ => Ok(()),
    }
}
