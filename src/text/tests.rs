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
            ("turn", " "),
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
fn turns_that_change_what_is_around_them_are_not_learned() {
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1].strip() }}MORE<|im_end|>{% endfor %}{{ '<assistant>' if add_generation_prompt }}";
    let of = |more: &str| {
        let source = source.replace("MORE", more);
        let template = ChatTemplate::from_source("t", &source, None, None).unwrap();
        let messages = [
            message("user", "is it?"),
            message("assistant", "<think>x</think>\nyes"),
        ];
        transcript(&chat(messages), Some(&template)).unwrap()
    };
    let found = of("");
    let learned = [
        ("template", "<|im_end|><assistant>"),
        ("assistant", "yes"),
        ("turn_end", "<|im_end|>"),
    ];
    assert!(spans(&found.transcript).ends_with(&learned), "{found:?}");
    assert_eq!(found.unplaced, []);
    // Here what follows depends on the length, if not of this answer.
    let found = of("{{ '!' if m.content|length > 60 }}");
    assert_eq!(found.unplaced, [Unplaced::Entangled]);
    assert!(!found.transcript.is_supervised());
    assert_covers(&found.transcript);
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
    let with_tools = Chat {
        tools: Some(serde_json::json!([])),
        ..chat([])
    };
    assert_eq!(template.render(&with_tools, false).unwrap(), "no");
    let only = r#"{"chat_template": [{"name": "rag", "template": "no"}]}"#;
    std::fs::write(dir.path().join("tokenizer_config.json"), only).unwrap();
    let error = ChatTemplate::load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("`default`"), "{error}");
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
