//! Rows of `token_map`: how ids of a source vocabulary translate to the pivot's.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float32Array, StringDictionaryBuilder, UInt16Array, UInt32Array, UInt64Array,
};
use arrow::datatypes::{Float32Type, Int32Type, UInt16Type, UInt32Type, UInt64Type};
use arrow::record_batch::RecordBatch;

use super::rows::{Labels, numbers};
use super::{Artifact, Kind};
use crate::error::{Context, Error, Result};
use crate::units::TokenId;

/// The rule that a pair of tokens comes from, in the order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MapMethod {
    /// Special tokens of the same role.
    Special,
    /// Tokens of the same bytes.
    Exact,
    /// Seen side by side in the corpus.
    Counted,
    /// The pivot's first token of the source token's bytes.
    Prefix,
    /// The least edit distance.
    Edited,
}

impl MapMethod {
    /// Every value, in the order of precedence.
    pub const ALL: [MapMethod; 5] = [
        MapMethod::Special,
        MapMethod::Exact,
        MapMethod::Counted,
        MapMethod::Prefix,
        MapMethod::Edited,
    ];

    /// The word in the `method` column.
    pub const fn name(self) -> &'static str {
        match self {
            MapMethod::Special => "special",
            MapMethod::Exact => "exact",
            MapMethod::Counted => "counted",
            MapMethod::Prefix => "prefix",
            MapMethod::Edited => "edited",
        }
    }

    /// The value with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|value| value.name() == name)
    }
}

/// One pivot token that a source token translates to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MapRow {
    /// The source token.
    pub source_id: TokenId,
    /// The pivot token.
    pub pivot_id: TokenId,
    /// How often the two were aligned; 0 where nothing was counted.
    pub count: u64,
    /// Share of the source token's probability, in (0, 1]; the rows of a source token sum to 1.
    pub weight: f32,
    /// Edit distance of the two tokens, capped at 65,535.
    pub edit_distance: u16,
    /// The rule that the pair comes from.
    pub method: MapMethod,
    /// 1 for the best, rising.
    pub rank: u16,
}

/// The rows as they are stored. They must be sorted by `source_id`, `rank`.
pub fn to_batch(rows: &[MapRow]) -> Result<RecordBatch> {
    let mut method = StringDictionaryBuilder::<Int32Type>::new();
    for row in rows {
        method.append_value(row.method.name());
    }
    let u32s = |f: fn(&MapRow) -> u32| Arc::new(UInt32Array::from_iter_values(rows.iter().map(f)));
    let u16s = |f: fn(&MapRow) -> u16| Arc::new(UInt16Array::from_iter_values(rows.iter().map(f)));
    let columns: Vec<ArrayRef> = vec![
        u32s(|row| row.source_id),
        u32s(|row| row.pivot_id),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|r| r.count))),
        Arc::new(Float32Array::from_iter_values(
            rows.iter().map(|row| row.weight),
        )),
        u16s(|row| row.edit_distance),
        Arc::new(method.finish()),
        u16s(|row| row.rank),
    ];
    RecordBatch::try_new(Kind::TokenMap.schema(), columns)
        .during(|| "building `token_map` rows".into())
}

/// Reads a whole map.
///
/// # Errors
/// If rows are not sorted by `source_id` and `rank`, ranks do not count from 1, or a weight is
/// not a number in [0, 1].
///
/// # Memory
/// 32 bytes a row.
pub fn read(artifact: &Artifact) -> Result<Vec<MapRow>> {
    let mut rows: Vec<MapRow> = Vec::new();
    for part in artifact.parts() {
        for batch in part.batches()? {
            let batch = batch?;
            let source_id = numbers::<UInt32Type>(&batch, "source_id")?;
            let pivot_id = numbers::<UInt32Type>(&batch, "pivot_id")?;
            let count = numbers::<UInt64Type>(&batch, "count")?;
            let weight = numbers::<Float32Type>(&batch, "weight")?;
            let edit_distance = numbers::<UInt16Type>(&batch, "edit_distance")?;
            let method = Labels::new(&batch, "method", MapMethod::from_name)?;
            let rank = numbers::<UInt16Type>(&batch, "rank")?;
            for at in 0..batch.num_rows() {
                let row = MapRow {
                    source_id: source_id.value(at),
                    pivot_id: pivot_id.value(at),
                    count: count.value(at),
                    weight: weight.value(at),
                    edit_distance: edit_distance.value(at),
                    method: method.row(at),
                    rank: rank.value(at),
                };
                let expected = match rows.last() {
                    Some(last) if last.source_id == row.source_id => last.rank.saturating_add(1),
                    _ => 1,
                };
                let falls = rows.last().is_some_and(|l| l.source_id > row.source_id);
                if falls || row.rank != expected || !(0.0..=1.0).contains(&row.weight) {
                    return Err(Error::input(
                        format!("{} source token {}", part.path().display(), row.source_id),
                        "its rows are not in order, or a weight is not within 0 and 1",
                    )
                    .remedy("write the map anew"));
                }
                rows.push(row);
            }
        }
    }
    Ok(rows)
}
