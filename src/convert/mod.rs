//! Any model that is read here as a plain Hugging Face folder: a GGUF file, 8-bit weights with
//! their scales, a base model with an adapter.
//!
//! Weights are decoded to f32 tensor by tensor and rounded once, to the type that is wanted. The
//! tokenizer is the model's: of a GGUF file the one beside it, or else what its metadata says, as
//! `tokenizer.json`.

use std::path::PathBuf;

use candle_core::DType;
use serde_json::Value;

use crate::artifact::{Existing, Kind, Writing};
use crate::checkpoint::{Target, write_companions};
use crate::error::Result;
use crate::lora::ModelPath;
use crate::model::{Config, Rounding, write_plain};
use crate::stage::{Item, Reads, Size, Stage};
use crate::units::{Bytes, Count};
use crate::vocab::{Tokenizer, check_tokens};

/// The largest file of weights, in bytes, as transformers writes them.
const SHARD: u64 = 5_000_000_000;

/// The stage: a model, and the folder that it is written to.
#[derive(Clone, Debug)]
pub struct Convert {
    /// The model.
    pub model: ModelPath,
    /// Where its tokenizer is: a folder, or the GGUF file itself.
    pub tokenizer: PathBuf,
    /// Type of the weights that are written: F32, F16 or BF16.
    pub dtype: DType,
    /// The folder to write.
    pub out: PathBuf,
}

impl Convert {
    /// Writes the folder, and says what was changed.
    ///
    /// # Errors
    /// Those of [`write_plain`]; a tokenizer that cannot be made of the metadata, or has other
    /// tokens than the file; a folder there that may not be replaced.
    ///
    /// # Memory
    /// The largest tensor three times, in f32.
    pub fn perform(&self, existing: Existing) -> Result<Rounding> {
        let target = Target::look(&self.out, existing == Existing::Replace)?;
        let tokenizer = Tokenizer::load(&self.tokenizer)?;
        check_tokens(&self.model.base, tokenizer.vocabulary())?;
        let mut rounding = Rounding::default();
        target.begin("convert")?.fill(|dir| {
            write_companions(&self.model.base, &self.tokenizer, dir)?;
            let (record, changed) = write_plain(&self.model, dir, self.dtype, SHARD)?;
            rounding = changed;
            Ok(record)
        })?;
        Ok(rounding)
    }
}

impl Stage for Convert {
    fn name(&self) -> &'static str {
        "convert"
    }

    fn reads(&self) -> Result<Reads> {
        let tokenizer = Item::Companions(self.tokenizer.clone());
        Ok(Reads::new()
            .input("model", Item::model(self.model.clone()))
            .input("companions", tokenizer))
    }

    fn writes(&self) -> Vec<Item> {
        vec![Item::model(&self.out)]
    }

    fn changing(&self, _: Kind) -> Value {
        serde_json::json!({ "dtype": self.dtype.as_str() })
    }

    fn size(&self) -> Size {
        let width = self.dtype.size_in_bytes() as u64;
        // A model that cannot be read is an error of the step.
        Config::load(&self.model.base).map_or(Size::Small, |config| {
            Size::Bytes(config.parameters() * width)
        })
    }

    fn run(&self, Writing { existing, .. }: Writing) -> Result<String> {
        let done = self.perform(existing)?;
        let changed = match done.largest {
            None => "no weight changed".to_owned(),
            Some((largest, tensor)) => {
                format!("weights changed by {largest:.1e} at most (in `{tensor}`)")
            }
        };
        Ok(format!(
            "{} tensors in {}, {}; {changed}",
            Count(done.tensors as u64),
            self.dtype.as_str(),
            Bytes(done.bytes),
        ))
    }
}
