//! The configuration of a model, as it was written.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::companions::CONFIG;
use super::gguf::{Gguf, is_gguf};
use crate::error::Result;
use crate::files::read_object;

/// The fields of a model folder's `config.json`, or what a GGUF file has of them; and the file that
/// they are in, for messages.
///
/// # Errors
/// A file that is missing, damaged or no JSON object.
pub fn read_config(model: &Path) -> Result<(Map<String, Value>, PathBuf)> {
    if is_gguf(model) {
        let gguf = Gguf::open(model)?;
        return Ok((gguf.config()?, gguf.path().to_path_buf()));
    }
    let path = model.join(CONFIG);
    Ok((read_object(&path)?, path))
}
