//! A small run folder: a pivot `p` and a source `s`, two samples.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, BooleanArray, Float32Array, Float64Array};
use arrow::array::{ListArray, StringArray, UInt16Array, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Float32Type, UInt16Type, UInt32Type};
use arrow::record_batch::RecordBatch;

use crate::artifact::{Existing, Kind, PartInfo, PartWriter, Provenance, RunDir, Writer};

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
    let mut part = part(dir, kind, samples);
    part.write(&batch).unwrap();
    part.finish().unwrap();
}

/// Writes an artifact of two samples with the columns of the files: damage that the writer of
/// rows would not let pass.
pub fn write_stored(run: &RunDir, kind: Kind, values: &[&str], columns: Vec<ArrayRef>) {
    let batch = RecordBatch::try_new(kind.stored_schema(), columns).unwrap();
    let mut part = part(&run.artifact(kind, values), kind, 2);
    part.write_stored(&batch).unwrap();
    part.finish().unwrap();
}

fn part(dir: &Path, kind: Kind, samples: u64) -> PartWriter {
    let provenance = Provenance::new(kind).vocabulary("digest");
    let writer = Writer::create(dir, provenance, Existing::Replace).unwrap();
    let info = PartInfo {
        index: 0,
        first_sample: 0,
        samples,
        last: true,
    };
    writer.part(info).unwrap()
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

/// With the element field of the files.
pub fn stored_lists_u32(values: &[&[u32]]) -> ArrayRef {
    let schema = Kind::Targets.stored_schema();
    let stored = schema.field_with_name("id_gaps").unwrap().data_type();
    arrow::compute::cast(&lists_u32(values), stored).unwrap()
}

/// The column `winner` as it is stored.
pub fn winners(names: &[&str]) -> ArrayRef {
    let schema = Kind::Targets.stored_schema();
    let stored = schema.field_with_name("winner").unwrap().data_type();
    arrow::compute::cast(&texts(names), stored).unwrap()
}

pub fn lists_u16(values: &[&[u16]]) -> ArrayRef {
    let lists = values
        .iter()
        .map(|list| Some(list.iter().map(|x| Some(*x)).collect::<Vec<_>>()));
    let lists = ListArray::from_iter_primitive::<UInt16Type, _, _>(lists);
    let schema = Kind::Targets.stored_schema();
    let stored = schema.field_with_name("levels").unwrap().data_type();
    arrow::compute::cast(&lists, stored).unwrap()
}

pub fn lists_f32(values: &[&[f32]]) -> ArrayRef {
    let lists = values
        .iter()
        .map(|list| Some(list.iter().map(|x| Some(*x)).collect::<Vec<_>>()));
    Arc::new(ListArray::from_iter_primitive::<Float32Type, _, _>(lists))
}

/// As many empty lists as the kind's column `name` needs.
fn empty_lists(kind: Kind, name: &str, rows: usize) -> ArrayRef {
    let schema = kind.schema();
    let DataType::List(element) = schema.field_with_name(name).unwrap().data_type() else {
        panic!("{name} is no list");
    };
    let values = arrow::array::new_empty_array(element.data_type());
    let offsets = arrow::buffer::OffsetBuffer::new_zeroed(rows);
    Arc::new(ListArray::new(element.clone(), offsets, values, None))
}

/// Transcripts with these spans: role, first byte, byte after the last, supervised.
pub fn spans(transcripts: &[Vec<(&str, u32, u32, bool)>]) -> ArrayRef {
    let schema = Kind::Transcripts.schema();
    let DataType::List(element) = schema.field_with_name("spans").unwrap().data_type() else {
        panic!("spans is no list");
    };
    let DataType::Struct(fields) = element.data_type() else {
        panic!("spans holds no structs");
    };
    let all: Vec<_> = transcripts.iter().flatten().collect();
    let columns = vec![
        texts(&all.iter().map(|span| span.0).collect::<Vec<_>>()),
        u32s(&all.iter().map(|span| span.1).collect::<Vec<_>>()),
        u32s(&all.iter().map(|span| span.2).collect::<Vec<_>>()),
        bools(&all.iter().map(|span| span.3).collect::<Vec<_>>()),
    ];
    let structs = arrow::array::StructArray::new(fields.clone(), columns, None);
    let lengths = transcripts.iter().map(Vec::len);
    let offsets = arrow::buffer::OffsetBuffer::from_lengths(lengths);
    Arc::new(ListArray::new(
        element.clone(),
        offsets,
        Arc::new(structs),
        None,
    ))
}

fn ln(x: f32) -> f32 {
    x.ln()
}

pub const LN2: f64 = std::f64::consts::LN_2;

/// Writes one artifact of every kind. Probabilities are powers of two, so that figures can be
/// computed by hand; every check is satisfied.
pub fn write_run(run: &RunDir) {
    write(
        run,
        Kind::Models,
        &[],
        0,
        vec![
            texts(&["p", "s"]),
            texts(&["pivot", "source"]),
            texts(&["pv", "sv"]),
            texts(&["p", "s"]),
            texts(&["0", "1"]),
            texts(&["LlamaForCausalLM"; 2]),
            u64s(&[10, 20]),
        ],
    );
    write(
        run,
        Kind::Samples,
        &[],
        2,
        vec![
            u64s(&[0, 1]),
            texts(&["a.jsonl"; 2]),
            u64s(&[0, 1]),
            u32s(&[0, 0]),
            texts(&["train"; 2]),
            empty_lists(Kind::Samples, "messages", 2),
            nulls(&DataType::Utf8, 2),
            nulls(&DataType::Utf8, 2),
        ],
    );
    write(
        run,
        Kind::Transcripts,
        &["pivot"],
        2,
        vec![
            u64s(&[0, 1]),
            texts(&["abc", "a"]),
            bools(&[false; 2]),
            spans(&[
                vec![("text", 0, 2, true), ("text", 2, 3, true)],
                vec![("text", 0, 1, true)],
            ]),
        ],
    );
    let pivot: [&[u8]; 4] = [b"", b"a", b"b", b""];
    write_vocab(run, "pv", &["<s>", "a", "b", "</s>"], &pivot);
    write_vocab(run, "sv", &["<s>", "ab", "c"], &[b"", b"ab", b"c"]);
    write(
        run,
        Kind::Tokens,
        &["pv", "pivot"],
        2,
        vec![
            u64s(&[0, 1]),
            lists_u32(&[&[0, 1, 2, 3], &[0, 1]]),
            lists_u32(&[&[0, 1, 3, 3], &[0, 1]]),
            lists_bool(&[&[false, true, true, true], &[false, true]]),
        ],
    );
    write(
        run,
        Kind::Tokens,
        &["sv", "pivot"],
        2,
        vec![
            u64s(&[0, 1]),
            lists_u32(&[&[0, 1, 2], &[0, 2]]),
            lists_u32(&[&[0, 2, 3], &[0, 1]]),
            lists_bool(&[&[false, true, false], &[false, true]]),
        ],
    );
    write_topk(run, "p", topk_of_pivot());
    write_topk(
        run,
        "s",
        vec![
            u64s(&[0, 1]),
            u32s(&[0, 0]),
            u32s(&[1, 2]),
            f32s(&[ln(0.5), ln(0.125)]),
            f32s(&[ln(0.25), ln(0.375)]),
            lists_u32(&[&[1, 2], &[1, 2]]),
            lists_f32(&[&[ln(0.5), ln(0.25)], &[ln(0.5), ln(0.125)]]),
            u16s(&[0; 2]),
        ],
    );
    let metrics = |nll: [f64; 2], tokens: [u32; 2]| {
        vec![u64s(&[0, 1]), f64s(&nll), u32s(&tokens), u32s(&[3, 1])]
    };
    write(
        run,
        Kind::SequenceMetrics,
        &["p"],
        2,
        metrics([3.0 * LN2, 2.0 * LN2], [2, 1]),
    );
    write(
        run,
        Kind::SequenceMetrics,
        &["s"],
        2,
        metrics([LN2, 3.0 * LN2], [1, 1]),
    );
    write(run, Kind::Alignment, &["s"], 2, alignment());
    write(
        run,
        Kind::TokenMap,
        &["s"],
        0,
        vec![
            u32s(&[0, 1, 1, 2]),
            u32s(&[0, 1, 2, 2]),
            u64s(&[2, 6, 2, 1]),
            f32s(&[1.0, 0.75, 0.25, 1.0]),
            u16s(&[0, 1, 1, 0]),
            texts(&["special", "counted", "counted", "exact"]),
            u16s(&[1, 1, 2, 1]),
        ],
    );
    write(run, Kind::Projected, &["s"], 2, projected());
    write(run, Kind::Targets, &["s-p"], 2, targets());
    write(run, Kind::Steps, &["t"], 0, steps());
    write(run, Kind::MergeStats, &["m"], 0, merge_stats());
    let items = |rows: &[(&str, u64, &str, f64)]| {
        vec![
            texts(&rows.iter().map(|r| r.0).collect::<Vec<_>>()),
            u64s(&rows.iter().map(|r| r.1).collect::<Vec<_>>()),
            texts(&rows.iter().map(|r| r.2).collect::<Vec<_>>()),
            f64s(&rows.iter().map(|r| r.3).collect::<Vec<_>>()),
            nulls(&DataType::Float64, rows.len()),
            nulls(&DataType::Utf8, rows.len()),
        ]
    };
    let a = [
        ("qa", 0, "acc", 1.0),
        ("qa", 1, "acc", 0.0),
        ("t1", 0, "nll", LN2),
        ("t1", 0, "tokens", 1.0),
        ("t1", 0, "bytes", 1.0),
        ("t1", 1, "nll", 3.0 * LN2),
        ("t1", 1, "tokens", 1.0),
        ("t1", 1, "bytes", 3.0),
        ("t2", 0, "nll", 2.0 * LN2),
        ("t2", 0, "tokens", 1.0),
        ("t2", 0, "bytes", 1.0),
    ];
    write(run, Kind::EvalItems, &["a"], 0, items(&a));
    let b = [
        ("t1", 0, "nll", 2.0 * LN2),
        ("t1", 0, "tokens", 2.0),
        ("t1", 0, "bytes", 4.0),
    ];
    write(run, Kind::EvalItems, &["b"], 0, items(&b));
}

fn write_vocab(run: &RunDir, name: &str, tokens: &[&str], bytes: &[&[u8]]) {
    let ids: Vec<u32> = (0..tokens.len() as u32).collect();
    let special: Vec<bool> = bytes.iter().map(|b| b.is_empty()).collect();
    write(
        run,
        Kind::Vocab,
        &[name],
        0,
        vec![
            u32s(&ids),
            texts(tokens),
            blobs(bytes),
            bools(&special),
            nulls(&DataType::Utf8, ids.len()),
        ],
    );
}

pub fn lists_bool(values: &[&[bool]]) -> ArrayRef {
    let mut builder = arrow::array::ListBuilder::new(arrow::array::BooleanBuilder::new());
    for list in values {
        builder.values().append_slice(list);
        builder.append(true);
    }
    Arc::new(builder.finish())
}

pub fn write_topk(run: &RunDir, teacher: &str, columns: Vec<ArrayRef>) {
    write(run, Kind::Topk, &[teacher], 2, columns);
}

/// Cross-entropies in bits: 1, 2, and 1 (special) in sample 0, 2 in sample 1.
pub fn topk_of_pivot() -> Vec<ArrayRef> {
    let list: &[f32] = &[ln(0.5), ln(0.25)];
    vec![
        u64s(&[0, 0, 0, 1]),
        u32s(&[0, 1, 2, 0]),
        u32s(&[1, 2, 3, 1]),
        f32s(&[ln(0.5), ln(0.25), ln(0.5), ln(0.25)]),
        f32s(&[ln(0.25); 4]),
        lists_u32(&[&[1, 2], &[1, 2], &[3, 1], &[2, 1]]),
        lists_f32(&[list; 4]),
        u16s(&[0; 4]),
    ]
}

pub fn alignment() -> Vec<ArrayRef> {
    vec![
        u64s(&[0, 0, 0, 0, 1]),
        u32s(&[0, 1, 2, 3, 0]),
        u32s(&[0, 1, 2, 3, 0]),
        u32s(&[0, 1, 1, 0, 0]),
        u32s(&[1, 2, 2, 0, 1]),
        lists_u32(&[&[0], &[1], &[1], &[], &[0]]),
        u32s_or_null(&[Some(0), None, Some(1), None, Some(0)]),
        texts(&["1-1", "n-1", "n-1", "none", "1-1"]),
    ]
}

pub fn projected() -> Vec<ArrayRef> {
    vec![
        u64s(&[0, 0, 1]),
        u32s(&[0, 1, 0]),
        u32s(&[1, 2, 1]),
        f32s(&[ln(0.75), ln(0.25), 0.0]),
        f32s(&[ln(0.125), ln(0.25), f32::NEG_INFINITY]),
        lists_u32(&[&[1, 2], &[1, 3], &[1]]),
        lists_f32(&[&[ln(0.75), ln(0.125)], &[ln(0.5), ln(0.25)], &[0.0]]),
        u16s(&[0; 3]),
        texts(&["same_end", "same_end", "one_hot"]),
        nulls(&DataType::Float32, 3),
        nulls(&DataType::Float32, 3),
        nulls(&DataType::Float32, 3),
        nulls(&DataType::Float32, 3),
        nulls(&DataType::Boolean, 3),
    ]
}

pub fn targets() -> Vec<ArrayRef> {
    vec![
        u64s(&[0, 0, 1]),
        u32s(&[0, 1, 0]),
        lists_u32(&[&[1, 2], &[1], &[2]]),
        lists_f32(&[&[0.5, 0.25], &[0.75], &[1.0]]),
        f32s(&[0.25, 0.25, 0.0]),
        u16s(&[0; 3]),
        texts(&["s", "s", "p"]),
    ]
}

pub fn steps() -> Vec<ArrayRef> {
    let four = f64s(&[4.0, 3.0, 2.0, 1.0]);
    vec![
        u64s(&[1, 2, 3, 4]),
        f64s(&[0.1; 4]),
        four.clone(),
        four,
        nulls(&DataType::Float64, 4),
        nulls(&DataType::Float64, 4),
        f64s(&[1.0; 4]),
        u64s(&[10; 4]),
        f64s_or_null(&[None, None, Some(2.5), None]),
        f64s(&[5.0; 4]),
    ]
}

pub fn merge_stats() -> Vec<ArrayRef> {
    vec![
        texts(&[
            "model.embed_tokens.weight",
            "model.embed_tokens.weight",
            "model.layers.10.a",
            "model.layers.10.a",
            "model.layers.10.b",
            "model.layers.10.b",
        ]),
        texts(&["x", "y", "x", "y", "x", "y"]),
        f64s(&[0.5, 0.5, 0.25, 0.75, 0.75, 0.25]),
        f64s(&[0.1; 6]),
        f64s(&[0.2; 6]),
        f64s(&[1.0, 1.0, 3.0, 1.0, 4.0, 1.0]),
    ]
}
