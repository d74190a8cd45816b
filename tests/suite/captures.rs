//! Captures of other programs, as they are written, in the folder `cases/import` of the shared
//! material: whatever lies there is told by its content, and belongs to the text whose tokens it
//! has.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use arrow::array::AsArray;
use arrow::datatypes::{UInt32Type, UInt64Type};
use serde_json::Value;

use super::program::{Workshop, files, parts, shared};
use super::rows::all_rows;

/// A file of records, uncompressed or not.
fn text(path: &Path) -> String {
    let bytes = fs::read(path).unwrap();
    let name = path.to_string_lossy();
    let mut text = String::new();
    use std::io::Read;
    if name.ends_with(".gz") {
        let mut decoder = flate2::read::MultiGzDecoder::new(bytes.as_slice());
        decoder.read_to_string(&mut text).unwrap();
    } else if name.ends_with(".zst") {
        text = String::from_utf8(zstd::decode_all(bytes.as_slice()).unwrap()).unwrap();
    } else {
        text = String::from_utf8_lossy(&bytes).into_owned();
    }
    text
}

/// The format of a capture; none for anything else.
fn format(path: &Path) -> Option<&'static str> {
    if path.is_file() {
        let json = [".jsonl", ".json", ".jsonl.gz", ".jsonl.zst"];
        let name = path.to_string_lossy();
        let is_json = json.iter().any(|end| name.ends_with(end));
        return (is_json && text(path).contains("\"prompt_logprobs\"")).then_some("vllm");
    }
    let inside: Vec<String> = { files(path).into_iter() }
        .map(|file| file.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    let has = |name: &str| inside.iter().any(|file| file == name);
    match (has("compression_config.yaml"), has("state.json")) {
        (true, _) => Some("distillkit"),
        (_, true) => Some("fuseai"),
        _ => None,
    }
}

/// Whether a file holds texts for a corpus.
fn is_corpus(path: &Path) -> bool {
    let first = text(path).lines().next().unwrap_or_default().to_owned();
    let first: Value = serde_json::from_str(&first).unwrap_or_default();
    first.get("text").is_some_and(Value::is_string)
}

/// What the page of the folder says of a capture: "nll 1233.6 over 1,043 tokens".
fn stated(page: &str, name: &str) -> Option<(f64, u64)> {
    let row = page
        .lines()
        .find(|line| line.starts_with(&format!("| `import/{name}`")))?;
    let (nll, rest) = row.split_once("nll ")?.1.split_once(" over ")?;
    let tokens = rest.split_once(" tokens")?.0.replace(',', "");
    Some((nll.parse().ok()?, tokens.parse().ok()?))
}

/// Sample and position of each row.
fn keys(topk: &Path) -> Vec<(u64, u32)> {
    let mut keys = Vec::new();
    for part in parts(topk) {
        let rows = all_rows(&part);
        let samples = rows.column_by_name("sample_id").unwrap();
        let samples = samples.as_primitive::<UInt64Type>().values().iter();
        let positions = rows.column_by_name("pos").unwrap();
        let positions = positions.as_primitive::<UInt32Type>().values();
        keys.extend(samples.copied().zip(positions.iter().copied()));
    }
    keys
}

/// nll and tokens of each model of a run.
fn metrics(workshop: &Workshop, run: &str) -> BTreeMap<String, (f64, u64)> {
    let query = "SELECT teacher, sum(nll) AS nll, sum(tokens) AS tokens FROM sequence_metrics GROUP BY teacher";
    let rows = workshop.query(run, query);
    let row = |row: &Value| {
        let name = row["teacher"].as_str().unwrap().to_owned();
        let figures = (
            row["nll"].as_f64().unwrap(),
            row["tokens"].as_u64().unwrap(),
        );
        (name, figures)
    };
    rows.iter().map(row).collect()
}

#[test]
fn captures_of_other_programs() {
    let Some(shared) = shared() else { return };
    let root = shared.join("cases/import");
    if !root.is_dir() {
        eprintln!("skipped: no {}", root.display());
        return;
    }
    let page = fs::read_to_string(shared.join("cases/README.md")).unwrap_or_default();
    let model = shared.join("assets/models/stories260K");
    let model = model.display();
    let entries = fs::read_dir(&root).unwrap();
    let mut entries: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let (captures, rest): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|path| format(path).is_some());
    let texts: Vec<PathBuf> = rest
        .into_iter()
        .filter(|path| path.is_file() && is_corpus(path))
        .collect();
    assert!(!captures.is_empty() && !texts.is_empty());

    let workshop = Workshop::new();
    for (at, text) in texts.iter().enumerate() {
        let text = text.display();
        workshop
            .fuselm(&format!(
                "corpus --run run{at} --input {text} --model pivot={model}"
            ))
            .exits(0);
        workshop
            .fuselm(&format!(
                "score --run run{at} --name pivot --model {model} --top-k 8"
            ))
            .exits(0);
    }
    // Rows of each format and text: all captures of the same have the same.
    let mut rows: BTreeMap<(&str, usize), Vec<(u64, u32)>> = BTreeMap::new();
    let mut imported = 0;
    for (number, capture) in captures.iter().enumerate() {
        let format = format(capture).unwrap();
        let from = capture.display();
        let mut said = String::new();
        let mut fits = 0;
        for at in 0..texts.len() {
            let done = workshop.fuselm(&format!(
                "import --run run{at} --name c{number} --tokenizer {model} --format {format} --from {from}"
            ));
            if done.code != 0 {
                said += &done.stderr;
                continue;
            }
            fits += 1;
            let all = metrics(&workshop, &format!("run{at}"));
            let ((nll, tokens), own) = (all[&format!("c{number}")], all["pivot"]);
            let (each, expected) = (nll / tokens as f64, own.0 / own.1 as f64);
            // DistillKit's lists are approximations, and a true token that they lack counts with
            // the most that it can have.
            let near = match format {
                "distillkit" => 0.8..1.15,
                _ => 0.98..1.02,
            };
            assert!(
                near.contains(&(each / expected)),
                "{from}: {each}, {expected}"
            );
            let name = capture.file_name().unwrap().to_string_lossy();
            if let Some((stated, count)) = stated(&page, &name) {
                assert_eq!(tokens, count, "{from}");
                assert!(
                    (nll - stated).abs() < 0.06,
                    "{from}: {nll}, expected {stated}"
                );
            }
            let found = keys(&workshop.path(&format!("run{at}/topk/teacher=c{number}")));
            let first = rows.entry((format, at)).or_insert_with(|| found.clone());
            assert_eq!(first, &found, "{from}");
        }
        assert!(fits > 0, "{from} belongs to no text:\n{said}");
        imported += 1;
    }
    assert_eq!(imported, captures.len());
    for at in 0..texts.len() {
        workshop.fuselm(&format!("check run{at}")).exits(0);
    }
}
