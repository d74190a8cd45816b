//! A small run folder: a pivot `p` and a source `s`, two samples.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, BooleanArray, Float32Array, Float64Array};
use arrow::array::{ListArray, StringArray, UInt16Array, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Float32Type, UInt32Type};
use arrow::record_batch::RecordBatch;

use crate::artifact::{Existing, Kind, PartInfo, Provenance, RunDir, Writer};

/// Writes an artifact of one part; columns are cast to the kind's types.
pub fn write(run: &RunDir, kind: Kind, values: &[&str], samples: u64, columns: Vec<ArrayRef>) {
    write_at(&run.artifact(kind, values), kind, samples, columns);
}

pub fn write_at(dir: &Path, kind: Kind, samples: u64, columns: Vec<ArrayRef>) {
    let schema = kind.schema();
    let columns = columns
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| arrow::compute::cast(column, field.data_type()).unwrap())
        .collect();
    let batch = RecordBatch::try_new(schema, columns).unwrap();
    let provenance = Provenance::new(kind).vocabulary("digest");
    let writer = Writer::create(dir, provenance, Existing::Replace).unwrap();
    let mut part = writer
        .part(PartInfo {
            index: 0,
            first_sample: 0,
            samples,
            last: true,
        })
        .unwrap();
    part.write(&batch).unwrap();
    part.finish().unwrap();
}

pub fn u16s(values: &[u16]) -> ArrayRef {
    Arc::new(UInt16Array::from(values.to_vec()))
}

pub fn u32s(values: &[u32]) -> ArrayRef {
    Arc::new(UInt32Array::from(values.to_vec()))
}

pub fn u32s_or_null(values: &[Option<u32>]) -> ArrayRef {
    Arc::new(UInt32Array::from(values.to_vec()))
}

pub fn u64s(values: &[u64]) -> ArrayRef {
    Arc::new(UInt64Array::from(values.to_vec()))
}

pub fn f32s(values: &[f32]) -> ArrayRef {
    Arc::new(Float32Array::from(values.to_vec()))
}

pub fn f64s(values: &[f64]) -> ArrayRef {
    Arc::new(Float64Array::from(values.to_vec()))
}

pub fn f64s_or_null(values: &[Option<f64>]) -> ArrayRef {
    Arc::new(Float64Array::from(values.to_vec()))
}

pub fn bools(values: &[bool]) -> ArrayRef {
    Arc::new(BooleanArray::from(values.to_vec()))
}

pub fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

pub fn blobs(values: &[&[u8]]) -> ArrayRef {
    Arc::new(BinaryArray::from(values.to_vec()))
}

pub fn nulls(data_type: &DataType, rows: usize) -> ArrayRef {
    arrow::array::new_null_array(data_type, rows)
}

pub fn lists_u32(values: &[&[u32]]) -> ArrayRef {
    let lists = values
        .iter()
        .map(|list| Some(list.iter().map(|x| Some(*x)).collect::<Vec<_>>()));
    Arc::new(ListArray::from_iter_primitive::<UInt32Type, _, _>(lists))
}

pub fn lists_f32(values: &[&[f32]]) -> ArrayRef {
    let lists = values
        .iter()
        .map(|list| Some(list.iter().map(|x| Some(*x)).collect::<Vec<_>>()));
    Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(lists))
}
