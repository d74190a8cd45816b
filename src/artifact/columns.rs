//! Single columns of a part: whether its rows are in order, and which text is no UTF-8.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use arrow::datatypes::{UInt32Type, UInt64Type};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::basic::ConvertedType;
use parquet::column::reader::{ColumnReader, get_typed_column_reader};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::rows::numbers;
use super::seal;
use crate::contain::contained;
use crate::error::{Context, Error, Result};
use crate::files::{Bounded, parquet_batches, parquet_builder};

/// Fails unless rows rise by `sample_id` and, in kinds that have one, `pos`, the first two columns,
/// and `samples` are those of all rows.
pub(super) fn check_order(
    path: &Path,
    metadata: &ArrowReaderMetadata,
    with_pos: bool,
    samples: Range<u64>,
) -> Result<()> {
    let file = File::open(path).at(path)?;
    let builder = parquet_builder(file, metadata.clone());
    let roots = if with_pos { 0..2 } else { 0..1 };
    let columns = ProjectionMask::roots(builder.parquet_schema(), roots);
    let batches = parquet_batches(builder.with_projection(columns)).at(path)?;
    let mut before = None;
    for batch in batches {
        let batch = batch.map_err(|e| {
            Error::unread(path, &e, || {
                Error::damaged(path, e.to_string()).remedy(seal::REMEDY)
            })
        })?;
        let ids = numbers::<UInt64Type>(&batch, "sample_id")?.values();
        let positions = match with_pos {
            true => Some(numbers::<UInt32Type>(&batch, "pos")?.values()),
            false => None,
        };
        for (row, id) in ids.iter().enumerate() {
            let pos = positions.map(|positions| positions[row]);
            let wrong = match before {
                Some(before) if before >= (*id, pos) => match with_pos {
                    true => "rows are not sorted by sample_id and pos, or come twice".to_owned(),
                    false => "rows are not sorted by sample_id, or come twice".to_owned(),
                },
                _ if samples.contains(id) => {
                    before = Some((*id, pos));
                    continue;
                }
                _ => format!(
                    "the part holds samples {} to {}",
                    samples.start, samples.end
                ),
            };
            let at = pos.map_or(String::new(), |pos| format!(" position {pos}"));
            return Err(
                Error::damaged_at(format!("{} sample {id}{at}", path.display()), wrong)
                    .remedy(seal::REMEDY),
            );
        }
    }
    Ok(())
}

/// Finds the first text that is no UTF-8, which readers of Arrow only say to be somewhere: the row's
/// number, or its sample where the file has samples. Texts within lists are passed over.
pub(super) fn text_that_is_no_utf8(path: &Path) -> Option<Error> {
    // The file is damaged, maybe so that its reader panics.
    contained(|| find_no_utf8(path)).ok()?
}

fn find_no_utf8(path: &Path) -> Option<Error> {
    let file = SerializedFileReader::new(Bounded(File::open(path).ok()?)).ok()?;
    let columns = file.metadata().file_metadata().schema_descr().columns();
    let texts = columns.iter().enumerate().filter(|(_, column)| {
        column.converted_type() == ConvertedType::UTF8
            && column.path().parts().len() == 1
            && column.max_def_level() == 0
    });
    for (at, column) in texts {
        let mut first_row = 0;
        for group in 0..file.num_row_groups() {
            let group = file.get_row_group(group).ok()?;
            let rows = usize::try_from(group.metadata().num_rows()).ok()?;
            let mut found: Vec<ByteArray> = Vec::new();
            let reader = group.get_column_reader(at).ok()?;
            let mut reader = get_typed_column_reader::<ByteArrayType>(reader);
            reader.read_records(rows, None, None, &mut found).ok()?;
            let bad = found.iter().enumerate().find_map(|(row, text)| {
                let error = std::str::from_utf8(text.data()).err()?;
                Some((row, error.valid_up_to()))
            });
            let Some((row, byte)) = bad else {
                first_row += rows;
                continue;
            };
            let mut samples: Vec<i64> = Vec::new();
            if columns[0].name() == "sample_id"
                && let ColumnReader::Int64ColumnReader(mut reader) =
                    group.get_column_reader(0).ok()?
            {
                reader.read_records(rows, None, None, &mut samples).ok()?;
            }
            let place = match samples.get(row) {
                Some(sample) => format!("sample {sample}"),
                None => format!("row {}", first_row + row),
            };
            return Some(Error::damaged_at(
                format!("{} {place}", path.display()),
                format!("`{}` is no UTF-8 at byte {}", column.name(), byte + 1),
            ));
        }
    }
    None
}
