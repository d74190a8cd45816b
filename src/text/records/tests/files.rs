//! Files of all kinds, and of kinds that are refused.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, Decimal128Array, FixedSizeBinaryArray, ListArray, RecordBatch,
    StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::Field;
use serde_json::json;

use super::shapes::{said, turn};
use crate::error::Error;
use crate::text::records::*;
use crate::text::tests::shared;
use crate::text::*;

pub(super) fn file(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    (dir, path)
}

pub(super) fn records(name: &str, content: &[u8]) -> Result<Vec<Record>, Error> {
    let (_dir, path) = file(name, content);
    read(&path, None)?.collect()
}

#[test]
fn files_are_lines_or_arrays() {
    for (name, text) in [
        ("a.jsonl", "\n{\"text\": \"t\"}\n\n \n"),
        ("b.json", " \n[{\"text\": \"t\"}\n]\n"),
        ("c", "\u{feff}{\"text\": \"t\"}\r\n"),
        // What stands twice counts the last time, as Python has it.
        ("d", "{\"text\": \"s\", \"text\": \"t\"}"),
        // What nobody reads may be as deep as it likes, and no number.
        (
            "e",
            &format!(
                "{{\"a\": {}{}, \"text\": \"t\"}}",
                "[".repeat(400),
                "]".repeat(400)
            ),
        ),
        (
            "f",
            "[{\"score\": NaN, \"a\": [-Infinity], \"text\": \"t\"}]",
        ),
        ("g", "{\"messages\": NaN, \"text\": \"t\"}"),
    ] {
        let records = records(name, text.as_bytes()).unwrap();
        assert_eq!(records.len(), 1, "{name}");
        assert_eq!(said(&records[0]), [turn("T t")], "{name}");
        assert_eq!(records[0].source_row, 0);
    }
    assert!(records("h.jsonl", b"").unwrap().is_empty());
    assert!(records("i.json", b"[]").unwrap().is_empty());
    let deep = format!("{{\"text\": {}", "[".repeat(100_000));
    let error = records("j.jsonl", deep.as_bytes()).unwrap_err().to_string();
    assert!(
        error.contains(
            "j.jsonl line 1: cannot be read: lists and objects nested more than 1000 deep"
        ),
        "{error}"
    );
}

/// Deep arguments go through a template, or are refused by it, also on small stacks.
#[test]
fn deep_arguments_are_rendered() {
    let source = "{% for m in messages %}{{ m.tool_calls | tojson if m.tool_calls }}{% endfor %}";
    let template = ChatTemplate::from_source("t", source, None, None).unwrap();
    for (levels, most) in [(150, true), (900, false)] {
        let deep = format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
        let line = format!(
            "{{\"messages\": [{{\"role\": \"assistant\", \"tool_calls\": [{{\"function\": {{\"name\": \"f\", \"arguments\": {deep}}}}}]}}]}}"
        );
        let record = records("x.jsonl", line.as_bytes()).unwrap().remove(0);
        let template = template.clone();
        let thread = std::thread::Builder::new().stack_size(2 << 20);
        let rendered = thread.spawn(move || template.render(&record.chat, false));
        match rendered.unwrap().join().unwrap() {
            Ok(text) => assert!(text.contains(&deep), "{text}"),
            Err(error) => assert!(!most && error.to_string().contains("nested"), "{error}"),
        }
    }
}

#[test]
fn compressed_and_parquet_files_are_read() {
    let line = b"{\"text\": \"caf\xC3\xA9\"}\n{\"text\": \"b\"}\n";
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(line).unwrap();
    assert_eq!(
        records("a.jsonl.gz", &gz.finish().unwrap()).unwrap().len(),
        2
    );
    let zst = zstd::encode_all(&line[..], 1).unwrap();
    assert_eq!(
        records("a.jsonl.zst", &zst).unwrap()[0].chat.messages[0].content(),
        "café"
    );
    // A file is what it begins with, whatever it is called; packed ones have several parts.
    assert_eq!(
        records("a.txt", &[&zst[..], &zst].concat()).unwrap().len(),
        4
    );
    assert_eq!(records("a.jsonl.gz", line).unwrap().len(), 2);
    assert_eq!(records("a.parquet", line).unwrap().len(), 2);
    for cut in [1, zst.len() / 2] {
        let error = records("a.zst", &zst[..zst.len() - cut])
            .unwrap_err()
            .to_string();
        assert!(error.contains("a.zst: is cut short"), "{error}");
    }
    let mut damaged = zst.clone();
    damaged[6] ^= 0xFF;
    damaged[9] ^= 0xFF;
    assert!(records("a.zst", &damaged).is_err());
    let twice = zstd::encode_all(&zst[..], 1).unwrap();
    let error = records("a.zst", &twice).unwrap_err().to_string();
    assert!(error.contains("inside zstd; unpack it once"), "{error}");

    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("x\ny"), None]));
    let parquet = parquet(&RecordBatch::try_from_iter([("text", texts)]).unwrap());
    let (_dir, path) = file("a", &parquet);
    let mut rows = read(&path, None).unwrap();
    assert_eq!(
        rows.next().unwrap().unwrap().chat.messages[0].content(),
        "x\ny"
    );
    let error = rows.next().unwrap().unwrap_err().to_string();
    assert!(
        error.contains("row 1") && error.contains("no known shape"),
        "{error}"
    );
    assert!(rows.next().is_none());
}

#[test]
fn broken_files_are_named_with_their_place() {
    for (name, text, expected) in [
        (
            "a.jsonl",
            "{\"text\": \"x\"}\n\n{\"text\": ",
            "a.jsonl line 3: no valid JSON",
        ),
        (
            "b.jsonl",
            "3",
            "b.jsonl line 1: expected an object, found a number",
        ),
        (
            "c.json",
            "[{\"text\": \"x\"}, 3]",
            "c.json record 2: expected an object",
        ),
        (
            "d.json",
            "[{\"text\": \"x\"",
            "d.json: expected a JSON array",
        ),
        (
            "e.jsonl",
            "{\"txt\": 1}",
            "no known shape of a record, found `txt`",
        ),
        (
            "g.jsonl",
            "{\"messages\": [{\"role\": \"user\"}]}",
            "`messages[0]` has no `content`",
        ),
        ("h.jsonl", "{\"messages\": []}", "`messages` has no message"),
        (
            "i.jsonl",
            "{\"text\": 3}",
            "`text`: expected a text, found a number",
        ),
        ("j.jsonl.gz", "not gz", "j.jsonl.gz line 1: no valid JSON"),
        ("l.parquet", "PAR1 not parquet", "l.parquet"),
        ("n.jsonl", "BZh91AY&SY", "n.jsonl: is compressed with bzip2"),
        (
            "o.json",
            "[{\"text\": \"x\"},\n]",
            "expected a JSON array of records: expected a value in line 2",
        ),
    ] {
        let error = records(name, text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    assert!(read(std::path::Path::new("no/such.jsonl"), None).is_err());
    let (_dir, path) = file("m.jsonl", b"{\"text\": \"x\"}");
    let error = read(&path, Some(Format::Messages))
        .unwrap()
        .next()
        .unwrap()
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("expected `messages`, found `text`")
    );
}

#[test]
fn public_chat_files_are_read() {
    for (name, count) in [
        ("dolly_hhrlhf_train_small.jsonl", 1000),
        ("llamafactory_alpaca_en_demo.json", 999),
        ("fastchat_dummy_conversation.json", 500),
    ] {
        let Some(path) = shared(&format!("assets/text/chat/{name}")) else {
            return;
        };
        let records: Vec<Record> = read(&path, None)
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(records.len(), count);
        assert!(records.iter().all(|record| !record.is_text()));
    }
}

fn parquet(batch: &RecordBatch) -> Vec<u8> {
    let mut parquet = Vec::new();
    let mut writer =
        parquet::arrow::ArrowWriter::try_new(&mut parquet, batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
    parquet
}

/// A list with one struct of these fields in each of two rows.
fn lists(fields: Vec<(&str, ArrayRef)>) -> ArrayRef {
    let structs: StructArray = StructArray::try_from(fields).unwrap();
    let item = Arc::new(Field::new("item", structs.data_type().clone(), true));
    let offsets = OffsetBuffer::from_lengths([1, 1]);
    Arc::new(ListArray::try_new(item, offsets, Arc::new(structs), None).unwrap())
}

#[test]
fn columns_that_nobody_reads_cannot_refuse_a_file() {
    let texts = |texts: [&str; 2]| -> ArrayRef { Arc::new(StringArray::from(texts.to_vec())) };
    let images: ArrayRef = Arc::new(BinaryArray::from(vec![Some(&[0xFF_u8, 0][..]), None]));
    let digests: ArrayRef =
        Arc::new(FixedSizeBinaryArray::try_from_iter([[1_u8; 4], [2; 4]].into_iter()).unwrap());
    let prices: ArrayRef = Arc::new(Decimal128Array::from(vec![1, 2]));
    let times = TimestampMicrosecondArray::from(vec![1, 2]).with_timezone("Europe/Oslo");
    let times: ArrayRef = Arc::new(times);
    let messages = lists(vec![
        ("role", texts(["assistant", "user"])),
        ("content", texts(["a", "b"])),
        ("image", Arc::clone(&images)),
        ("at", Arc::clone(&times)),
    ]);
    let columns = [
        ("messages", messages),
        ("image", Arc::clone(&images)),
        ("images", lists(vec![("bytes", images)])),
        ("digest", digests),
        ("price", prices),
        ("time", Arc::clone(&times)),
        ("data", times),
    ];
    let parquet = parquet(&RecordBatch::try_from_iter(columns).unwrap());
    let (_dir, path) = file("x.bin", &parquet);
    let mut found = read(&path, None).unwrap();
    let columns: Vec<_> = found
        .unread_columns()
        .map(|(name, rows)| (name.to_owned(), rows))
        .collect();
    let expected = [
        ("data", 2),
        ("digest", 2),
        ("image", 1),
        ("images", 2),
        ("messages.at", 2),
        ("messages.image", 2),
        ("price", 2),
        ("time", 2),
    ];
    assert_eq!(
        columns,
        expected.map(|(name, rows)| (name.to_owned(), rows))
    );
    assert_eq!(said(&found.next().unwrap().unwrap()), [turn("A a")]);
    assert_eq!(said(&found.next().unwrap().unwrap()), [turn("u b")]);
    assert!(found.next().is_none());

    // What has another name is not found without it, and the error says what there is.
    let columns = [
        ("question", texts(["q", "p"])),
        ("answer", texts(["a", "b"])),
        ("context", texts(["", "c"])),
    ];
    let (_dir, path) = file(
        "x.parquet",
        &self::parquet(&RecordBatch::try_from_iter(columns).unwrap()),
    );
    let error = read(&path, None)
        .unwrap()
        .next()
        .unwrap()
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("found `question`, `context` and the columns `answer`"),
        "{error}"
    );
    let mut reading = Reading::default();
    reading.fields.set("prompt", "question").unwrap();
    reading.fields.set("response", "answer").unwrap();
    let found: Vec<Record> = read_as(&path, &reading)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(said(&found[1]), ["u p\n\nc", "A b"].map(turn));
}

/// Bytes that no test of the others has, cut and changed anywhere: an error, never a panic.
#[test]
fn hostile_files_are_refused_by_name() {
    let line = json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}).to_string();
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["x"; 20]));
    let files = [
        line.clone().into_bytes(),
        format!("[{line},{line}]").into_bytes(),
        zstd::encode_all(line.as_bytes(), 1).unwrap(),
        parquet(&RecordBatch::try_from_iter([("text", texts)]).unwrap()),
    ];
    for (index, content) in files.iter().enumerate() {
        for at in 0..content.len().min(400) {
            let mut changed = content.clone();
            changed[at] ^= 0x55;
            for content in [&content[..at], &changed] {
                if let Err(error) = records("x", content) {
                    assert!(error.to_string().contains('x'), "{index} {at}: {error}");
                }
            }
        }
    }
    let (dir, _) = file("x", b"");
    assert!(read(Path::new(dir.path()), None).is_err());
}
