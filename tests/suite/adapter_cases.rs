//! Adapters that PEFT wrote, in the shared folder `cases`: the figures that PEFT's reloading has on
//! its page, or a refusal by name; and an adapter where a model is wanted.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::program::{Workshop, read_json, shared};

/// The folders below `dir` that hold an adapter.
fn adapters(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else {
        return found;
    };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.join("adapter_config.json").is_file() {
            found.push(path);
        } else if path.is_dir() {
            found.extend(adapters(&path));
        }
    }
    found.sort();
    found
}

/// The bits per byte that the page has for an adapter: the numbers of its row are those of the names
/// in the row's first cell, in their order.
fn figure(page: &str, adapter: &Path) -> Option<f64> {
    let name = adapter.file_name()?.to_str()?;
    page.lines().find_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let names = cells.get(1)?.split(',');
        let names: Vec<&str> = names
            .map(|name| {
                name.trim()
                    .trim_matches('`')
                    .rsplit('/')
                    .next()
                    .unwrap_or_default()
            })
            .collect();
        let at = names.iter().position(|known| *known == name)?;
        let numbers = cells.get(3)?;
        let words = numbers.split([',', ' ']).filter(|word| !word.is_empty());
        let numbers: Vec<f64> = words
            .take_while(|word| *word != "bits")
            .filter_map(|word| word.parse().ok())
            .collect();
        numbers
            .get(at)
            .copied()
            .filter(|_| numbers.len() == names.len())
    })
}

#[test]
fn adapters_of_peft_give_the_figures_of_peft() {
    let Some(shared) = shared() else { return };
    let page = fs::read_to_string(shared.join("cases/README.md")).unwrap_or_default();
    let text = shared.join("cases/numbers/plain.jsonl");
    let workshop = Workshop::new();
    let bits = |model: &str| {
        let data = text.display();
        workshop.fuselm(&format!(
            "eval --model {model} --name m --data {data} --json"
        ))
    };
    let (mut figures, mut refused) = (0, 0);
    for adapter in adapters(&shared.join("cases")) {
        let settings = read_json(&adapter.join("adapter_config.json"));
        let base = settings["base_model_name_or_path"]
            .as_str()
            .unwrap_or_default();
        let base = shared
            .join("assets/models")
            .join(base.rsplit('/').next().unwrap_or_default());
        if !base.join("config.json").is_file() {
            eprintln!(
                "skipped: {} is for a model that is not here",
                adapter.display()
            );
            continue;
        }
        let model = format!("{}+{}", base.display(), adapter.display());
        let found = bits(&model);
        workshop.write(
            "case.yml",
            &format!("merge_method: passthrough\nmodels: ['{model}']\n"),
        );
        let merged = workshop.fuselm("merge case.yml merged --force");
        // No weights stand for it.
        if !settings["alora_invocation_tokens"].is_null() {
            let named = ["alora_invocation_tokens", "adapter_config.json"];
            found.exits(1).says(&named);
            merged.exits(1).says(&named);
            refused += 1;
            continue;
        }
        let Some(right) = figure(&page, &adapter) else {
            eprintln!("skipped: no figure for {}", adapter.display());
            continue;
        };
        for (which, output) in [
            ("adapted", found),
            ("merged", {
                merged.exits(0);
                bits("merged")
            }),
        ] {
            let rows: Value = serde_json::from_str(&output.exits(0).stdout).unwrap();
            let found = rows[0]["bpb"].as_f64().unwrap();
            let name = adapter.display();
            assert!(
                (found - right).abs() < 1e-3,
                "{name} {which}: {found}, right {right}"
            );
        }
        figures += 1;
    }
    assert!(
        figures > 0 && refused > 0,
        "{figures} figures, {refused} refusals"
    );
}

#[test]
fn an_adapter_where_a_model_is_wanted_is_named() {
    let workshop = Workshop::new();
    let dir = workshop.path("adapter");
    fs::create_dir_all(&dir).unwrap();
    let settings = json!({"peft_type": "LORA", "base_model_name_or_path": "owner/base"});
    fs::write(dir.join("adapter_config.json"), settings.to_string()).unwrap();
    fs::write(dir.join("adapter_model.bin"), "pickled").unwrap();
    workshop.write(
        "m.yml",
        "merge_method: linear\nmodels: [models/pivot, adapter]\nparameters: { weight: 1 }\n",
    );
    let named = ["a LoRA adapter for `owner/base`", "`owner/base+"];
    for line in [
        "merge m.yml out",
        "eval --model adapter --name m --data valid.jsonl",
        "generate --model adapter --raw --prompt a",
        "extract-lora models/pivot adapter out",
    ] {
        workshop.fuselm(line).exits(1).says(&named);
    }
    // With a model before it, its pickled weights are what is wrong.
    let line = "eval --model models/pivot+adapter --name m --data valid.jsonl";
    workshop
        .fuselm(line)
        .exits(1)
        .says(&["`adapter_model.bin` is pickled", "safe_serialization"]);
}
