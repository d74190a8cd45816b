//! Parquet files as any other program reads them: no Arrow types, no footers of ours.

use std::fs::File;
use std::path::Path;

use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

/// All rows of a file, without the times that no two runs share.
pub fn rows(path: &Path) -> RecordBatch {
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
