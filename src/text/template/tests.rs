//! Renderings of transformers and Jinja2 that ours are compared with: `tests/chats`.

use std::collections::HashMap;
use std::path::PathBuf;

use super::*;

/// Cases where contents are lists of parts and the template does not look into them: transformers
/// prints the lists as Python does or refuses, we give the template their texts (see
/// [`ChatTemplate::reads_parts`]). They are counted, so that no other difference hides among them.
const PARTS_AS_TEXTS: usize = 275;

fn chats_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/chats")
}

fn json(path: PathBuf) -> Json {
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

fn chat_of(chat: &Json) -> Chat {
    let message = |message: &Json| {
        let mut fields = message.as_object().unwrap().clone();
        let role = fields.shift_remove("role").unwrap();
        Message {
            role: role.as_str().unwrap().to_owned(),
            learned: true,
            fields,
        }
    };
    let messages = chat["messages"].as_array().unwrap();
    Chat {
        messages: messages.iter().map(message).collect(),
        tools: chat.get("tools").filter(|tools| !tools.is_null()).cloned(),
        kwargs: chat
            .get("kwargs")
            .and_then(Json::as_object)
            .cloned()
            .unwrap_or_default(),
    }
}

fn chats() -> HashMap<String, Chat> {
    let chats = json(chats_folder().join("chats.json"));
    let chats = chats.as_array().unwrap().iter();
    chats
        .map(|chat| (chat["name"].as_str().unwrap().to_owned(), chat_of(chat)))
        .collect()
}

/// Every template with what transformers made of it.
fn goldens() -> Vec<(ChatTemplate, Json)> {
    let folder = chats_folder();
    let mut names: Vec<PathBuf> = std::fs::read_dir(folder.join("golden"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    let golden = |path: PathBuf| {
        let golden = json(path);
        let name = golden["template"].as_str().unwrap().to_owned();
        let path = folder.join(format!("templates/{name}.jinja"));
        let source = std::fs::read_to_string(path).unwrap();
        let tokens = golden["tokens"].as_object().unwrap().iter();
        let tokens = TokenFacts::of_names(tokens.map(|(key, text)| (key.as_str(), text.as_str())));
        let template = ChatTemplate::build(name, &source, &tokens).unwrap();
        (template, golden)
    };
    names.into_iter().map(golden).collect()
}

fn has_parts(chat: &Chat) -> bool {
    let parts = |message: &Message| message.fields.get("content").is_some_and(Json::is_array);
    chat.messages.iter().any(parts)
}

#[test]
fn chats_are_rendered_as_transformers_does() {
    let chats = chats();
    let (mut cases, mut as_texts, mut differ) = (0, 0, Vec::new());
    for (template, golden) in goldens() {
        for case in golden["cases"].as_array().unwrap() {
            let chat = &chats[case["chat"].as_str().unwrap()];
            let rendered = template.render(chat, case["add_generation_prompt"] == true);
            cases += 1;
            if rendered.as_ref().ok().map(String::as_str) == case["text"].as_str() {
                continue;
            }
            match !template.reads_parts && has_parts(chat) {
                true => as_texts += 1,
                false => differ.push(format!("{}: {rendered:?}, not {case}", template.origin)),
            }
        }
    }
    assert!(cases > 6_000, "{cases} cases");
    assert!(
        differ.is_empty(),
        "{}: {}",
        differ.len(),
        differ.join(
            "
"
        )
    );
    assert_eq!(as_texts, PARTS_AS_TEXTS);
}
