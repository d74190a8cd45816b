//! Typed columns, and rows streamed sample by sample.

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, ListArray, PrimitiveArray, StringArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{ArrowPrimitiveType, UInt64Type};
use arrow::record_batch::RecordBatch;

use super::{Part, seal};
use crate::error::{Context, Error, Result};
use crate::units::SampleId;

fn column<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef> {
    batch
        .column_by_name(name)
        .ok_or_else(|| Error::input(format!("column `{name}`"), "is missing"))
}

fn wrong_type(name: &str, array: &dyn Array) -> Error {
    Error::input(
        format!("column `{name}`"),
        format!("has the unexpected type {}", array.data_type()),
    )
}

/// The column `name` as numbers.
pub fn numbers<'a, T: ArrowPrimitiveType>(
    batch: &'a RecordBatch,
    name: &str,
) -> Result<&'a PrimitiveArray<T>> {
    let array = column(batch, name)?;
    array
        .as_primitive_opt::<T>()
        .ok_or_else(|| wrong_type(name, array))
}

/// The column `name` as strings.
pub fn strings<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray> {
    let array = column(batch, name)?;
    array
        .as_string_opt::<i32>()
        .ok_or_else(|| wrong_type(name, array))
}

/// The column `name` as booleans.
pub fn booleans<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a BooleanArray> {
    let array = column(batch, name)?;
    array
        .as_boolean_opt()
        .ok_or_else(|| wrong_type(name, array))
}

/// The column `name` as lists.
pub fn lists<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a ListArray> {
    let array = column(batch, name)?;
    array
        .as_list_opt::<i32>()
        .ok_or_else(|| wrong_type(name, array))
}

/// A column of lists of numbers; [`Lists::row`] borrows one list.
#[derive(Clone, Copy, Debug)]
pub struct Lists<'a, T: ArrowPrimitiveType> {
    offsets: &'a [i32],
    values: &'a [T::Native],
}

impl<'a, T: ArrowPrimitiveType> Lists<'a, T> {
    /// The column `name` of `batch`.
    pub fn new(batch: &'a RecordBatch, name: &str) -> Result<Self> {
        let array = lists(batch, name)?;
        let values = array
            .values()
            .as_primitive_opt::<T>()
            .ok_or_else(|| wrong_type(name, array))?;
        Ok(Self {
            offsets: array.value_offsets(),
            values: values.values(),
        })
    }

    /// Elements of all lists together.
    pub fn total(&self) -> usize {
        self.all().len()
    }

    /// The elements of all lists, one after the other.
    pub fn all(&self) -> &'a [T::Native] {
        match (self.offsets.first(), self.offsets.last()) {
            (Some(begin), Some(end)) => &self.values[*begin as usize..*end as usize],
            _ => &[],
        }
    }

    /// List number `row`.
    ///
    /// # Panics
    /// If the batch has fewer rows.
    pub fn row(&self, row: usize) -> &'a [T::Native] {
        // Arrow guarantees that offsets are non-negative, rising and within the values.
        &self.values[self.offsets[row] as usize..self.offsets[row + 1] as usize]
    }
}

/// A column of strings from a small set, decoded once per batch.
#[derive(Debug)]
pub struct Labels<'a, L> {
    keys: &'a Int32Array,
    labels: Vec<L>,
}

impl<'a, L: Copy> Labels<'a, L> {
    /// The column `name`; `parse` turns each distinct string into a label, `None` being an error.
    pub fn new(
        batch: &'a RecordBatch,
        name: &str,
        parse: impl Fn(&str) -> Option<L>,
    ) -> Result<Self> {
        let array = column(batch, name)?;
        let dictionary = array
            .as_dictionary_opt::<arrow::datatypes::Int32Type>()
            .ok_or_else(|| wrong_type(name, array))?;
        let values = dictionary
            .values()
            .as_string_opt::<i32>()
            .ok_or_else(|| wrong_type(name, array))?;
        let labels = values
            .iter()
            .map(|value| {
                let value = value.unwrap_or_default();
                parse(value).ok_or_else(|| {
                    Error::input(
                        format!("column `{name}`"),
                        format!("unknown value `{value}`"),
                    )
                })
            })
            .collect::<Result<Vec<L>>>()?;
        Ok(Self {
            keys: dictionary.keys(),
            labels,
        })
    }

    /// The label of `row`.
    pub fn row(&self, row: usize) -> L {
        self.labels[self.keys.value(row) as usize]
    }
}

/// The rows of one sample.
#[derive(Debug)]
pub struct SampleRows {
    /// The sample.
    pub sample_id: SampleId,
    /// Its rows, in the order of the artifact; never empty.
    pub rows: RecordBatch,
}

/// Streams a part sample by sample. Slices are shared with the reader's batches; only samples
/// that cross the border of two batches are copied.
///
/// Samples without rows are not seen.
pub struct BySample {
    batches: Box<dyn Iterator<Item = Result<RecordBatch>> + Send>,
    place: String,
    batch: Option<RecordBatch>,
    start: usize,
    previous: Option<SampleId>,
}

impl BySample {
    /// Starts at the first row of `part`.
    pub fn new(part: &Part) -> Result<Self> {
        Ok(Self {
            batches: Box::new(part.batches()?),
            place: part.path().display().to_string(),
            batch: None,
            start: 0,
            previous: None,
        })
    }

    /// The rows of the next sample that has any.
    fn next_sample(&mut self) -> Result<Option<SampleRows>> {
        let mut gathered: Vec<RecordBatch> = Vec::new();
        let mut current: Option<SampleId> = None;
        loop {
            if self
                .batch
                .as_ref()
                .is_none_or(|b| self.start >= b.num_rows())
            {
                self.start = 0;
                self.batch = self.batches.next().transpose()?;
            }
            let Some(batch) = &self.batch else { break };
            if batch.num_rows() == 0 {
                continue;
            }
            let ids = numbers::<UInt64Type>(batch, "sample_id")?.values();
            let id = ids[self.start];
            if current.is_some_and(|current| current != id) {
                break;
            }
            if current.is_none() && self.previous.is_some_and(|previous| previous >= id) {
                return Err(Error::damaged_at(
                    format!("{} sample {id}", self.place),
                    "rows are not sorted by sample_id",
                )
                .remedy(seal::REMEDY));
            }
            current = Some(id);
            let run = ids[self.start..]
                .iter()
                .take_while(|other| **other == id)
                .count();
            gathered.push(batch.slice(self.start, run));
            self.start += run;
            if self.start < batch.num_rows() {
                break;
            }
        }
        let Some(sample_id) = current else {
            return Ok(None);
        };
        self.previous = current;
        let rows = match gathered.len() {
            1 => gathered.swap_remove(0),
            _ => concat_batches(&gathered[0].schema(), &gathered)
                .during(|| format!("reading {} sample {sample_id}", self.place))?,
        };
        Ok(Some(SampleRows { sample_id, rows }))
    }
}

impl Iterator for BySample {
    type Item = Result<SampleRows>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_sample().transpose()
    }
}

/// [`BySample`] with a place to look: fetches the rows of given samples in rising order, so that
/// several artifacts with gaps can be read side by side.
pub struct SampleCursor {
    stream: BySample,
    waiting: Option<SampleRows>,
}

impl SampleCursor {
    /// Starts at the first row of `part`.
    pub fn new(part: &Part) -> Result<Self> {
        Ok(Self {
            stream: BySample::new(part)?,
            waiting: None,
        })
    }

    /// The rows of `sample`, or `None` if it has none. Samples must be asked for in rising
    /// order; those between are passed over.
    pub fn seek(&mut self, sample: SampleId) -> Result<Option<RecordBatch>> {
        loop {
            let next = match self.waiting.take() {
                Some(rows) => Some(rows),
                None => self.stream.next_sample()?,
            };
            match next {
                None => return Ok(None),
                Some(rows) if rows.sample_id < sample => {}
                Some(rows) if rows.sample_id == sample => return Ok(Some(rows.rows)),
                Some(rows) => {
                    self.waiting = Some(rows);
                    return Ok(None);
                }
            }
        }
    }
}
