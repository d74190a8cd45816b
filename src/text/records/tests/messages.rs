//! What the messages of records have, what is wrong with them, and fields with other names.

use serde_json::{Value, json};

use super::files::file;
use super::shapes::{one, said, turn, unread};
use crate::text::records::*;

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
