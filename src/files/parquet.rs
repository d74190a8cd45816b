//! Reading Parquet files, whose reader panics on some that are not what they claim: here these are
//! errors as any other damage.

use std::fs::File;

use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;

use crate::contain::contained;

/// Opens a file; its footer is read.
///
/// # Errors
/// No Parquet file, or a damaged footer.
pub fn open_parquet(file: File) -> Result<ParquetRecordBatchReaderBuilder<File>, ParquetError> {
    let metadata = parquet_metadata(&file)?;
    Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(
        file, metadata,
    ))
}

/// The footer of a file.
///
/// # Errors
/// No Parquet file, or a damaged footer.
pub fn parquet_metadata(file: &File) -> Result<ArrowReaderMetadata, ParquetError> {
    contained(|| ArrowReaderMetadata::load(file, ArrowReaderOptions::new()))
        .map_err(ParquetError::General)?
}

/// The rows of a file, batch by batch; the last item is the first error.
///
/// # Errors
/// A selection of columns or rows that the file does not have.
pub fn parquet_batches(
    builder: ParquetRecordBatchReaderBuilder<File>,
) -> Result<ParquetBatches, ParquetError> {
    let reader = contained(|| builder.build()).map_err(ParquetError::General)??;
    Ok(ParquetBatches(Some(reader)))
}

/// See [`parquet_batches`].
pub struct ParquetBatches(Option<ParquetRecordBatchReader>);

impl Iterator for ParquetBatches {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let reader = self.0.as_mut()?;
        let next = contained(|| reader.next())
            .unwrap_or_else(|said| Some(Err(ArrowError::ParquetError(said))));
        if !matches!(next, Some(Ok(_))) {
            self.0 = None;
        }
        next
    }
}
