//! Writing any model that is read here as a plain Hugging Face folder.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::options::{LoadOptions, Mode};
use super::save::{bytes, config_text, stored_dtype};
use super::source::Source;
use crate::checkpoint::{CONFIG, FolderRecord, Layout};
use crate::error::{Context, Error, Result};
use crate::lora::ModelPath;
use crate::progress::{Bar, check_interrupt};
use crate::tensors;

/// What writing weights in another type changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rounding {
    /// Tensors that were written.
    pub tensors: usize,
    /// Bytes of weights that were written.
    pub bytes: u64,
    /// The largest difference between a weight as it was read (decoded to f32) and as it was
    /// written, and its tensor; nothing where no weight changed.
    pub largest: Option<(f64, String)>,
}

impl Rounding {
    fn add(&mut self, name: &str, difference: f64) {
        let known = self.largest.as_ref().map_or(0.0, |(known, _)| *known);
        if difference > known {
            self.largest = Some((difference, name.to_owned()));
        }
    }
}

/// Writes configuration and weights of `model` (a folder or GGUF file, with an adapter or
/// without) to the folder `dir`, which exists: in `dtype`, decoded, the adapter applied.
///
/// Memory: the largest tensor three times, in f32.
///
/// # Errors
/// Those of reading the model; a frequency scaling that a `config.json` cannot say; a weight that
/// is not finite, or too large for `dtype`; failed writes.
pub fn write_plain(
    model: &ModelPath,
    dir: &Path,
    dtype: DType,
    shard_size: u64,
) -> Result<(FolderRecord, Rounding)> {
    let source = Source::open(model.clone())?;
    let config = source.plain_config()?;
    let stored = stored_dtype(dtype)?;
    let specs = source.config().tensors();
    let laid_out = specs.iter().map(|spec| tensors::TensorSpec {
        name: spec.name.clone(),
        dtype: stored,
        shape: spec.shape.clone(),
    });
    let layout = Layout::new(laid_out.collect(), shard_size)?;
    let mut rounding = Rounding {
        tensors: specs.len(),
        bytes: layout.bytes(),
        largest: None,
    };
    let options = LoadOptions {
        device: Device::Cpu,
        dtype: DType::F32,
        mode: Mode::Inference,
    };
    let bar = Bar::new("convert", rounding.bytes, "bytes");
    let mut specs = specs.iter();
    let record = layout.write(dir, |laid_out| {
        check_interrupt()?;
        let spec = specs.find(|spec| spec.name == laid_out.name);
        let spec = spec.ok_or_else(|| Error::internal("tensors are not in their order"))?;
        let read = source.read(spec, &options)?;
        let (written, difference) =
            round(&read, dtype).during(|| format!("converting tensor `{}`", spec.name))?;
        if !difference.is_finite() {
            return Err(unfit(model, &spec.name, dtype));
        }
        rounding.add(&spec.name, difference);
        let bytes = bytes(&written, dtype).during(|| format!("reading tensor `{}`", spec.name))?;
        bar.advance(bytes.len() as u64);
        Ok(bytes)
    })?;
    let path = dir.join(CONFIG);
    std::fs::write(&path, config_text(&config, dtype)?).at(&path)?;
    Ok((record, rounding))
}

/// A tensor in `dtype`, and the largest difference from before: not finite if a weight is not.
fn round(read: &Tensor, dtype: DType) -> candle_core::Result<(Tensor, f64)> {
    let written = read.to_dtype(dtype)?;
    let difference = written.to_dtype(DType::F32)?.sub(read)?.abs()?;
    // The largest of numbers skips what is no number, a sum does not.
    let sum = difference.sum_all()?.to_scalar::<f32>()?;
    let largest = difference.flatten_all()?.max(0)?.to_scalar::<f32>()?;
    let largest = if sum.is_finite() { largest } else { sum };
    Ok((written, f64::from(largest)))
}

fn unfit(model: &ModelPath, name: &str, dtype: DType) -> Error {
    let problem = format!(
        "tensor `{name}` has a weight that is not finite, or too large for {}",
        dtype.as_str()
    );
    Error::input(model.to_string(), problem).remedy("try `f32`, which holds whatever was stored")
}
