//! Bits per byte: what is counted above the line covers the bytes below it, and no others.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::program::{Workshop, files, shared};

/// Texts of the shared cases that spell out `<s>`, and those beside them that do not.
fn cases(shared: &Path) -> Vec<(PathBuf, Option<PathBuf>)> {
    let root = shared.join("cases");
    if !root.is_dir() {
        return Vec::new();
    }
    let texts: Vec<(PathBuf, bool)> = files(&root)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "jsonl"))
        .filter_map(|path| {
            let content = fs::read_to_string(&path).ok()?;
            let first: Value = serde_json::from_str(content.lines().next()?).ok()?;
            let text = first.get("text")?.as_str()?;
            let plain = first.as_object()?.len() == 1;
            plain.then(|| (path.clone(), text.contains("<s>")))
        })
        .collect();
    let beside = |path: &Path| {
        let mut plain = texts.iter().filter(|(_, tagged)| !tagged);
        let found = plain.find(|(other, _)| other.parent() == path.parent());
        found.map(|(other, _)| other.clone())
    };
    let tagged = texts.iter().filter(|(_, tagged)| *tagged);
    tagged
        .map(|(path, _)| (path.clone(), beside(path)))
        .collect()
}

/// Copies a model under `models/name`, with `<s>` and `</s>` renamed if need be.
fn copy_model(workshop: &Workshop, from: &Path, name: &str, rename: bool) {
    let to = workshop.path("models").join(name);
    fs::create_dir_all(&to).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let mut text = fs::read_to_string(from.join(file)).unwrap();
        if rename {
            text = text
                .replace("\"<s>\"", "\"<|one|>\"")
                .replace("\"</s>\"", "\"<|two|>\"");
        }
        fs::write(to.join(file), text).unwrap();
    }
}

fn bits(workshop: &Workshop, model: &str, text: &Path, options: &str) -> f64 {
    let line = format!(
        "eval --model models/{model} --data text={} --json {options}",
        text.display()
    );
    let found: Value = serde_json::from_str(&workshop.fuselm(&line).exits(0).stdout).unwrap();
    found[0]["bpb"].as_f64().unwrap()
}

#[test]
fn special_tokens_in_the_text_count_as_its_bytes_do() {
    let Some(shared) = shared() else { return };
    let model = shared.join("assets/models/stories260K");
    let cases = cases(&shared);
    if cases.is_empty() {
        eprintln!("skipped: no text with `<s>` in {}/cases", shared.display());
    }
    let workshop = Workshop::new();
    copy_model(&workshop, &model, "plain", false);
    copy_model(&workshop, &model, "renamed", true);
    for (text, without) in cases {
        let (own, renamed) = (
            bits(&workshop, "plain", &text, ""),
            bits(&workshop, "renamed", &text, ""),
        );
        // cases/README.md, taken with transformers: tags as text, and special tokens counted.
        assert!((renamed - 2.8205).abs() < 1e-3, "{renamed}");
        assert!((own - renamed).abs() < 1e-6, "{own} {renamed}");
        let tokens = bits(&workshop, "plain", &text, "--special-tokens tokens");
        assert!((tokens - 1.9988).abs() < 1e-3, "{tokens}");
        if let Some(without) = without {
            let (a, b) = (
                bits(&workshop, "plain", &without, ""),
                bits(&workshop, "renamed", &without, ""),
            );
            assert!((a - b).abs() < 1e-6 && (a - 0.7754).abs() < 1e-3, "{a} {b}");
        }
        // The same figures from a run, in both places where it has them.
        let recipe = format!(
            "run: run\ncorpus: {{ inputs: [{}], max_tokens: 512 }}\n\
             pivot: {{ name: plain, model: models/plain }}\n\
             sources: [{{ name: renamed, model: models/renamed }}]\n\
             train: {{ max_steps: 1 }}\n",
            text.display()
        );
        workshop.write("content.yml", &recipe);
        workshop.fuselm("run content.yml").exits(0);
        for view in ["sequence_metrics", "sequence_ce"] {
            let sql = format!(
                "SELECT sum(nll) / (ln(2) * sum(bytes)) AS bpb, sum(tokens) AS tokens FROM {view} \
                 WHERE teacher = 'plain'"
            );
            let rows = workshop.query("run", &sql);
            let found = rows[0]["bpb"].as_f64().unwrap();
            assert!(
                (found - own).abs() < 1e-3,
                "{view}: {found}, eval has {own}"
            );
        }
        workshop.fuselm("check run").exits(0);
    }
}
