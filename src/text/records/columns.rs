//! The columns of a Parquet file that are read, chosen before anything is decoded: what nobody
//! reads (images, maps, decimals) cannot refuse a file, and costs nothing.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use parquet::arrow::ProjectionMask;
use parquet::basic::{ConvertedType, LogicalType, Type};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::schema::types::ColumnDescriptor;

use crate::error::{Context, Error, Result};
use crate::files::{ParquetBatches, open_parquet, parquet_batches};

/// A column that is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    /// Its name, or the path of a part of it: `messages.image`.
    pub(super) name: String,
    /// The rows in which it is not null, or all, where the file does not say.
    pub(super) rows: u64,
}

/// Opens a Parquet file for its `wanted` columns (for all if that is not given), and says which
/// others it has.
pub(super) fn open(
    path: &Path,
    file: File,
    wanted: Option<&dyn Fn(&str) -> bool>,
) -> Result<(ParquetBatches, Vec<Column>)> {
    let mut builder = open_parquet(file)
        .map_err(|error| {
            Error::file(path, error.to_string())
                .remedy("a Parquet file ends with its schema: was it copied whole?")
        })?
        .with_batch_size(1024);
    check_places(path, builder.metadata())?;
    let mut left_out = Vec::new();
    if let Some(wanted) = wanted {
        let schema = builder.parquet_schema();
        let leaves = 0..schema.num_columns();
        let reads = |leaf: &usize| {
            let column = schema.column(*leaf);
            column
                .path()
                .parts()
                .first()
                .is_some_and(|root| wanted(root))
                && is_text(&column)
        };
        let (kept, dropped): (Vec<usize>, Vec<usize>) = leaves.partition(reads);
        left_out = named(builder.metadata(), &kept, &dropped);
        if kept.is_empty() {
            let names: Vec<_> = left_out
                .iter()
                .map(|column| format!("`{}`", column.name))
                .collect();
            return Err(Error::file(
                path,
                format!("no column that a shape of records has, found {}", names.join(", ")),
            )
            .remedy("name its columns with `corpus.fields`, such as `{ prompt: question, response: answer }`"));
        }
        let mask = ProjectionMask::leaves(schema, kept);
        builder = builder.with_projection(mask);
    }
    Ok((parquet_batches(builder).at(path)?, left_out))
}

/// Fails if a part of the file is said to lie before its beginning.
fn check_places(path: &Path, metadata: &ParquetMetaData) -> Result<()> {
    let columns = metadata
        .row_groups()
        .iter()
        .flat_map(|group| group.columns());
    let damaged = |column: &ColumnChunkMetaData| {
        let start = column
            .dictionary_page_offset()
            .unwrap_or(column.data_page_offset());
        start < 0 || column.compressed_size() < 0
    };
    match columns.into_iter().any(damaged) {
        true => Err(Error::file(path, "the schema at its end is damaged")
            .remedy("download or copy it again")),
        false => Ok(()),
    }
}

/// Whether JSON has what this column holds: not bytes, and not what only bytes can say.
fn is_text(column: &ColumnDescriptor) -> bool {
    match column.physical_type() {
        Type::BYTE_ARRAY => {
            let logical = matches!(
                column.logical_type_ref(),
                Some(LogicalType::String | LogicalType::Enum | LogicalType::Json)
            );
            let converted = matches!(
                column.converted_type(),
                ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON
            );
            logical || converted
        }
        Type::FIXED_LEN_BYTE_ARRAY | Type::INT96 => false,
        // Decimals, dates and times are written in words of their own.
        Type::INT32 | Type::INT64 => {
            matches!(
                column.logical_type_ref(),
                None | Some(LogicalType::Integer(_) | LogicalType::Unknown)
            ) && column.converted_type() != ConvertedType::DECIMAL
        }
        _ => true,
    }
}

/// The names of the leaves that are dropped; of a column that is not read at all, its own.
fn named(metadata: &ParquetMetaData, kept: &[usize], dropped: &[usize]) -> Vec<Column> {
    let schema = metadata.file_metadata().schema_descr();
    let path = |leaf: usize| schema.column(leaf).path().parts().to_vec();
    let root = |leaf: usize| path(leaf).first().cloned().unwrap_or_default();
    let kept: Vec<String> = kept.iter().map(|leaf| root(*leaf)).collect();
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    for leaf in dropped {
        let mut parts = path(*leaf);
        if !kept.contains(&root(*leaf)) {
            parts.truncate(1);
        }
        // What the format puts between a list and its items.
        let mut at = 0;
        parts.retain(|part| {
            at += 1;
            at == 1 || !matches!(part.as_str(), "list" | "element" | "item" | "key_value")
        });
        let rows = rows(metadata, *leaf);
        let most = found.entry(parts.join(".")).or_default();
        *most = rows.max(*most);
    }
    let columns = found.into_iter().map(|(name, rows)| Column { name, rows });
    columns.filter(|column| column.rows > 0).collect()
}

/// In how many rows a leaf is not null, if it is a column by itself and the file says so.
fn rows(metadata: &ParquetMetaData, leaf: usize) -> u64 {
    let flat = metadata
        .file_metadata()
        .schema_descr()
        .column(leaf)
        .max_rep_level()
        == 0;
    let groups = metadata.row_groups().iter();
    let rows = groups.map(|group| {
        let rows = u64::try_from(group.num_rows()).unwrap_or(0);
        let nulls = group
            .column(leaf)
            .statistics()
            .and_then(|known| known.null_count_opt());
        rows.saturating_sub(nulls.filter(|_| flat).unwrap_or(0))
    });
    rows.sum()
}
