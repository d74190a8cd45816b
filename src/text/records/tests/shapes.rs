//! Records as they are published, in all their shapes.

use serde_json::{Value, json};

use super::files::records;
use crate::error::Error;
use crate::text::records::*;

/// The one record in a file of one line.
pub(super) fn one(value: &Value) -> Result<Record, Error> {
    let mut found = records("x.jsonl", value.to_string().as_bytes())?;
    assert_eq!(found.len(), 1);
    Ok(found.remove(0))
}

/// Each message as its role, its text, and whether it would be learnt.
pub(super) fn said(record: &Record) -> Vec<(String, String, bool)> {
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
pub(super) fn unread(record: &Record) -> Vec<String> {
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
pub(super) fn turn(text: &str) -> (String, String, bool) {
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
            "axolotl, a user's turn",
            json!({"conversations": [{"from": "human", "value": "q", "train": true}, {"from": "gpt", "value": "a", "training": true}]}),
            &["u q", "A a"],
            &["train"],
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
        assert_eq!(unread(&again), *left, "{name}");
        assert_eq!(again.chat, record.chat, "{name}");
    }
}
