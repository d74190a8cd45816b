//! README.md and the pages under docs say what the program does: tables of keys and methods,
//! recipes, command lines. What a test reads may stand in any of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The Markdown files in a folder, not in those below it.
fn markdown(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "md"));
    paths.sort();
    paths
}

/// The text of README.md and of all pages under docs.
pub fn documentation() -> String {
    let mut text = fs::read_to_string(root().join("README.md")).unwrap();
    for page in markdown("docs") {
        text.push_str(&fs::read_to_string(page).unwrap());
    }
    text
}

/// What lies between `<!-- name -->` and `<!-- /name -->`, which are there once.
fn block<'a>(text: &'a str, name: &str) -> &'a str {
    let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    assert_eq!(text.matches(&open).count(), 1, "{open}");
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
    let text = documentation();
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
    let table = block(text, "recipe-keys");
    for line in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [key, _, default] = cells[..] else {
            panic!("three cells, expected in `{line}`");
        };
        rows.insert(key.trim_matches('`').to_owned(), default);
    }
    rows
}

/// The keys of a recipe, as docs/recipe.md lists them.
pub fn recipe_keys() -> Vec<String> {
    key_rows(&documentation()).into_keys().collect()
}

#[test]
fn keys_of_a_recipe_have_these_defaults() {
    let text = documentation();
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
            .unwrap_or_else(|| panic!("the table has no row `{key}`"));
        let same = match &default {
            Value::Null => found == "none",
            Value::Bool(flag) => found == flag.to_string(),
            Value::Number(number) => found.parse::<f64>().ok() == number.as_f64(),
            Value::String(word) => found == format!("`{word}`"),
            _ => found == "required" || found == "none",
        };
        assert!(same, "`{key}`: the table has {found}, expected {default}");
    }
    assert!(rows.is_empty(), "the table has unknown keys: {rows:?}");
}

#[test]
fn recipes_and_merges_are_valid() {
    let text = documentation();
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
    let text = documentation();
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

/// The lines of a page that are not in a fenced block.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// The anchors of a page's headings, made as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    let headings = prose(text).filter(|line| line.starts_with('#'));
    let slug = |line: &str| -> String {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(slug).collect()
}

#[test]
fn links_lead_somewhere() {
    let folders = ["", "docs", "sql", "data-samples", "tests/chats"];
    let mut seen = 0;
    for page in folders.into_iter().flat_map(markdown) {
        let text = fs::read_to_string(&page).unwrap();
        let lines: Vec<&str> = prose(&text).collect();
        let lines = lines.join("\n");
        for (at, _) in lines.match_indices("](") {
            let target = lines[at + 2..].split(')').next().unwrap_or_default();
            if target.starts_with("http") {
                continue;
            }
            let (path, anchor) = match target.split_once('#') {
                Some((path, anchor)) => (path, Some(anchor.to_owned())),
                None => (target, None),
            };
            let path = match path {
                "" => page.clone(),
                path => page.parent().unwrap().join(path),
            };
            let found = match anchor {
                Some(anchor) => {
                    fs::read_to_string(&path).is_ok_and(|text| anchors(&text).contains(&anchor))
                }
                None => path.exists(),
            };
            assert!(found, "{} links to `{target}`", page.display());
            seen += 1;
        }
    }
    assert!(seen > 50, "the test no longer sees the links: {seen}");
}

/// Names of pages in sources, scripts and messages, as in `docs/cuda.md`.
#[test]
fn pages_that_sources_name_are_there() {
    let mut folders = ["src", "benches", "examples", "scripts", "tests", ".ci"]
        .map(|folder| root().join(folder))
        .to_vec();
    let mut files = vec![root().join("Cargo.toml")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push(path),
            }
        }
    }
    let mut seen = 0;
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        for word in text.split(|c: char| !(c.is_alphanumeric() || "/._-".contains(c))) {
            let word = word.trim_end_matches('.');
            if word.starts_with("docs/") && word.ends_with(".md") {
                assert!(root().join(word).exists(), "{}: `{word}`", file.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 5, "the test no longer sees the names: {seen}");
}

#[test]
fn the_readme_is_short() {
    let lines = fs::read_to_string(root().join("README.md")).unwrap();
    let lines = lines.lines().count();
    assert!(
        lines <= 200,
        "README.md has {lines} lines: put it under docs"
    );
}
