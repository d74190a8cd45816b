//! How many rows a statement works on at a time: fewer where rows are wide.
//!
//! A list of a whole vocabulary, or the tokens of a long sample, are a row as well as a single number
//! is. What a statement holds of a batch is not counted in its memory limit, so it must be small.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::listing::ListingTable;
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::LogicalPlan;
use parquet::basic::Type;
use url::Url;

use crate::artifact::is_part;
use crate::files::parquet_metadata;

/// Numbers of a batch in its widest column.
const NUMBERS: u64 = 1 << 20;
/// Rows of a batch, at least and at most.
const ROWS: (u64, u64) = (16, 8192);
/// Folders in folders that hold the parts of one artifact kind.
const DEPTH: usize = 3;

/// Rows of a batch for a statement with this plan. A part that cannot be read counts for nothing: the
/// statement will say it.
pub(super) fn batch_rows(plan: &LogicalPlan) -> usize {
    let mut widest = 1;
    // The walk itself does not fail.
    let _ = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(table) = source_as_provider(&scan.source)
            && let Some(table) = table.downcast_ref::<ListingTable>()
        {
            let folders = table.table_paths().iter().filter_map(|url| {
                let url = Url::parse(url.as_str()).ok()?;
                url.to_file_path().ok()
            });
            for part in folders.flat_map(|folder| first_parts(&folder, DEPTH)) {
                widest = widest.max(numbers_of_a_row(&part).unwrap_or(1));
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    (NUMBERS / widest).clamp(ROWS.0, ROWS.1) as usize
}

/// A part of each folder below `folder` that has some.
fn first_parts(folder: &Path, depth: usize) -> Vec<PathBuf> {
    let mut parts = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_name().to_str().is_some_and(is_part) {
            // The others are like it.
            return vec![path];
        }
        if depth > 0 && path.is_dir() {
            parts.extend(first_parts(&path, depth - 1));
        }
    }
    parts
}

/// Numbers, or eight bytes of text, that a row of a file has on average in its widest column.
fn numbers_of_a_row(part: &Path) -> Option<u64> {
    let footer = parquet_metadata(&File::open(part).ok()?).ok()?;
    let mut widest = 0;
    for group in footer.metadata().row_groups() {
        let rows = u64::try_from(group.num_rows()).ok()?.max(1);
        for column in group.columns() {
            let numbers = match column.column_type() {
                Type::BYTE_ARRAY => column.uncompressed_size() / 8,
                _ => column.num_values(),
            };
            widest = widest.max(u64::try_from(numbers).unwrap_or(0).div_ceil(rows));
        }
    }
    Some(widest)
}
