//! Turns against transformers' masks, over the templates and chats of `tests/chats`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::text::template::tests::{chats, chats_folder, goldens, json};
use crate::text::*;

/// Adjacent ranges as one, empty ones left out.
fn merged(ranges: impl IntoIterator<Item = (usize, usize)>) -> Vec<(usize, usize)> {
    let mut merged: Vec<(usize, usize)> = Vec::new();
    for (start, end) in ranges.into_iter().filter(|(start, end)| start < end) {
        match merged.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => merged.push((start, end)),
        }
    }
    merged
}

/// The supervised bytes of a rendering, BOS counted.
fn learned(transcribed: &Transcribed, rendered: &str) -> Vec<(usize, usize)> {
    let cut = rendered.len() - transcribed.transcript.text.len();
    let spans = transcribed
        .transcript
        .spans
        .iter()
        .filter(|span| span.supervised);
    merged(spans.map(|span| (span.byte_start as usize + cut, span.byte_end as usize + cut)))
}

/// Whether the bytes that only one of two masks has are blanks, or a part of the prompt that the
/// other takes for the assistant's (as TRL's templates of some families do).
fn alike(
    text: &str,
    marked: &[(usize, usize)],
    derived: &[(usize, usize)],
    prompts: &[String],
    eos: Option<&str>,
) -> bool {
    let within = |ranges: &[(usize, usize)], byte: usize| {
        ranges
            .iter()
            .any(|(start, end)| (*start..*end).contains(&byte))
    };
    let differs = |byte: usize| within(marked, byte) != within(derived, byte);
    let mut runs: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (at, char) in text.char_indices() {
        if differs(at) {
            match runs.last_mut().filter(|_| open) {
                Some((_, run)) => run.push(char),
                None => runs.push((at, char.to_string())),
            }
        }
        open = differs(at);
    }
    runs.iter().all(|(at, run)| {
        let prompt = |prompt: &String| prompt.contains(run.trim());
        // What ends the chat ends its last turn.
        let eos = at + run.len() == text.len() && eos == Some(run);
        match within(marked, *at) {
            _ if run.trim().is_empty() => true,
            true => prompts.iter().any(prompt),
            false => eos,
        }
    })
}

/// What asks the assistant to speak in each of its turns.
fn prompts(chat: &Chat, template: &ChatTemplate) -> Vec<String> {
    let turns = (0..chat.messages.len()).filter(|at| chat.messages[*at].role == "assistant");
    let prompt = |at| {
        let before = Chat {
            messages: chat.messages[..at].to_vec(),
            ..chat.clone()
        };
        let asked = template.render(&before, true).ok()?;
        let history = template.render(&before, false).ok()?;
        asked.strip_prefix(&history).map(str::to_owned)
    };
    turns.filter_map(prompt).collect()
}

/// Turns of templates without tags, where they are not those of the twin with tags, and why.
const DIFFERENT: [(&str, &str); 9] = [
    // Tools stand before the last question, so what comes before an earlier answer is rendered
    // differently when that is asked for; between it and its prompt stands a function's result.
    ("mistral-nemo", "tool_call_with_content"),
    ("mistral-nemo", "tool_calls_parallel"),
    ("mistral-nemo", "tool_call_reasoning"),
    ("mistral-small3", "tool_call_with_content"),
    ("mistral-small3", "tool_calls_parallel"),
    ("mistral-small3", "tool_call_reasoning"),
    // A thought that never ends is followed by the end that the template gives it.
    ("nemotron3", "think_unclosed"),
    // Nothing is said, and no token closes the turn.
    ("seed-oss", "reasoning_alone"),
    // No user has spoken, which the template refuses when the assistant is asked to.
    ("qwen3.5", "starts_with_assistant"),
];

#[test]
fn turns_are_those_that_transformers_marks() {
    let chats = chats();
    let (mut tagged, mut derived) = (0, 0);
    let mut different = Vec::new();
    for (template, golden) in goldens() {
        let name = golden["template"].as_str().unwrap();
        let eos = golden["tokens"].get("eos_token").and_then(Value::as_str);
        let source = chats_folder().join(format!("templates/{name}.jinja"));
        let has_tags = std::fs::read_to_string(source)
            .unwrap()
            .contains("endgeneration");
        for case in golden["cases"].as_array().unwrap() {
            let (Some(text), Some(spans)) = (case["text"].as_str(), case["spans"].as_array())
            else {
                continue;
            };
            let chat_name = case["chat"].as_str().unwrap();
            let chat = &chats[chat_name];
            if template.render(chat, false).ok().as_deref() != Some(text) {
                continue;
            }
            let byte = |value: &Value| value.as_u64().unwrap() as usize;
            let expected = merged(spans.iter().map(|span| (byte(&span[0]), byte(&span[1]))));
            let found = transcript(chat, Some(&template)).unwrap();
            let got = learned(&found, text);
            let texts = |ranges: &[(usize, usize)]| -> Vec<&str> {
                ranges
                    .iter()
                    .map(|(start, end)| &text[*start..*end])
                    .collect()
            };
            let (expected_texts, got_texts) = (texts(&expected), texts(&got));
            let equal = match has_tags {
                true => expected == got,
                false => alike(text, &expected, &got, &prompts(chat, &template), eos),
            };
            *(if has_tags { &mut tagged } else { &mut derived }) += 1;
            if equal == DIFFERENT.contains(&(name, chat_name)) {
                different.push(format!(
                    "{name} {chat_name} {:?}\n  {expected_texts:?}\n  {got_texts:?}",
                    found.unplaced
                ));
            }
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert!(tagged > 1000 && derived > 1000, "{tagged} {derived}");
}

/// The cases of the shared folder that say what is learned.
#[test]
fn turns_of_the_shared_cases() {
    let root = std::env::var_os("FUSELM_TEST_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"),
        PathBuf::from,
    );
    let Ok(cases) = std::fs::read_dir(root.join("cases/text")) else {
        eprintln!("skipped: no {}", root.join("cases/text").display());
        return;
    };
    for case in cases {
        let case = case.unwrap().path();
        let right = case.join("right.json");
        if !right.is_file() {
            continue;
        }
        let right = json(right);
        let Some(source) = right["template"].as_str() else {
            continue;
        };
        let source = std::fs::read_to_string(case.join(source)).unwrap();
        let template = ChatTemplate::from_source("case", &source, None, None).unwrap();
        let files = right.as_object().unwrap().iter();
        for (name, rows) in files.filter(|(name, _)| case.join(name).is_file()) {
            let Some(rows) = rows.as_array() else {
                continue;
            };
            let records = read(&case.join(name), None).unwrap();
            for (record, row) in records.zip(rows) {
                let Some(expected) = row["learned"].as_array() else {
                    continue;
                };
                let chat = record.unwrap().chat;
                let rendered = template.render(&chat, false).unwrap();
                let found = transcript(&chat, Some(&template)).unwrap();
                let ranges = learned(&found, &rendered);
                let got: Vec<&str> = ranges.iter().map(|(a, b)| &rendered[*a..*b]).collect();
                let expected: Vec<_> = expected.iter().map(|text| text.as_str().unwrap()).collect();
                assert_eq!(got, expected, "{} {name}", case.display());
            }
        }
    }
}
