//! Reading Parquet files, whose reader panics on some that are not what they claim: here these are
//! errors as any other damage.

use std::fs::File;
use std::io::{self, BufReader, Read};

use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::contain::contained;

/// Opens a file; its footer is read.
///
/// # Errors
/// No Parquet file, or a damaged footer.
pub fn open_parquet(file: File) -> Result<ParquetRecordBatchReaderBuilder<Bounded>, ParquetError> {
    let metadata = parquet_metadata(&file)?;
    Ok(parquet_builder(file, metadata))
}

/// A file whose footer is known.
pub fn parquet_builder(
    file: File,
    metadata: ArrowReaderMetadata,
) -> ParquetRecordBatchReaderBuilder<Bounded> {
    ParquetRecordBatchReaderBuilder::new_with_metadata(Bounded(file), metadata)
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
    builder: ParquetRecordBatchReaderBuilder<Bounded>,
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

/// A file whose end is an error to read on at: a list in it that claims to be longer would be skipped
/// entry by entry, each of nothing.
pub struct Bounded(pub File);

impl Length for Bounded {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl ChunkReader for Bounded {
    type T = EndIsError;

    fn get_read(&self, start: u64) -> Result<EndIsError, ParquetError> {
        self.0.get_read(start).map(EndIsError)
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<bytes::Bytes, ParquetError> {
        self.0.get_bytes(start, length)
    }
}

/// See [`Bounded`].
pub struct EndIsError(BufReader<File>);

impl Read for EndIsError {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 if !buffer.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }
}
