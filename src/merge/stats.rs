//! `merge_stats`: who contributed what, as an artifact.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, StringArray};
use arrow::record_batch::RecordBatch;

use super::run::MergeStat;
use crate::artifact::{Kind, Writer};
use crate::error::{Context, Result};

/// Writes the rows of a merge, sorted by tensor and model.
///
/// # Errors
///
/// Failed writes.
pub fn write_stats(stats: &[MergeStat], writer: Writer) -> Result<()> {
    let mut rows: Vec<&MergeStat> = stats.iter().collect();
    rows.sort_by(|a, b| (&a.tensor, &a.model).cmp(&(&b.tensor, &b.model)));
    let text = |of: fn(&MergeStat) -> &String| -> ArrayRef {
        Arc::new(
            rows.iter()
                .map(|row| Some(of(row)))
                .collect::<StringArray>(),
        )
    };
    let number = |of: fn(&MergeStat) -> f64| -> ArrayRef {
        Arc::new(rows.iter().map(|row| of(row)).collect::<Float64Array>())
    };
    let columns = vec![
        text(|row| &row.tensor),
        text(|row| &row.model),
        number(|row| row.coefficient),
        number(|row| row.selected_fraction),
        number(|row| row.kept_fraction),
        number(|row| row.delta_norm),
    ];
    let batch = RecordBatch::try_new(Kind::MergeStats.schema(), columns)
        .during(|| "gathering the rows of merge_stats".into())?;
    if writer.is_complete() {
        return Ok(());
    }
    writer.write_only(&batch)
}
