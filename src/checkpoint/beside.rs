//! What stands beside the weights of a model: files of its folder, or what a GGUF file has in
//! their place.

use std::path::Path;

use serde_json::Value;

use super::carried::Companions;
use super::companions::{CHAT_TEMPLATE, CONFIG, GENERATION, Role, TOKENIZER, TOKENIZER_CONFIG};
use super::gguf::{Gguf, is_gguf};
use crate::error::{Context, Error, Result};
use crate::files::read_json;

/// The template for chats with tools, of folders that have two.
pub const TOOL_TEMPLATE: &str = "additional_chat_templates/tool_use.jinja";

/// The JSON file `name` of a model; `None` if it has none.
///
/// # Errors
/// A file that cannot be read, or is no JSON; a GGUF file whose metadata does not say it.
pub fn companion_json(model: &Path, name: &str) -> Result<Option<Value>> {
    match is_gguf(model) {
        true => made_json(&Gguf::open(model)?, name),
        false => read_json(&model.join(name)),
    }
}

/// The file `name` of a model as it is; `None` if it has none.
///
/// # Errors
/// A file that cannot be read; a GGUF file whose metadata does not say it.
pub fn companion_text(model: &Path, name: &str) -> Result<Option<String>> {
    if is_gguf(model) {
        return made_text(&Gguf::open(model)?, name);
    }
    let path = model.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(&path, error)),
    }
}

/// What a GGUF file has in the place of a JSON file.
fn made_json(gguf: &Gguf, name: &str) -> Result<Option<Value>> {
    Ok(match name {
        TOKENIZER => Some(gguf.tokenizer()?),
        TOKENIZER_CONFIG => Some(gguf.tokenizer_config()?),
        GENERATION => Some(gguf.generation_config()?),
        CONFIG => Some(Value::Object(gguf.config()?)),
        _ => None,
    })
}

/// What a GGUF file has in the place of a file.
fn made_text(gguf: &Gguf, name: &str) -> Result<Option<String>> {
    match name {
        CHAT_TEMPLATE => gguf.chat_template(None),
        TOOL_TEMPLATE => gguf.chat_template(Some("tool_use")),
        _ => Ok(made_json(gguf, name)?.map(|json| json.to_string())),
    }
}

/// Writes what belongs to the model `model` besides weights and configuration to the folder `to`,
/// as files; its tokenizer is that of `tokenizer` (a folder, or a GGUF file).
///
/// # Errors
/// Those of [`companion_json`]; files that cannot be written.
pub fn write_companions(model: &Path, tokenizer: &Path, to: &Path) -> Result<()> {
    if is_gguf(tokenizer) {
        let names = [TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE, TOOL_TEMPLATE];
        write_made(&Gguf::open(tokenizer)?, &names, to)?;
    } else {
        // What belongs to a tokenizer that was given belongs to the model then, not the rest.
        let own = tokenizer == model;
        let wanted = |role: Role| role.is_tokenizer() || own && role != Role::Quantisation;
        Companions::of(tokenizer)?.copy(to, wanted)?;
    }
    match is_gguf(model) {
        true => write_made(&Gguf::open(model)?, &[GENERATION], to),
        false => Ok(()),
    }
}

/// Writes what a GGUF file has in the place of these files, unless they are there.
fn write_made(gguf: &Gguf, names: &[&str], to: &Path) -> Result<()> {
    for name in names {
        let text = match *name {
            // Of those that people read, on lines of their own.
            TOKENIZER_CONFIG | GENERATION => {
                made_json(gguf, name)?.map(|json| format!("{json:#}\n"))
            }
            _ => made_text(gguf, name)?,
        };
        let path = to.join(name);
        if let (Some(text), false) = (text, path.exists()) {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).at(parent)?;
            }
            std::fs::write(&path, text).at(&path)?;
        }
    }
    Ok(())
}
