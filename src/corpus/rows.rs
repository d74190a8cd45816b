//! Rows of the `samples` artifact.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, StringArray, StructArray, UInt32Array, UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, UInt64Type};
use arrow::record_batch::RecordBatch;

use super::survey::Piece;
use crate::artifact::{Kind, Part, rows};
use crate::error::{Context, Error, Result};
use crate::text::{Message, check_text_size};
use crate::units::SampleId;

/// The rows of `pieces`, whose ids begin with `first`.
pub(super) fn to_batch(pieces: &[Piece], first: SampleId, split: &str) -> Result<RecordBatch> {
    let schema = Kind::Samples.schema();
    let building = || "building `samples` rows".to_owned();
    let messages: Vec<&Message> = pieces.iter().flat_map(|piece| &piece.messages).collect();
    check_text_size(messages.iter().map(|message| message.content.len()))?;
    let DataType::List(element) = schema
        .field_with_name("messages")
        .during(building)?
        .data_type()
    else {
        return Err(Error::input("column `messages`", "is no list"));
    };
    let DataType::Struct(fields) = element.data_type() else {
        return Err(Error::input("column `messages`", "is no list of structs"));
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(
            messages.iter().map(|message| &message.role),
        )),
        Arc::new(StringArray::from_iter_values(
            messages.iter().map(|message| &message.content),
        )),
    ];
    let structs = StructArray::try_new(fields.clone(), columns, None).during(building)?;
    let offsets = OffsetBuffer::from_lengths(pieces.iter().map(|piece| piece.messages.len()));
    let messages =
        ListArray::try_new(element.clone(), offsets, Arc::new(structs), None).during(building)?;
    let ids = first..first + pieces.len() as u64;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(ids)),
        Arc::new(StringArray::from_iter_values(
            pieces.iter().map(|piece| &piece.source_file),
        )),
        Arc::new(UInt64Array::from_iter_values(
            pieces.iter().map(|piece| piece.source_row),
        )),
        Arc::new(UInt32Array::from_iter_values(
            pieces.iter().map(|piece| piece.piece),
        )),
        Arc::new(StringArray::from_iter_values(pieces.iter().map(|_| split))),
        Arc::new(messages),
    ];
    RecordBatch::try_new(schema, columns).during(building)
}

/// The messages of each sample of a part, in order.
pub(super) fn read_messages(part: &Part) -> Result<Vec<(SampleId, Vec<Message>)>> {
    let mut samples = Vec::new();
    for batch in part.batches()? {
        let batch = batch?;
        let ids = rows::numbers::<UInt64Type>(&batch, "sample_id")?;
        let lists = rows::lists(&batch, "messages")?;
        for row in 0..batch.num_rows() {
            let messages = messages(&lists.value(row)).ok_or_else(|| {
                Error::file(part.path(), "column `messages` has an unexpected type")
            })?;
            samples.push((ids.value(row), messages));
        }
    }
    Ok(samples)
}

fn messages(list: &ArrayRef) -> Option<Vec<Message>> {
    let list = list.as_struct_opt()?;
    let text = |name| list.column_by_name(name)?.as_string_opt::<i32>();
    let (roles, contents) = (text("role")?, text("content")?);
    let message = |row| Message {
        role: roles.value(row).to_owned(),
        content: contents.value(row).to_owned(),
    };
    Some((0..list.len()).map(message).collect())
}
