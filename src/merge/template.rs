//! The chat template that a configuration puts in the place of the tokenizer's own.

use std::path::Path;

use super::config::ChatTemplate;
use super::plan::Plan;
use crate::checkpoint::{CHAT_TEMPLATE, TOKENIZER_CONFIG};
use crate::error::{Context, Result};
use crate::files::{edit_json, read_json};
use crate::text::chat_template_of;

/// Writes the template, if there is one, and takes the tokenizer's own out of its settings.
///
/// # Errors
///
/// Files that cannot be read or written.
pub(super) fn write_template(plan: &Plan, dir: &Path) -> Result<()> {
    let template = match &plan.config.chat_template {
        None => None,
        Some(ChatTemplate::Text(text)) => Some(text.clone()),
        Some(ChatTemplate::Commonest) => commonest(plan)?,
    };
    let Some(template) = template else {
        return Ok(());
    };
    let path = dir.join(CHAT_TEMPLATE);
    std::fs::write(&path, template).at(&path)?;
    let path = dir.join(TOKENIZER_CONFIG);
    match read_json(&path)? {
        Some(config) if config.get("chat_template").is_some() => edit_json(&path, |config| {
            config.shift_remove("chat_template");
        }),
        _ => Ok(()),
    }
}

/// The template that most of the models have; of several the one that comes first.
fn commonest(plan: &Plan) -> Result<Option<String>> {
    let mut counted: Vec<(String, usize)> = Vec::new();
    for model in &plan.models {
        let Some(template) = chat_template_of(&model.dir)? else {
            continue;
        };
        let template = template.trim();
        match counted.iter_mut().find(|(known, _)| known == template) {
            Some((_, count)) => *count += 1,
            None => counted.push((template.to_owned(), 1)),
        }
    }
    let most = counted.iter().map(|(_, count)| *count).max();
    let found = counted.into_iter().find(|(_, count)| Some(*count) == most);
    Ok(found.map(|(template, _)| template))
}
