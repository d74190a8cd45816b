//! Parquet files as any other program reads them: no Arrow types, no footers of ours.

use std::fs::{self, File};
use std::path::Path;

use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use super::program::files;

/// All rows of a file, without the times that no two runs share.
fn rows(path: &Path) -> RecordBatch {
    let mut all = all_rows(path);
    if let Ok(index) = all.schema().index_of("wall_ms") {
        all.remove_column(index);
    }
    all
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
        names.filter(|name| !name.starts_with("stages/")).collect()
    };
    assert_eq!(names(a), names(b));
    for name in names(a) {
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
