//! Rows of the `samples` artifact.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, ListArray, StringArray, StructArray, UInt32Array,
    UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, UInt64Type};
use arrow::record_batch::RecordBatch;
use serde_json::{Map, Value};

use super::survey::Piece;
use crate::artifact::{Kind, Part, rows};
use crate::error::{Context, Error, Result};
use crate::text::{Chat, Message, check_text_size, stored_json};
use crate::units::SampleId;

/// The rows of `pieces`, whose ids begin with `first`.
pub(super) fn to_batch(pieces: &[Piece], first: SampleId, split: &str) -> Result<RecordBatch> {
    let schema = Kind::Samples.schema();
    let building = || "building `samples` rows".to_owned();
    let messages: Vec<&Message> = pieces
        .iter()
        .flat_map(|piece| &piece.chat.messages)
        .collect();
    let contents: Vec<Option<Cow<'_, str>>> = messages.iter().map(|m| stored_content(m)).collect();
    let others: Vec<Option<String>> = messages.iter().map(|m| stored_fields(m)).collect();
    let lengths = contents.iter().flatten().map(|text| text.len());
    check_text_size(lengths.chain(others.iter().flatten().map(String::len)))?;
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
        Arc::new(StringArray::from_iter(&contents)),
        Arc::new(BooleanArray::from_iter(
            messages.iter().map(|message| Some(message.learned)),
        )),
        Arc::new(StringArray::from_iter(&others)),
    ];
    let structs = StructArray::try_new(fields.clone(), columns, None).during(building)?;
    let offsets = OffsetBuffer::from_lengths(pieces.iter().map(|piece| piece.chat.messages.len()));
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
        Arc::new(StringArray::from_iter(
            pieces
                .iter()
                .map(|piece| piece.chat.tools.as_ref().map(Value::to_string)),
        )),
        Arc::new(StringArray::from_iter(pieces.iter().map(|piece| {
            let kwargs = &piece.chat.kwargs;
            (!kwargs.is_empty()).then(|| Value::Object(kwargs.clone()).to_string())
        }))),
    ];
    RecordBatch::try_new(schema, columns).during(building)
}

/// What a message says, for people too; none if it has no text.
fn stored_content(message: &Message) -> Option<Cow<'_, str>> {
    match message.fields.get("content") {
        None | Some(Value::Null) => None,
        Some(_) => Some(message.content()),
    }
}

/// The other fields of a message, as JSON, and a `content` that is no text; none if there are none.
fn stored_fields(message: &Message) -> Option<String> {
    let said = |name: &str, value: &Value| name == "content" && value.is_string();
    let others: Map<String, Value> = message
        .fields
        .iter()
        .filter(|(name, value)| !said(name, value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    (!others.is_empty()).then(|| Value::Object(others).to_string())
}

/// The chat of each sample of a part, in order.
pub(super) fn read_chats(part: &Part) -> Result<Vec<(SampleId, Chat)>> {
    let mut samples = Vec::new();
    for batch in part.batches()? {
        let batch = batch?;
        let ids = rows::numbers::<UInt64Type>(&batch, "sample_id")?;
        let lists = rows::lists(&batch, "messages")?;
        let tools = rows::strings(&batch, "tools")?;
        let kwargs = rows::strings(&batch, "template_kwargs")?;
        for row in 0..batch.num_rows() {
            let chat = || {
                let json = |column: &StringArray| match column.is_valid(row) {
                    true => stored_json(column.value(row)).map(Some),
                    false => Some(None),
                };
                let kwargs = match json(kwargs)? {
                    None => Map::new(),
                    Some(Value::Object(kwargs)) => kwargs,
                    Some(_) => return None,
                };
                Some(Chat {
                    messages: messages(&lists.value(row))?,
                    tools: json(tools)?,
                    kwargs,
                })
            };
            let chat = chat().ok_or_else(|| {
                let place = format!("{} sample {}", part.path().display(), ids.value(row));
                Error::damaged_at(
                    place,
                    "`messages`, `tools` or `template_kwargs` cannot be read",
                )
            })?;
            samples.push((ids.value(row), chat));
        }
    }
    Ok(samples)
}

fn messages(list: &ArrayRef) -> Option<Vec<Message>> {
    let list = list.as_struct_opt()?;
    let text = |name| list.column_by_name(name)?.as_string_opt::<i32>();
    let (roles, contents, others) = (text("role")?, text("content")?, text("fields")?);
    let learned = list.column_by_name("learned")?.as_boolean_opt()?;
    let message = |row| {
        let mut fields = Map::new();
        if contents.is_valid(row) {
            fields.insert("content".to_owned(), contents.value(row).into());
        }
        if others.is_valid(row) {
            let Value::Object(others) = stored_json(others.value(row))? else {
                return None;
            };
            fields.extend(others);
        }
        Some(Message {
            role: roles.value(row).to_owned(),
            learned: learned.value(row),
            fields,
        })
    };
    (0..list.len()).map(message).collect()
}
