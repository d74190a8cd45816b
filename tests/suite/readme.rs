//! The README says what the program does: tables of keys and methods, recipes, command lines.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

pub fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

/// What lies between `<!-- name -->` and `<!-- /name -->`.
fn block<'a>(text: &'a str, name: &str) -> &'a str {
    let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let start = text.find(&open).unwrap() + open.len();
    &text[start..start + text[start..].find(&close).unwrap()]
}

/// The fenced blocks of a language.
pub fn fenced<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let open = format!("```{language}\n");
    let starts = text.match_indices(&open).map(|(at, _)| at + open.len());
    starts
        .map(|start| &text[start..start + text[start..].find("```").unwrap()])
        .collect()
}

#[test]
fn merge_methods_are_those_of_the_program() {
    let text = readme();
    let expected = fuselm::merge::methods::markdown();
    let found = block(&text, "merge-methods");
    assert_eq!(found.trim(), expected.trim(), "copy this:\n{expected}");
}

/// `section.key` and default, of every key that the program knows. Through text, because f32
/// becomes f64 with its rounding error otherwise.
fn keys(section: &str, options: impl serde::Serialize) -> Vec<(String, Value)> {
    let text = serde_json::to_string(&options).unwrap();
    let Value::Object(map) = serde_json::from_str(&text).unwrap() else {
        panic!("`{section}` is no mapping");
    };
    let each = map.into_iter().flat_map(|(key, value)| {
        let key = format!("{section}.{key}");
        match value {
            Value::Object(ref map) if !map.is_empty() => keys(&key, value),
            value => vec![(key, value)],
        }
    });
    each.collect()
}

/// The table of keys: each with its default.
fn key_rows(text: &str) -> BTreeMap<String, &str> {
    let mut rows: BTreeMap<String, &str> = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let [key, _, default] = cells[..]
            && key.contains('.')
        {
            rows.insert(key.trim_matches('`').to_owned(), default);
        }
    }
    rows
}

/// The keys of a recipe, as the README lists them.
pub fn recipe_keys() -> Vec<String> {
    key_rows(&readme()).into_keys().collect()
}

#[test]
fn keys_of_a_recipe_have_these_defaults() {
    let text = readme();
    let mut rows = key_rows(&text);
    let mut known = keys("corpus", fuselm::corpus::CorpusOptions::default());
    known.extend(keys("score", fuselm::score::ScoreOptions::default()));
    known.extend(keys("align", fuselm::align::AlignOptions::default()));
    known.extend(keys("map", fuselm::mapping::MapOptions::default()));
    known.extend(keys("project", fuselm::project::ProjectOptions::default()));
    known.extend(keys("fuse", fuselm::fuse::FuseOptions::default()));
    known.extend(keys("train", fuselm::train::TrainOptions::default()));
    for (key, default) in known {
        let found = rows
            .remove(&key)
            .unwrap_or_else(|| panic!("README.md has no row `{key}`"));
        let same = match &default {
            Value::Null => found == "none",
            Value::Bool(flag) => found == flag.to_string(),
            Value::Number(number) => found.parse::<f64>().ok() == number.as_f64(),
            Value::String(word) => found == format!("`{word}`"),
            _ => found == "required" || found == "none",
        };
        assert!(same, "`{key}`: README.md has {found}, expected {default}");
    }
    assert!(rows.is_empty(), "README.md has unknown keys: {rows:?}");
}

#[test]
fn recipes_and_merges_are_valid() {
    let text = readme();
    let dir = tempfile::tempdir().unwrap();
    let mut seen = (0, 0);
    for yaml in fenced(&text, "yaml") {
        let section = ["variants:", "sources:"];
        let whole = match section.iter().any(|key| yaml.starts_with(key)) {
            true => format!("corpus: {{ inputs: [a] }}\npivot: {{ name: p, model: m }}\n{yaml}"),
            false => yaml.to_owned(),
        };
        let yaml = whole.as_str();
        if yaml.contains("corpus:") {
            let path = dir.path().join("recipe.yml");
            fs::write(&path, yaml).unwrap();
            fuselm::recipe::Recipe::load(&path).unwrap();
            seen.0 += 1;
        } else {
            fuselm::merge::MergeConfig::from_yaml(yaml, dir.path()).unwrap();
            seen.1 += 1;
        }
    }
    assert!(seen.0 > 0 && seen.1 > 0, "{seen:?}");
}

#[test]
fn command_lines_use_options_that_exist() {
    let text = readme();
    let mut helps: BTreeMap<&str, String> = BTreeMap::new();
    let mut seen = 0;
    for line in fenced(&text, "sh").into_iter().flat_map(str::lines) {
        let line = line.split(" #").next().unwrap_or_default();
        let arguments = line
            .strip_prefix("fuselm ")
            .or_else(|| line.strip_prefix("cargo run --release -- "));
        let Some(arguments) = arguments else { continue };
        let mut words = arguments.split_whitespace();
        let command = words.next().unwrap();
        let help = helps.entry(command).or_insert_with(|| {
            let program = env!("CARGO_BIN_EXE_fuselm");
            let output = Command::new(program).args([command, "--help"]).output();
            let output = output.unwrap();
            assert!(output.status.success(), "there is no command `{command}`");
            String::from_utf8(output.stdout).unwrap()
        });
        for option in words.filter(|word| word.starts_with("--")) {
            let known = help
                .split(|c: char| c.is_whitespace() || c == ',')
                .any(|word| word == option);
            assert!(known, "`fuselm {command}` has no `{option}`");
        }
        seen += 1;
    }
    assert!(seen > 10, "the test no longer sees the commands: {seen}");
}

#[test]
fn links_lead_somewhere() {
    let text = readme();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (at, _) in text.match_indices("](") {
        let target = text[at + 2..].split(')').next().unwrap_or_default();
        if target.starts_with("http") {
            continue;
        }
        let found = match target.strip_prefix('#') {
            Some(anchor) => text.lines().any(|line| {
                let title = line.trim_start_matches('#');
                let title = title.trim().to_lowercase().replace(',', "");
                line.starts_with('#') && title.replace(' ', "-") == anchor
            }),
            None => root.join(target).exists(),
        };
        assert!(found, "README.md links to `{target}`");
    }
}
