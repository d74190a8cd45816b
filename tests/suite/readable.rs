//! Artifacts are plain Parquet: read here with the `parquet` crate alone, as pyarrow would.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use arrow::array::{Array, AsArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, UInt16Type, UInt32Type, UInt64Type};
use fuselm::artifact::Kind;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::program::{Workshop, files, parts};
use super::rows::all_rows;

/// Where the design puts each artifact; `*` is a name.
const FOLDERS: [(&str, &str); 14] = [
    ("models", "models"),
    ("samples", "samples"),
    ("transcripts", "transcripts/template=*"),
    ("vocab", "vocab/vocab=*"),
    ("tokens", "tokens/vocab=*/template=*"),
    ("topk", "topk/teacher=*"),
    ("sequence_metrics", "sequence_metrics/teacher=*"),
    ("alignment", "alignment/teacher=*"),
    ("token_map", "token_map/teacher=*"),
    ("projected", "projected/teacher=*"),
    ("targets", "targets/fusion=*"),
    ("steps", "steps/target=*"),
    ("merge_stats", "merge_stats/merge=*"),
    ("eval_items", "eval_items/model=*"),
];

/// A folder's path with the names that partitions have replaced by `*`.
fn pattern(path: &Path) -> String {
    let parts = path.iter().map(|part| {
        let part = part.to_string_lossy();
        match part.split_once('=') {
            Some((key, _)) => format!("{key}=*"),
            None => part.into_owned(),
        }
    });
    parts.collect::<Vec<_>>().join("/")
}

/// The type that a reader without Arrow's own metadata sees.
fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => plain(values),
        other => other.clone(),
    }
}

#[test]
fn every_artifact_is_plain_parquet() {
    let workshop = Workshop::new();
    workshop.fuselm("run recipe.yml").exits(0);
    let run = workshop.path("run");
    let mut seen = BTreeSet::new();
    for path in files(&run) {
        if path
            .extension()
            .is_none_or(|extension| extension != "parquet")
        {
            continue;
        }
        let inside = path.strip_prefix(&run).unwrap();
        let (folder, name) = (inside.parent().unwrap(), inside.file_name().unwrap());
        let name = name.to_string_lossy();
        assert!(name.starts_with("part-0000"), "{}", path.display());
        let place = pattern(folder);
        let (kind, _) = FOLDERS
            .into_iter()
            .find(|(_, folder)| *folder == place)
            .unwrap_or_else(|| panic!("`{place}` is no folder of the design"));
        seen.insert(kind);
        check_columns(
            &path,
            Kind::ALL.into_iter().find(|k| k.name() == kind).unwrap(),
        );
        check_footer(&path, kind);
    }
    assert_eq!(seen.len(), FOLDERS.len(), "{seen:?}");
    check_parts(&run.join("topk/teacher=market"), 3);
    check_mass(&run.join("topk/teacher=market/part-00000.parquet"));
}

fn check_columns(path: &Path, kind: Kind) {
    let rows = all_rows(path);
    assert!(rows.num_rows() > 0, "{} is empty", path.display());
    let (found, expected) = (rows.schema(), kind.stored_schema());
    assert_eq!(found.fields().len(), expected.fields().len(), "{kind}");
    for (found, expected) in found.fields().iter().zip(expected.fields()) {
        assert_eq!(found.name(), expected.name(), "{kind}");
        assert_eq!(found.data_type(), &plain(expected.data_type()), "{kind}");
        assert_eq!(found.is_nullable(), expected.is_nullable(), "{kind}");
    }
}

/// The footer says what the artifact is and what it was made from.
fn check_footer(path: &Path, kind: &str) {
    let reader = SerializedFileReader::new(File::open(path).unwrap()).unwrap();
    let pairs = reader.metadata().file_metadata().key_value_metadata();
    let pair = pairs.unwrap().iter().find(|pair| pair.key == "fuselm");
    let text = pair.and_then(|pair| pair.value.as_deref()).unwrap();
    let footer: serde_json::Value = serde_json::from_str(text).unwrap();
    let provenance = &footer["provenance"];
    assert_eq!(provenance["kind"], kind);
    for key in ["format", "tool", "options", "inputs"] {
        assert!(!provenance[key].is_null(), "{kind} says no `{key}`");
    }
}

/// Parts hold contiguous ranges of samples, in order.
fn check_parts(dir: &Path, count: usize) {
    let parts: Vec<_> = parts(dir).iter().map(|path| all_rows(path)).collect();
    assert_eq!(parts.len(), count);
    let all = concat_batches(&parts[0].schema(), &parts).unwrap();
    let samples = all.column_by_name("sample_id").unwrap();
    let samples = samples.as_primitive::<UInt64Type>().values().to_vec();
    assert!(samples.is_sorted());
    for (index, part) in parts.iter().enumerate() {
        let column = part.column_by_name("sample_id").unwrap();
        let samples = column.as_primitive::<UInt64Type>();
        assert!(samples.values().iter().all(|id| *id as usize / 8 == index));
    }
}

/// What is listed and what is left make one, by the expressions that `artifact::encoding`
/// documents.
fn check_mass(path: &Path) {
    let rows = all_rows(path);
    let numbers = |name: &str| {
        let column = rows.column_by_name(name).unwrap();
        column.as_primitive::<UInt16Type>().values().to_vec()
    };
    let (tail, base, place) = (
        numbers("tail_level"),
        numbers("base_level"),
        numbers("target_place"),
    );
    let other = rows.column_by_name("target_other").unwrap();
    let levels = rows.column_by_name("levels").unwrap().as_list::<i32>();
    let gaps = rows.column_by_name("id_gaps").unwrap().as_list::<i32>();
    let prob = |level: u16| (f64::from(level) / 432.0).powi(4);
    for row in 0..rows.num_rows() {
        let list = levels.value(row);
        let list = list.as_primitive::<UInt16Type>();
        assert_eq!(list.len(), 8);
        let listed: f64 = list.values().iter().map(|x| prob(x + base[row])).sum();
        let mass = listed + prob(tail[row]);
        assert!((mass - 1.0).abs() < 1e-2, "row {row}: {mass}");
        let gaps = gaps.value(row);
        let gaps = gaps.as_primitive::<UInt32Type>().values().to_vec();
        assert!(gaps[1..].iter().all(|gap| *gap > 0), "row {row}");
        assert!(usize::from(place[row]) <= gaps.len());
        assert_eq!(place[row] == 0, other.is_valid(row));
    }
}
