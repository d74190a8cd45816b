//! Parquet files as any other program reads them: no Arrow types, no footers of ours.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use super::program::files;

/// Rows without the times that no two runs share.
fn without_times(mut rows: RecordBatch) -> RecordBatch {
    if let Ok(index) = rows.schema().index_of("wall_ms") {
        rows.remove_column(index);
    }
    rows
}

fn rows(path: &Path) -> RecordBatch {
    without_times(all_rows(path))
}

/// All rows of a file.
pub fn all_rows(path: &Path) -> RecordBatch {
    let file = File::open(path).expect("opening a part");
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
        .expect("a Parquet file");
    let schema = builder.schema().clone();
    let batches = builder.build().expect("a Parquet file");
    let batches: Vec<RecordBatch> = batches.collect::<Result<_, _>>().expect("whole pages");
    concat_batches(&schema, &batches).expect("batches of one schema")
}

/// Fails the test unless two runs have equal rows and equal checkpoint bytes. Digests of parts may
/// differ, as footers and times do.
#[track_caller]
pub fn assert_equal_runs(a: &Path, b: &Path) {
    let names = |root: &Path| -> Vec<String> {
        let names = files(root).into_iter().map(|path| {
            let name = path.strip_prefix(root).expect("a file of the run");
            name.to_string_lossy().into_owned()
        });
        let is_record = |name: &str| name.starts_with("stages/") || name.contains("/stages/");
        names.filter(|name| !is_record(name)).collect()
    };
    let [ours, theirs] = [names(a), names(b)];
    let only = |ours: &[String], theirs: &[String]| -> Vec<String> {
        let lacking = ours.iter().filter(|name| !theirs.contains(name));
        lacking.cloned().collect()
    };
    let differing = (only(&ours, &theirs), only(&theirs, &ours));
    assert_eq!(differing, (vec![], vec![]));
    for name in ours {
        if name.contains("/_part-") {
            continue;
        }
        let (a, b) = (a.join(&name), b.join(&name));
        let equal = match name.ends_with(".parquet") {
            true => rows(&a) == rows(&b),
            false => fs::read(a).unwrap() == fs::read(b).unwrap(),
        };
        assert!(equal, "{name} differs");
    }
}

/// What a run holds, by artifact and checkpoint (`topk/teacher=math`): the files of each.
fn results(run: &Path) -> BTreeMap<String, Vec<PathBuf>> {
    let mut found: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in files(run) {
        let folder = path.parent().expect("a file of the run");
        let name = folder.strip_prefix(run).expect("a file of the run");
        found
            .entry(name.to_string_lossy().into_owned())
            .or_default()
            .push(path);
    }
    found.retain(|name, _| !name.starts_with("stages"));
    found
}

/// The artifacts and checkpoints that two runs do not have in common, whatever their parts.
pub fn differing(a: &Path, b: &Path) -> Vec<String> {
    let (ours, theirs) = (results(a), results(b));
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let equal = |a: &[PathBuf], b: &[PathBuf]| {
        let is_part = |path: &PathBuf| path.extension().is_some_and(|it| it == "parquet");
        if a.iter().chain(b).any(is_part) {
            let all = |files: &[PathBuf]| {
                let parts: Vec<RecordBatch> = files
                    .iter()
                    .filter(|it| is_part(it))
                    .map(|it| rows(it))
                    .collect();
                concat_batches(&parts[0].schema(), &parts).expect("parts of one schema")
            };
            return all(a) == all(b);
        }
        let bytes = |files: &[PathBuf]| -> Vec<Vec<u8>> {
            files
                .iter()
                .map(|path| fs::read(path).expect("reading a file"))
                .collect()
        };
        bytes(a) == bytes(b)
    };
    let differs = |name: &&String| match (ours.get(*name), theirs.get(*name)) {
        (Some(a), Some(b)) => !equal(a, b),
        _ => true,
    };
    names.into_iter().filter(differs).cloned().collect()
}
