//! Records as they are published, in all their shapes, and files of all kinds.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, Decimal128Array, FixedSizeBinaryArray, ListArray, RecordBatch,
    StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::Field;
use serde_json::{Value, json};

use super::tests::shared;
use super::*;
use crate::error::Error;

fn file(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    (dir, path)
}

fn records(name: &str, content: &[u8]) -> Result<Vec<Record>, Error> {
    let (_dir, path) = file(name, content);
    read(&path, None)?.collect()
}

/// The one record in a file of one line.
fn one(value: &Value) -> Result<Record, Error> {
    let mut found = records("x.jsonl", value.to_string().as_bytes())?;
    assert_eq!(found.len(), 1);
    Ok(found.remove(0))
}

/// Each message as its role, its text, and whether it would be learnt.
fn said(record: &Record) -> Vec<(String, String, bool)> {
    let messages = record.chat.messages.iter();
    messages
        .map(|message| {
            let learns = matches!(message.part(), "assistant" | "text");
            (
                message.role.clone(),
                message.content().into_owned(),
                learns && message.learned,
            )
        })
        .collect()
}

/// Fields of a record that are not read.
fn unread(record: &Record) -> Vec<String> {
    let mut tally = Tally::default();
    tally.add(record.format, record.notes.clone());
    let mut names: Vec<String> = tally
        .unread()
        .into_iter()
        .map(|field| field.field)
        .collect();
    names.sort_unstable();
    names
}

/// A message as `said` has it: the role by its first letter; `a` is not learnt, `A` is.
fn turn(text: &str) -> (String, String, bool) {
    let (role, content) = text.split_once(' ').unwrap();
    let role = match role {
        "s" => "system",
        "u" => "user",
        "a" | "A" => "assistant",
        "T" => "text",
        other => other,
    };
    (
        role.to_owned(),
        content.to_owned(),
        matches!(text.as_bytes()[0], b'A' | b'T'),
    )
}

#[test]
fn published_records_are_read() {
    let q = json!({"role": "user", "content": "q"});
    let a = json!({"role": "assistant", "content": "a"});
    let b = json!({"role": "assistant", "content": "b"});
    let from = |from: &str, value: &str| json!({"from": from, "value": value});
    let cases: &[(&str, Value, &[&str], &[&str])] = &[
        (
            "OpenAI",
            json!({"messages": [q, a], "parallel_tool_calls": false}),
            &["u q", "A a"],
            &["parallel_tool_calls"],
        ),
        (
            "OpenAI, weights",
            json!({"messages": [q, {"role": "assistant", "content": "x", "weight": 0}, q, {"role": "assistant", "content": "a", "weight": 1.0}]}),
            &["u q", "a x", "u q", "A a"],
            &[],
        ),
        (
            "parts",
            json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "q", "image": null}]}, a]}),
            &["u q", "A a"],
            &[],
        ),
        (
            "axolotl",
            json!({"messages": [q, {"role": "assistant", "content": "a", "train": false, "train_detail": []}]}),
            &["u q", "a a"],
            &[],
        ),
        (
            "TRL, prompt and completion",
            json!({"prompt": [{"role": "system", "content": "s"}, q, b, q], "completion": [a]}),
            &["s s", "u q", "a b", "u q", "A a"],
            &[],
        ),
        (
            "TRL, texts",
            json!({"prompt": "q", "completion": "a"}),
            &["u q", "A a"],
            &[],
        ),
        (
            "TRL, one message",
            json!({"prompt": q, "completion": a}),
            &["u q", "A a"],
            &[],
        ),
        (
            "TRL, unpaired",
            json!({"prompt": [q], "completion": [a], "label": false}),
            &["u q", "a a"],
            &[],
        ),
        (
            "TRL, unpaired",
            json!({"prompt": "q", "completion": "a", "label": true}),
            &["u q", "A a"],
            &[],
        ),
        (
            "TRL, preference",
            json!({"prompt": [q], "chosen": [a], "rejected": [b]}),
            &["u q", "A a"],
            &[],
        ),
        (
            "TRL, preference of texts",
            json!({"prompt": "q", "chosen": "a", "rejected": "b"}),
            &["u q", "A a"],
            &[],
        ),
        (
            "TRL, implicit prompt",
            json!({"chosen": [q, b, q, a], "rejected": [q, b, q, b]}),
            &["u q", "a b", "u q", "A a"],
            &[],
        ),
        (
            "TRL, implicit prompt of texts",
            json!({"chosen": "It is blue.", "rejected": "It is red."}),
            &["T It is blue."],
            &[],
        ),
        (
            "UltraFeedback",
            json!({"prompt": "q", "chosen": [q, a], "rejected": [q, b], "score_chosen": 8.5}),
            &["u q", "A a"],
            &["score_chosen"],
        ),
        (
            "UltraFeedback with messages",
            json!({"prompt": "q", "prompt_id": "1", "messages": [q, a], "chosen": [q, a], "rejected": [q, b]}),
            &["u q", "A a"],
            &["prompt_id"],
        ),
        (
            "UltraChat",
            json!({"prompt": "q", "prompt_id": "1", "messages": [q, a]}),
            &["u q", "A a"],
            &["prompt_id"],
        ),
        (
            "UltraChat, another prompt",
            json!({"prompt": "z", "messages": [q, a]}),
            &["u q", "A a"],
            &["prompt"],
        ),
        (
            "UltraChat, data",
            json!({"id": "0", "data": ["q", "b", "q", "a"]}),
            &["u q", "A b", "u q", "A a"],
            &["id"],
        ),
        (
            "Alpaca",
            json!({"instruction": "q", "input": "i", "output": "a", "system": "s", "text": ""}),
            &["s s", "u q\n\ni", "A a"],
            &[],
        ),
        (
            "Alpaca as published",
            json!({"instruction": "q", "input": "", "output": "a", "text": "q and a"}),
            &["u q", "A a"],
            &["text"],
        ),
        (
            "Alpaca, only input",
            json!({"instruction": "", "input": "i", "output": "a"}),
            &["u i", "A a"],
            &[],
        ),
        (
            "LLaMA-Factory, history",
            json!({"instruction": "q", "output": "a", "history": [["p", "b"]]}),
            &["u p", "A b", "u q", "A a"],
            &[],
        ),
        (
            "LLaMA-Factory, KTO",
            json!({"instruction": "q", "output": "a", "kto_tag": false, "history": null}),
            &["u q", "a a"],
            &[],
        ),
        (
            "LLaMA-Factory, preference",
            json!({"instruction": "q", "input": "i", "chosen": "a", "rejected": "b"}),
            &["u q\n\ni", "A a"],
            &[],
        ),
        (
            "LLaMA-Factory, ShareGPT preference",
            json!({"conversations": [from("human", "p"), from("gpt", "b"), from("human", "q")], "chosen": from("gpt", "a"), "rejected": from("gpt", "x")}),
            &["u p", "a b", "u q", "A a"],
            &[],
        ),
        (
            "ShareGPT",
            json!({"id": "x", "conversations": [from("human", "q"), from("chatgpt", "b"), from("user", "q"), from("bot", "a")]}),
            &["u q", "A b", "u q", "A a"],
            &["id"],
        ),
        (
            "OpenHermes",
            json!({"conversations": [{"from": "system", "value": "s", "weight": null}, from("human", "q"), from("gpt", "a")], "system_prompt": null, "source": "x", "idx": null, "custom_instruction": null}),
            &["s s", "u q", "A a"],
            &["source"],
        ),
        (
            "Dolly",
            json!({"instruction": "q", "context": "c", "response": "a", "category": "open_qa"}),
            &["u q\n\nc", "A a"],
            &["category"],
        ),
        (
            "SmolTalk",
            json!({"messages": [q, a], "source": "smol-magpie", "full_topic": ""}),
            &["u q", "A a"],
            &["source"],
        ),
        (
            "Tulu 3",
            json!({"id": "x_1", "messages": [q, a], "source": "ai2/x"}),
            &["u q", "A a"],
            &["id", "source"],
        ),
        (
            "a prompt made of an instruction",
            json!({"prompt": "Do q with i:", "instruction": "q", "input": "i", "response": "a"}),
            &["u Do q with i:", "A a"],
            &["input", "instruction"],
        ),
        (
            "ms-swift",
            json!({"system": "s", "query": "q", "response": "a", "history": []}),
            &["s s", "u q", "A a"],
            &[],
        ),
        (
            "a question without an answer, and a text",
            json!({"prompt": "", "response": "", "text": "t"}),
            &["T t"],
            &[],
        ),
        (
            "one system prompt twice",
            json!({"system": "s", "messages": [{"role": "system", "content": "s\n"}, q, a]}),
            &["s s\n", "u q", "A a"],
            &[],
        ),
        (
            "a text",
            json!({"text": "t", "parent_id": 3, "id": 1}),
            &["T t"],
            &["id", "parent_id"],
        ),
    ];
    for (name, value, expected, left) in cases {
        let record = one(value).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected: Vec<_> = expected.iter().map(|text| turn(text)).collect();
        assert_eq!(said(&record), expected, "{name}");
        assert_eq!(unread(&record), *left, "{name}");
        // Nulls beside what is there change nothing.
        let mut with_nulls = value.clone();
        for field in [
            "messages",
            "conversations",
            "prompt",
            "text",
            "system",
            "tools",
            "label",
        ] {
            with_nulls
                .as_object_mut()
                .unwrap()
                .entry(field)
                .or_insert(Value::Null);
        }
        for list in ["messages", "conversations"] {
            for message in with_nulls[list].as_array_mut().into_iter().flatten() {
                for field in [
                    "role",
                    "from",
                    "content",
                    "value",
                    "weight",
                    "tool_calls",
                    "name",
                ] {
                    message
                        .as_object_mut()
                        .unwrap()
                        .entry(field)
                        .or_insert(Value::Null);
                }
            }
        }
        let again = one(&with_nulls).unwrap();
        assert_eq!(
            (again.chat, again.notes),
            (record.chat, record.notes),
            "{name}"
        );
    }
}

#[test]
fn tools_calls_reasoning_and_arguments_reach_the_template() {
    let schema = json!({"name": "weather", "parameters": {"type": "object"}});
    let tool = json!({"type": "function", "function": schema});
    let call = json!({"name": "weather", "arguments": {"city": "Oslo"}});
    let called = json!([{"type": "function", "function": call}]);
    // LLaMA-Factory: tools and calls are JSON in texts.
    let record = one(&json!({
        "conversations": [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": call.to_string()},
            {"from": "observation", "value": "cold"},
            {"from": "gpt", "value": "a"},
        ],
        "tools": json!([schema]).to_string(),
    }))
    .unwrap();
    assert_eq!(record.chat.tools, Some(json!([tool])));
    assert_eq!(
        Value::Object(record.chat.messages[1].fields.clone()),
        json!({"tool_calls": called})
    );
    assert_eq!(record.chat.messages[1].role, "assistant");
    assert_eq!(record.chat.messages[2].role, "tool");
    // OpenAI and TRL: as they are given, arguments too.
    let text = json!([{"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Oslo\"}"}}]);
    for tools in [json!([tool]), json!(json!([tool]).to_string())] {
        let record = one(&json!({
            "messages": [
                {"role": "user", "content": "q", "name": "eve"},
                {"role": "assistant", "content": null, "tool_calls": text, "reasoning_content": "hm"},
                {"role": "tool", "tool_call_id": "1", "content": "cold", "id": 7},
                {"role": "assistant", "content": "a", "tool_calls": [], "thinking": "so"},
            ],
            "tools": tools,
            "chat_template_kwargs": {"enable_thinking": false, "documents": null},
        }))
        .unwrap();
        assert_eq!(record.chat.tools, Some(json!([tool])));
        assert_eq!(
            Value::Object(record.chat.kwargs.clone()),
            json!({"enable_thinking": false})
        );
        let fields: Vec<Value> = record
            .chat
            .messages
            .iter()
            .map(|m| json!(m.fields))
            .collect();
        assert_eq!(fields[0], json!({"content": "q", "name": "eve"}));
        assert_eq!(
            fields[1],
            json!({"tool_calls": text, "reasoning_content": "hm"})
        );
        assert_eq!(fields[2], json!({"content": "cold", "tool_call_id": "1"}));
        assert_eq!(fields[3], json!({"content": "a", "thinking": "so"}));
        assert_eq!(unread(&record), ["id"]);
    }
    // OpenAI before there were tools.
    let record = one(&json!({
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "function_call": {"name": "weather", "arguments": "{}"}},
            {"role": "function", "name": "weather", "content": "cold"},
        ],
        "functions": [schema],
    }))
    .unwrap();
    assert_eq!(record.chat.tools, Some(json!([tool])));
    assert_eq!(
        record.chat.messages[1].fields["tool_calls"][0]["function"]["name"],
        "weather"
    );
    assert_eq!(record.chat.messages[2].role, "function");
    // No tools.
    for (shape, tools, expected) in [
        ("conversations", json!("[]"), None),
        ("conversations", json!(""), None),
        ("messages", json!([]), Some(json!([]))),
        ("messages", json!("null"), None),
    ] {
        let record =
            one(&json!({shape: [{"role": "user", "content": "q"}], "tools": tools})).unwrap();
        assert_eq!(record.chat.tools, expected, "{shape} {tools}");
    }
}

#[test]
fn what_is_wrong_in_a_record_is_said() {
    let with = |message: Value| json!({"messages": [{"role": "user", "content": "q"}, message, {"role": "assistant", "content": "a"}]});
    let answer = |field: &str, value: Value| {
        with(json!({"role": "assistant", "content": "b", field: value}))
    };
    for (value, expected) in [
        (
            answer("weight", json!(0.5)),
            "`messages[1]`: `weight` is 0.5, expected 0 or 1",
        ),
        (
            answer("loss", json!("0")),
            "`loss` is \"0\", expected 0 or 1",
        ),
        (
            with(json!({"role": "assistant", "content": null})),
            "`messages[1]` has no `content`",
        ),
        (
            with(json!({"role": "text", "content": "x"})),
            "`text` is no role",
        ),
        (
            with(json!({"role": 3, "content": "x"})),
            "expected a text as `role`, found a number",
        ),
        (
            with(json!({"role": null, "content": "x"})),
            "`messages[1]` has no `role`",
        ),
        (
            with(json!({"role": "user", "content": [{"type": "image", "image": "x"}]})),
            "only parts with `text`",
        ),
        (
            with(json!({"role": "user", "content": {"a": 1}})),
            "expected a text, found an object",
        ),
        (
            with(json!({"role": "function_call", "content": "sunny"})),
            "expected JSON with `name`",
        ),
        (
            with(json!({"role": "function_call", "content": "{\"arguments\": 1}"})),
            "expected JSON with `name`",
        ),
        (
            json!({"messages": "q"}),
            "`messages`: expected a list of messages, found a text",
        ),
        (
            json!({"messages": ["q"]}),
            "`messages[0]`: expected an object, found a text",
        ),
        (
            json!({"messages": [{"role": "assistant", "content": null}]}),
            "`messages` has no message",
        ),
        (
            json!({"system": "s", "messages": [{"role": "system", "content": "t"}]}),
            "`system` is not what the first message says",
        ),
        (
            json!({"prompt": "q", "response": {"a": 1}}),
            "`response[0]` has no `role`",
        ),
        (
            json!({"prompt": 1, "response": "a"}),
            "`prompt`: expected a text, found a number",
        ),
        (
            json!({"instruction": "q", "output": "a", "history": ["p"]}),
            "`history`: expected a list of pairs",
        ),
        (
            json!({"instruction": "q", "output": "a", "history": [["p", null]]}),
            "`history`: expected a list of pairs",
        ),
        (
            json!({"messages": [{"role": "user", "content": "q"}], "tools": "{"}),
            "`tools`: expected JSON",
        ),
        (
            json!({"messages": [{"role": "user", "content": "q"}], "tools": [1]}),
            "`tools`: expected a list of functions",
        ),
        (
            json!({"messages": [{"role": "user", "content": "q"}], "chat_template_kwargs": {"messages": []}}),
            "`messages` is no argument",
        ),
        (
            json!({"messages": [{"role": "user", "content": "q"}], "chat_template_kwargs": [1]}),
            "`chat_template_kwargs`: expected an object",
        ),
        (
            json!({"message_id": "1", "parent_id": null, "text": "t", "role": "prompter"}),
            "a message of a tree (OpenAssistant)",
        ),
        (
            json!({"message_tree_id": "1", "prompt": {"text": "t"}}),
            "a message of a tree (OpenAssistant)",
        ),
        (
            json!({"question": "q", "answer": "a"}),
            "`corpus.fields: { prompt: question",
        ),
    ] {
        let error = one(&value).unwrap_err().to_string();
        assert!(error.contains(expected), "{value}: {error}");
    }
    // Roles that only a template can know are told.
    let record = one(&with(json!({"role": "pope", "content": "x"}))).unwrap();
    let mut tally = Tally::default();
    tally.add(record.format, record.notes.clone());
    assert_eq!(tally.roles()["pope"], 1);
    assert!(
        record
            .notes
            .complaint(record.format)
            .unwrap()
            .0
            .contains("`pope`")
    );
    for (role, expected) in [
        ("User", "user"),
        ("HUMAN", "user"),
        ("observation", "observation"),
        ("ipython", "ipython"),
        ("function_response", "tool"),
    ] {
        let record = one(&with(json!({"role": role, "content": "x"}))).unwrap();
        assert_eq!(record.chat.messages[1].role, expected);
        assert!(record.notes.complaint(record.format).is_none());
    }
}

#[test]
fn fields_can_have_other_names() {
    let mut reading = Reading::default();
    for (name, field) in [
        ("prompt", "question"),
        ("response", "answer"),
        ("system", "rules"),
        ("ignore", "id"),
        ("role", "speaker"),
        ("content", "said"),
    ] {
        reading.fields.set(name, field).unwrap();
    }
    let lines = [
        json!({"question": "q", "answer": "a", "rules": "s", "id": 3, "text": "t"}),
        json!({"prompt": "q", "response": "a"}),
        json!({"question": "", "answer": null, "messages": [{"speaker": "human", "said": "q", "id": 3}, {"speaker": "gpt", "said": "a"}]}),
    ];
    let lines = lines.map(|line| line.to_string()).join("\n");
    let (_dir, path) = file("x.jsonl", lines.as_bytes());
    let found: Vec<Record> = read_as(&path, &reading)
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert_eq!(said(&found[0]), ["s s", "u q", "A a"].map(turn));
    assert_eq!(unread(&found[0]), ["text"]);
    assert_eq!(said(&found[1]), ["u q", "A a"].map(turn));
    assert_eq!(said(&found[2]), ["u q", "A a"].map(turn));
    assert!(unread(&found[2]).is_empty());
    // A field that is ignored is not read; only then does ignoring change anything.
    assert!(reading.fields.changing().is_some());
    let mut reading = Reading::default();
    reading.fields.ignore("id");
    assert!(reading.fields.changing().is_none());
    reading.fields.ignore("context");
    assert_eq!(
        reading.fields.changing(),
        Some(json!({"ignore": ["context"]}))
    );
    let (_dir, path) = file(
        "x.jsonl",
        br#"{"instruction": "q", "context": "c", "response": "a"}"#,
    );
    let record = read_as(&path, &reading).unwrap().next().unwrap().unwrap();
    assert_eq!(said(&record), ["u q", "A a"].map(turn));
    assert!(unread(&record).is_empty());
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

/// Deep arguments go through a template and through threads with small stacks.
#[test]
fn deep_arguments_are_rendered() {
    let deep = format!("{}1{}", "[".repeat(900), "]".repeat(900));
    let line = format!(
        "{{\"messages\": [{{\"role\": \"user\", \"content\": \"q\"}}, {{\"role\": \"assistant\", \"tool_calls\": [{{\"function\": {{\"name\": \"f\", \"arguments\": {deep}}}}}]}}]}}"
    );
    let source = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{% endfor %}";
    let template = ChatTemplate::from_source("t", source, None, None).unwrap();
    let record = records("x.jsonl", line.as_bytes()).unwrap().remove(0);
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    let rendered = thread.spawn(move || template.render(&record.chat, false).unwrap());
    assert!(rendered.unwrap().join().unwrap().contains(&deep));
}

#[test]
fn compressed_and_parquet_files_are_read() {
    let line = b"{\"text\": \"caf\xC3\xA9\"}\n{\"text\": \"b\"}";
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
        error.contains("found `context` and the columns `answer`, `question`"),
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
