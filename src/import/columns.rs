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

/// A column of a batch.
pub(super) struct Column<'a> {
    name: &'a str,
    array: ArrayRef,
}

type Found<T> = std::result::Result<T, String>;

impl<'a> Column<'a> {
    /// The column `name` as `data_type`, none if there is no such column.
    ///
    /// # Errors
    /// A value that does not fit.
    pub(super) fn optional(
        batch: &RecordBatch,
        place: &str,
        name: &'a str,
        data_type: &DataType,
    ) -> Result<Option<Self>> {
        let Some(column) = batch.column_by_name(name) else {
            return Ok(None);
        };
        let options = CastOptions {
            safe: false,
            ..Default::default()
        };
        let array = cast_with_options(column, data_type, &options).map_err(|error| {
            let found = column.data_type();
            Error::input(
                place,
                format!("column `{name}` is {found}, expected {data_type}: {error}"),
            )
        })?;
        Ok(Some(Self { name, array }))
    }

    /// The same for a column that must be there.
    pub(super) fn required(
        batch: &RecordBatch,
        place: &str,
        name: &'a str,
        data_type: &DataType,
    ) -> Result<Self> {
        Self::optional(batch, place, name, data_type)?.ok_or_else(|| {
            let schema = batch.schema();
            let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            Error::input(
                place,
                format!("has no column `{name}`, only `{}`", names.join("`, `")),
            )
        })
    }

    /// The number in a row.
    ///
    /// # Errors
    /// A null; those of [`Column::values`] are the same.
    pub(super) fn value<T: ArrowPrimitiveType>(&self, row: usize) -> Found<T::Native> {
        let numbers = self.numbers::<T>(&self.array.slice(row, 1))?;
        numbers.first().copied().ok_or_else(|| self.null())
    }

    /// The list in a row.
    pub(super) fn values<T: ArrowPrimitiveType>(&self, row: usize) -> Found<Vec<T::Native>> {
        self.numbers::<T>(&self.list(&self.array, row)?)
    }

    /// The lists in a row.
    pub(super) fn inner<T: ArrowPrimitiveType>(&self, row: usize) -> Found<Vec<Vec<T::Native>>> {
        let outer = self.list(&self.array, row)?;
        let lists = (0..outer.len()).map(|at| self.numbers::<T>(&self.list(&outer, at)?));
        lists.collect()
    }

    fn list(&self, array: &ArrayRef, row: usize) -> Found<ArrayRef> {
        let lists = array.as_list_opt::<i32>().filter(|c| c.is_valid(row));
        lists.map(|c| c.value(row)).ok_or_else(|| self.null())
    }

    fn numbers<T: ArrowPrimitiveType>(&self, array: &ArrayRef) -> Found<Vec<T::Native>> {
        let typed: Option<&PrimitiveArray<T>> = array.as_primitive_opt();
        let typed = typed.filter(|typed| typed.null_count() == 0);
        typed
            .map(|typed| typed.values().to_vec())
            .ok_or_else(|| self.null())
    }

    fn null(&self) -> String {
        format!("column `{}` has a null", self.name)
    }
}
