//! The files of a merged checkpoint besides its weights: config, tokenizer, model card.

use std::path::Path;

use serde_json::Value;

use super::plan::Plan;
use super::template::write_template;
use crate::checkpoint::{CONFIG, Companions, GENERATION, Role, remove_quantisation};
use crate::error::{Context, Result};
use crate::files::{json_text, read_json};
use crate::tensors::Dtype;

/// Writes everything but the weights into `dir`.
///
/// # Errors
///
/// Files that cannot be read or written.
pub(super) fn write_companions(plan: &Plan, dir: &Path) -> Result<()> {
    let reference = &plan.models[plan.matched.reference];
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        std::fs::write(&path, text).at(&path)
    };
    write(CONFIG, json_text(&output_config(plan)?))?;
    let companions = Companions::of(&reference.dir)?;
    let quantised = |role| role == Role::Quantisation && reference.packed.is_some();
    companions.copy(dir, |role| role == Role::Other || quantised(role))?;
    match &plan.tokenizer {
        None => {
            let other = reference.tokenizer_dir();
            let own = other == reference.dir;
            let copied = |role: Role| role == Role::Generation || (own && role.is_tokenizer());
            companions.copy(dir, copied)?;
            if !own {
                Companions::of(other)?.copy(dir, Role::is_tokenizer)?;
            }
        }
        Some(files) => {
            files.write(dir)?;
            if let Some(Value::Object(mut map)) = read_json(&reference.dir.join(GENERATION))? {
                files.correct_ids(GENERATION, &mut map)?;
                write(GENERATION, json_text(&Value::Object(map)))?;
            }
        }
    }
    write_template(plan, dir)?;
    write("README.md", card(plan)?)
}

/// The reference's config with the output's dtype, number of layers and vocabulary.
fn output_config(plan: &Plan) -> Result<Value> {
    let reference = &plan.models[plan.matched.reference];
    let mut config = plan.matched.config.clone();
    let Some(map) = config.as_object_mut() else {
        return Ok(config);
    };
    if reference.packed.is_none() {
        // Weights of 8 bits are written as the numbers they stand for.
        remove_quantisation(map);
    }
    if let Some(files) = &plan.tokenizer {
        files.correct_config(map)?;
    }
    let dtype = plan.matched.tensors.iter().map(|tensor| tensor.dtype);
    if let Some(dtype) = dtype.clone().find(|dtype| Dtype::is_float(*dtype))
        && reference.packed.is_none()
    {
        let key = if map.contains_key("dtype") {
            "dtype"
        } else {
            "torch_dtype"
        };
        map.insert(key.into(), dtype.torch_name().into());
        if key == "dtype" && map.contains_key("torch_dtype") {
            map.insert("torch_dtype".into(), dtype.torch_name().into());
        }
    }
    Ok(config)
}

/// The model card.
fn card(plan: &Plan) -> Result<String> {
    let method = plan.config.method;
    let configuration =
        serde_saphyr::to_string(&plan.config.source).during(|| "writing the model card".into())?;
    let name = plan
        .target
        .out()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let models: Vec<String> = plan
        .models
        .iter()
        .map(|model| {
            let base = plan.config.base_model.as_ref() == Some(&model.name);
            format!("* `{}`{}\n", model.name, if base { " (base)" } else { "" })
        })
        .collect();
    let vocabulary = match &plan.tokenizer {
        Some(files) => format!("## Vocabulary\n\n* {}\n\n", files.summary.join("\n* ")),
        None => String::new(),
    };
    Ok(format!(
        "---\nlibrary_name: transformers\ntags:\n- merge\n---\n# {name}\n\n\
         A merge made by fuselm {} with the method [`{}`]({}): {}.\n\n\
         ## Models\n\n{}\n{vocabulary}## Configuration\n\n```yaml\n{configuration}```\n",
        env!("CARGO_PKG_VERSION"),
        method.name,
        method.paper,
        method.summary,
        models.concat(),
    ))
}
