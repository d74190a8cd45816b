//! Columns of files whose types vary with the library that wrote them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Field};
use arrow::record_batch::RecordBatch;

use crate::error::{Error, Result};

/// A list of values of type `element`.
pub(super) fn list_of(element: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("element", element, true)))
}

/// The column `name` as `data_type`, none if there is no such column.
///
/// # Errors
/// A value that does not fit.
pub(super) fn optional(
    batch: &RecordBatch,
    place: &str,
    name: &str,
    data_type: &DataType,
) -> Result<Option<ArrayRef>> {
    let Some(column) = batch.column_by_name(name) else {
        return Ok(None);
    };
    let options = CastOptions {
        safe: false,
        ..Default::default()
    };
    let cast = cast_with_options(column, data_type, &options);
    cast.map(Some).map_err(|error| {
        let found = column.data_type();
        Error::input(
            place,
            format!("column `{name}` is {found}, expected {data_type}: {error}"),
        )
    })
}

/// The same for a column that must be there.
pub(super) fn required(
    batch: &RecordBatch,
    place: &str,
    name: &str,
    data_type: &DataType,
) -> Result<ArrayRef> {
    optional(batch, place, name, data_type)?.ok_or_else(|| {
        let schema = batch.schema();
        let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        Error::input(
            place,
            format!("has no column `{name}`, only `{}`", names.join("`, `")),
        )
    })
}

/// The values of list number `row`; empty where it is null.
pub(super) fn values<T: ArrowPrimitiveType>(column: &ArrayRef, row: usize) -> Vec<T::Native> {
    let Some(lists) = column.as_list_opt::<i32>().filter(|c| c.is_valid(row)) else {
        return Vec::new();
    };
    numbers::<T>(&lists.value(row))
}

/// The inner lists of list number `row`.
pub(super) fn inner<T: ArrowPrimitiveType>(column: &ArrayRef, row: usize) -> Vec<Vec<T::Native>> {
    let Some(lists) = column.as_list_opt::<i32>().filter(|c| c.is_valid(row)) else {
        return Vec::new();
    };
    let outer = lists.value(row);
    (0..outer.len()).map(|at| values::<T>(&outer, at)).collect()
}

fn numbers<T: ArrowPrimitiveType>(array: &ArrayRef) -> Vec<T::Native> {
    let typed: Option<&PrimitiveArray<T>> = array.as_primitive_opt();
    typed.map_or_else(Vec::new, |typed| typed.values().to_vec())
}
