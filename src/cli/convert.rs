//! `fuselm convert`.

use std::path::PathBuf;

use clap::Args;
use fuselm::checkpoint::tokenizer_dir;
use fuselm::convert::Convert;
use fuselm::error::Result;
use fuselm::lora;

use super::{Force, perform};

/// Write a GGUF file, a quantised model or a model with an adapter as a plain Hugging Face folder.
///
/// The folder has safetensors weights, configuration, tokenizer and chat template; transformers
/// loads it, and it can be trained and merged. What rounding to the type changed is said.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  fuselm convert SmolLM2-135M.Q4_1.gguf smollm2\n  fuselm convert base+adapter merged --dtype f32"
)]
pub struct Command {
    /// The model: a GGUF file, a folder or a Hugging Face id, with `+ADAPTER` after it or without
    model: String,
    /// Model folder to write
    out_dir: PathBuf,
    /// Type of the weights: f32 (exact), bf16 or f16
    #[arg(long, default_value = "bf16", value_name = "TYPE")]
    dtype: String,
    /// Folder or Hugging Face id of the model's tokenizer [default: the model's own]
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<String>,
    #[command(flatten)]
    force: Force,
}

pub fn run(command: &Command) -> Result<()> {
    let model = lora::locate(&command.model)?;
    let stage = Convert {
        tokenizer: tokenizer_dir(&model.base, command.tokenizer.as_deref())?,
        model,
        dtype: fuselm::model::dtype(&command.dtype)?,
        out: command.out_dir.clone(),
    };
    perform(
        &stage,
        &command.out_dir.display().to_string(),
        command.force.existing(),
    )
}
