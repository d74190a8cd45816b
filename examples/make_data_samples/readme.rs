//! The README of the samples: `readme.md` with its tables filled in.

use anyhow::Result;

use crate::{Files, Model, Sample};

/// Mean bytes of a token over the answers of a subject.
fn bytes_per_token(model: &Model, samples: &[Sample]) -> Result<f64> {
    let (mut bytes, mut tokens) = (0, 0);
    for sample in samples {
        bytes += sample.assistant.len();
        tokens += model.tokenizer.encode(&sample.assistant)?.len();
    }
    Ok(bytes as f64 / tokens as f64)
}

/// The text, from the files without it.
pub fn text(files: &Files, models: &[Model], valid: &[(&str, Vec<Sample>)]) -> Result<String> {
    let mut table = String::from("| file | bytes | lines |\n|---|---|---|\n");
    for (path, content) in files {
        let count = content.iter().filter(|byte| **byte == b'\n').count();
        let rows = if path.ends_with(".jsonl") {
            count.to_string()
        } else {
            String::new()
        };
        table += &format!("| `{path}` | {} | {rows} |\n", content.len());
    }
    let subjects: Vec<&(&str, Vec<Sample>)> = valid.iter().step_by(2).collect();
    let names: Vec<&str> = subjects.iter().map(|(name, _)| *name).collect();
    let mut shapes = format!(
        "| model | shape | parameters | tokenizer | ids | bytes/token on {} |\n|---|---|---|---|---|---|\n",
        names.join(", ")
    );
    for model in models {
        let mut ratios = Vec::new();
        for (_, samples) in &subjects {
            ratios.push(format!("{:.2}", bytes_per_token(model, samples)?));
        }
        shapes += &format!(
            "| `{}` | {} | {} | {} | {} | {} |\n",
            model.name,
            model.shape.words(),
            model.shape.parameters(model.tokenizer.size),
            model.kind,
            model.tokenizer.size,
            ratios.join(", ")
        );
    }
    let mut examples = String::new();
    for (name, samples) in &subjects {
        examples += &format!("`{name}`\n\n");
        for sample in samples.iter().take(2) {
            let quoted = |text: &str| text.replace('\n', "\n> ");
            examples += &format!(
                "> **{}**\n>\n> ```text\n> {}\n> ```\n\n",
                quoted(&sample.user),
                quoted(&sample.assistant)
            );
        }
    }
    let readme = include_str!("readme.md");
    Ok(readme
        .replace("{files}", &table)
        .replace("{models}", &shapes)
        .replace("{examples}", examples.trim_end()))
}
