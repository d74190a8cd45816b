//! Data flows one way: each layer imports only the layers below it, stages never each other.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Layers from the top; modules of one layer must not import each other unless it is the last.
const LAYERS: [&[&str]; 5] = [
    &["cli"],
    &["recipe"],
    &[
        "corpus", "score", "align", "mapping", "project", "fuse", "train", "merge", "eval",
        "import", "export",
    ],
    &["query"],
    &[
        "artifact",
        "integrity",
        "text",
        "vocab",
        "tensors",
        "lora",
        "model",
        "error",
        "memory",
        "progress",
        "units",
    ],
];

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

#[test]
fn imports_point_downwards() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let mut wrong = Vec::new();
    let mut edges: BTreeMap<String, usize> = BTreeMap::new();
    for path in files {
        let relative = path.strip_prefix(&src).unwrap();
        let first = relative.components().next().unwrap().as_os_str();
        let module = Path::new(first)
            .file_stem()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        if module == "lib" || module == "main" {
            continue;
        }
        let from = layer(&module)
            .unwrap_or_else(|| panic!("module `{module}` belongs to no layer; add it to LAYERS"));
        let text = fs::read_to_string(&path).unwrap();
        for root in ["crate::", "fuselm::"] {
            for (at, _) in text.match_indices(root) {
                let rest = &text[at + root.len()..];
                let names: Vec<String> = match rest.strip_prefix('{') {
                    // `use crate::{a::x, b}`: the first word of every item at depth one.
                    Some(group) => first_words(group),
                    None => vec![word(rest)],
                };
                for name in names {
                    let Some(to) = layer(&name) else { continue };
                    *edges.entry(format!("{module} -> {name}")).or_default() += 1;
                    let foundation = LAYERS.len() - 1;
                    let downwards = to > from || (to == from && from == foundation);
                    if name != module && !downwards {
                        wrong.push(format!("{}: {module} imports {name}", relative.display()));
                    }
                }
            }
        }
    }
    assert!(
        edges.len() > 30,
        "the test no longer sees imports: {edges:?}"
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn word(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

fn first_words(group: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut depth = 0;
    let mut item_start = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                item_start = true;
                continue;
            }
            c if c.is_whitespace() => continue,
            _ => {}
        }
        if item_start {
            words.push(word(&group[at..]));
            item_start = false;
        }
    }
    words
}

#[test]
fn groups_of_imports_are_seen() {
    assert_eq!(first_words("a::{b, c}, d::e,\n f};"), ["a", "d", "f"]);
}
