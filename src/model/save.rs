//! Writing a Hugging Face model folder.

use std::path::Path;

use candle_core::{DType, Tensor};
use serde_json::{Map, Value, json};

use super::decoder::Decoder;
use super::lora::LoraSave;
use super::options::Mode;
use crate::checkpoint::{
    CONFIG, Companions, FolderRecord, Layout, Place, Role, SINGLE, Target, remove_quantisation,
};
use crate::error::{Context, Error, Result};
use crate::files::json_text;
use crate::progress::note;
use crate::tensors::{Dtype, TensorSpec};

impl Decoder {
    /// Writes the model to `dir` as a folder that `transformers` loads: `model.safetensors` in
    /// `dtype`, `config.json` as it was read with its dtype updated, and the tokenizer, template
    /// and generation files of `base_dir`. Adapters are merged into the projections.
    ///
    /// The folder is written beside its final name and renamed; an existing `dir` is replaced.
    /// Memory: one tensor.
    ///
    /// # Errors
    /// `dtype` is not F32, F16 or BF16; a file cannot be written; those of [`Target`].
    pub fn save(&self, dir: &Path, base_dir: &Path, dtype: DType) -> Result<()> {
        self.save_lora(dir, base_dir, dtype, LoraSave::Merged)
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
        let target = Target::look(dir, true)?;
        self.publish(target.begin("train")?, base_dir, dtype, what)
    }

    /// [`Decoder::save_lora`] to a place that is held already.
    ///
    /// # Errors
    /// Those of [`Decoder::save_lora`].
    pub fn publish(
        &self,
        place: Place<'_>,
        base_dir: &Path,
        dtype: DType,
        what: LoraSave,
    ) -> Result<()> {
        let write_adapter = |dir: &Path| match self.adapters() {
            Some(adapters) => adapters.write(dir, base_dir),
            None => Err(Error::usage("the model has no adapters to write")),
        };
        place.fill(|dir| match what {
            LoraSave::Merged => self.write_model(dir, base_dir, dtype),
            LoraSave::Adapter => {
                let record = write_adapter(dir)?;
                // The base is named, not replaced: its code and notes stay with it.
                let wanted = |role| !matches!(role, Role::Quantisation | Role::Other);
                Companions::of(base_dir)?.copy(dir, wanted)?;
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
        let record = self.write_weights(dir, dtype)?;
        let path = dir.join(CONFIG);
        std::fs::write(&path, config_text(&self.config().raw, dtype)?).at(&path)?;
        let companions = Companions::of(base_dir)?;
        let why = |role| (role == Role::Quantisation).then_some("the result is not quantised");
        companions.copy(dir, |role| why(role).is_none())?;
        if let Some(left) = companions.left_out(why) {
            note(left);
        }
        Ok(record)
    }

    fn write_weights(&self, dir: &Path, dtype: DType) -> Result<FolderRecord> {
        let stored = stored_dtype(dtype)?;
        let specs = self.config().tensors().into_iter();
        let specs = specs.map(|spec| TensorSpec {
            name: spec.name,
            dtype: stored,
            shape: spec.shape,
        });
        Layout::single(specs.collect(), SINGLE)?.write(dir, |TensorSpec { name, .. }| {
            let var = self
                .params()
                .get(name)
                .ok_or_else(|| Error::usage(format!("the model lacks tensor `{name}`")))?;
            let adapter = self
                .adapters()
                .and_then(|adapters| adapters.of(name.strip_suffix(".weight")?, Mode::Inference));
            let tensor = match adapter {
                Some(adapter) => adapter
                    .merged(&var.as_detached_tensor())
                    .during(|| format!("merging the adapter of `{name}`"))?,
                None => var.as_detached_tensor(),
            };
            bytes(&tensor, dtype).during(|| format!("reading tensor `{name}`"))
        })
    }
}

/// The `config.json` of a model whose weights are written in `dtype`.
pub(super) fn config_text(raw: &Map<String, Value>, dtype: DType) -> Result<String> {
    let mut config = raw.clone();
    let field = if config.contains_key("dtype") {
        "dtype"
    } else {
        "torch_dtype"
    };
    config.insert(field.to_owned(), json!(stored_dtype(dtype)?.torch_name()));
    // The weights that are written are not quantised, even if those that were read are.
    remove_quantisation(&mut config);
    Ok(json_text(&Value::Object(config)))
}

/// The dtype of files in which `dtype` is written.
pub(super) fn stored_dtype(dtype: DType) -> Result<Dtype> {
    match dtype {
        DType::F32 => Ok(Dtype::F32),
        DType::F16 => Ok(Dtype::F16),
        DType::BF16 => Ok(Dtype::BF16),
        other => Err(Error::usage(format!(
            "dtype: expected f32, f16 or bf16, found {}",
            other.as_str()
        ))),
    }
}

/// The elements of `tensor` in `dtype`, little-endian.
pub(super) fn bytes(tensor: &Tensor, dtype: DType) -> candle_core::Result<Vec<u8>> {
    let values = tensor.to_dtype(dtype)?.flatten_all()?;
    Ok(match dtype {
        DType::F16 => bytemuck::cast_slice(&values.to_vec1::<half::f16>()?).to_vec(),
        DType::BF16 => bytemuck::cast_slice(&values.to_vec1::<half::bf16>()?).to_vec(),
        _ => bytemuck::cast_slice(&values.to_vec1::<f32>()?).to_vec(),
    })
}
