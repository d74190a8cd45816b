use std::io::Write;
use std::path::PathBuf;

use serde_json::Value;

use super::*;

/// Material outside the repository; tests that need it say so and pass where it is absent.
pub(super) fn shared(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("FUSELM_TEST_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    let path = root.join(path);
    if !path.exists() {
        eprintln!("skipped: no {}", path.display());
    }
    path.exists().then_some(path)
}

fn message(role: &str, content: &str) -> Message {
    Message::new(role, content)
}

fn chat(messages: impl Into<Vec<Message>>) -> Chat {
    Chat::new(messages)
}

fn file(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, content).unwrap();
    (dir, path)
}

fn records(name: &str, content: &[u8]) -> Result<Vec<Record>, crate::error::Error> {
    let (_dir, path) = file(name, content);
    read(&path, None)?.collect()
}

#[test]
fn templates_render_as_the_original_does() {
    let (Some(golden), Some(templates)) = (
        shared("golden/chat/rendered.json"),
        shared("assets/tokenizers/_chat_templates"),
    ) else {
        return;
    };
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let name = case["template"].as_str().unwrap();
        let source = std::fs::read_to_string(templates.join(name)).unwrap();
        let (bos, eos) = (case["bos_token"].as_str(), case["eos_token"].as_str());
        let template = ChatTemplate::from_source(name, &source, bos, eos).unwrap();
        let messages: Vec<Message> = case["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| message(m["role"].as_str().unwrap(), m["content"].as_str().unwrap()))
            .collect();
        let prompt = case["add_generation_prompt"].as_bool().unwrap();
        let rendered = template.render(&chat(messages.clone()), prompt);
        match case["error"].as_str() {
            Some(error) => assert!(rendered.unwrap_err().to_string().contains(error)),
            None => assert_eq!(rendered.unwrap(), case["text"].as_str().unwrap(), "{name}"),
        }
        if case.get("error").is_some() || prompt {
            continue;
        }
        // Every content is found, in the right role, and only answers are supervised.
        let transcript = transcript(&chat(messages.clone()), Some(&template))
            .unwrap()
            .transcript;
        assert_covers(&transcript);
        let text = case["text"].as_str().unwrap();
        assert_eq!(transcript.text, text.strip_prefix("<s>").unwrap_or(text));
        for said in &messages {
            let found = transcript.messages().contains(said);
            // Some templates put the system's message elsewhere, or leave it out.
            assert!(found || said.role == "system", "{name}: {said:?}");
        }
        let answers = messages.iter().filter(|m| m.role == "assistant").count();
        let closed = transcript.spans.iter().filter(|s| s.role == "turn_end");
        assert_eq!(closed.count(), answers, "{name}: {transcript:?}");
        assert_eq!(
            transcript.spans.iter().filter(|s| s.supervised).count(),
            2 * answers
        );
    }
}

fn assert_covers(transcript: &Transcript) {
    let mut at = 0;
    for span in &transcript.spans {
        assert_eq!(span.byte_start, at);
        assert!(span.byte_end > at);
        at = span.byte_end;
    }
    assert_eq!(at as usize, transcript.text.len());
}

fn spans(transcript: &Transcript) -> Vec<(&str, &str)> {
    let text = |span: &Span| &transcript.text[span.byte_start as usize..span.byte_end as usize];
    let spans = transcript.spans.iter();
    spans.map(|span| (span.role.as_str(), text(span))).collect()
}

#[test]
fn trimmed_and_repeated_contents_are_found_where_they_stand() {
    let source = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}{% if m.role == 'assistant' %} {{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}";
    let template = ChatTemplate::from_source("t", source, Some("<s>"), Some("</s>")).unwrap();
    assert_eq!(template.turn_end(), Some("</s>"));
    let messages = [message("user", " a "), message("assistant", "a\n")];
    let transcript = transcript(&chat(messages.clone()), Some(&template))
        .unwrap()
        .transcript;
    assert_eq!(
        spans(&transcript),
        [
            ("template", "[user] "),
            ("user", "a"),
            ("template", "\n[assistant] "),
            ("assistant", "a"),
            ("template", " "),
            ("turn_end", "</s>"),
            ("template", "\n")
        ]
    );
    assert_eq!(transcript.content_bytes(), 1);
    let cut = transcript.slice(8, 24);
    assert_covers(&cut);
    assert_eq!(cut.messages(), [message("assistant", "a")]);
}

#[test]
fn a_template_that_looks_into_contents_is_searched_instead() {
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1].strip() }}{{ '!' if m.content|length > 60 }}<|im_end|>{% endfor %}";
    let template = ChatTemplate::from_source("t", source, None, None).unwrap();
    let long = format!("<think>{}</think>\nyes", "x".repeat(80));
    let messages = [message("user", "is it?"), message("assistant", &long)];
    let transcript = transcript(&chat(messages.clone()), Some(&template))
        .unwrap()
        .transcript;
    assert!(spans(&transcript).contains(&("assistant", "yes")));
    assert_covers(&transcript);
}

#[test]
fn generation_tags_named_templates_and_dates() {
    let source = "{% for m in messages %}\n{%- generation %}{{ m.content }}{% endgeneration %}{% endfor %}{{ strftime_now('%d %b %Y') }} {{ {'a': '<', 'b': [1, true]} | tojson }}{% if nothing is defined %}x{% endif %} {{ none }}{{ true }}";
    let mut template = ChatTemplate::from_source("t", source, None, None).unwrap();
    let text = template
        .render(&chat([message("user", "hi")]), false)
        .unwrap();
    assert_eq!(
        text,
        "hi26 Jul 2024 {\"a\": \"<\", \"b\": [1, true]} NoneTrue"
    );
    template.set_date(chrono::NaiveDate::from_ymd_opt(2025, 1, 2).unwrap());
    let text = template
        .render(&chat([message("user", "hi")]), false)
        .unwrap();
    assert!(text.starts_with("hi02 Jan 2025"));

    let dir = tempfile::tempdir().unwrap();
    assert!(ChatTemplate::load(dir.path()).unwrap().is_none());
    let config = r#"{"bos_token": {"content": "<s>"}, "chat_template": [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "{{ bos_token }}yes"}]}"#;
    std::fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
    let template = ChatTemplate::load(dir.path()).unwrap().unwrap();
    assert_eq!(template.render(&chat([]), false).unwrap(), "<s>yes");
    std::fs::write(dir.path().join("chat_template.jinja"), "{% if %}").unwrap();
    let error = ChatTemplate::load(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("chat_template.jinja") && error.contains("line 1"),
        "{error}"
    );
}

#[test]
fn chats_need_a_template_and_texts_do_not() {
    let error = transcript(&chat([message("user", "x")]), None).unwrap_err();
    assert!(error.to_string().contains("chat_template.jinja"));
    let plain = transcript(&chat([message("text", "héllo")]), None)
        .unwrap()
        .transcript;
    assert_eq!(spans(&plain), [("text", "héllo")]);
    assert!(plain.is_supervised());
}

#[test]
fn long_chats_split_before_a_user_turn() {
    let source =
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";
    let template = ChatTemplate::from_source("t", source, None, None).unwrap();
    let messages = [
        message("user", "a"),
        message("assistant", "b"),
        message("user", "c"),
        message("assistant", "d"),
    ];
    let transcript = transcript(&chat(messages.clone()), Some(&template))
        .unwrap()
        .transcript;
    let borders = transcript.turn_borders();
    assert_eq!(borders.len(), 1);
    assert!(transcript.text[borders[0]..].starts_with("<|im_start|>user\nc"));
}

#[test]
fn every_shape_is_read() {
    let chat = [message("user", "q"), message("assistant", "a")];
    for (name, text) in [
        (
            "a.jsonl",
            r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": [{"type": "text", "text": "a"}]}]}"#,
        ),
        (
            "b.json",
            r#"[{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}]"#,
        ),
        ("c.jsonl", "\n{\"prompt\": \"q\", \"response\": \"a\"}\n\n"),
        ("d.json", r#"{"prompt": "q", "completion": "a"}"#),
        (
            "e.jsonl",
            r#"{"instruction": "q", "input": "", "output": "a"}"#,
        ),
    ] {
        let records = records(name, text.as_bytes()).unwrap();
        assert_eq!(records.len(), 1, "{name}");
        assert_eq!(records[0].chat.messages, chat, "{name}");
        assert_eq!(records[0].source_row, 0);
    }
    let alpaca = br#"{"instruction": "q", "input": "i", "output": "a", "system": "s"}"#;
    let messages = &records("f.jsonl", alpaca).unwrap()[0].chat.messages;
    assert_eq!(messages[0], message("system", "s"));
    assert_eq!(messages[1], message("user", "q\n\ni"));
    assert!(records("g.jsonl", b"{\"text\": \"t\"}").unwrap()[0].is_text());
    assert!(records("h.jsonl", b"").unwrap().is_empty());
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

    let texts: arrow::array::ArrayRef =
        std::sync::Arc::new(arrow::array::StringArray::from(vec![Some("x\ny"), None]));
    let batch = arrow::array::RecordBatch::try_from_iter([("text", texts)]).unwrap();
    let mut parquet = Vec::new();
    let mut writer =
        parquet::arrow::ArrowWriter::try_new(&mut parquet, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let (_dir, path) = file("a.parquet", &parquet);
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
            "f.jsonl",
            "{\"messages\": [{\"role\": \"pope\", \"content\": \"\"}]}",
            "`messages[0]`: `pope` is no known role",
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
        ("j.jsonl.gz", "not gz", "j.jsonl.gz"),
        ("k.jsonl.zst", "not zst", "k.jsonl.zst"),
        ("l.parquet", "not parquet", "l.parquet"),
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
        let records = read(&path, None)
            .unwrap()
            .collect::<Result<Vec<_>, _>>()
            .unwrap();
        assert_eq!(records.len(), count);
        assert!(records.iter().all(|record| !record.is_text()));
    }
}
