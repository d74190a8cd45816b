//! Renderings of transformers and Jinja2 that ours are compared with: `tests/chats`.

use std::collections::HashMap;
use std::path::PathBuf;

use super::*;

/// Cases where contents are lists of parts and the template does not look into them: transformers
/// prints the lists as Python does or refuses, we give the template their texts (see
/// [`ChatTemplate::reads_parts`]). They are counted, so that no other difference hides among them.
const PARTS_AS_TEXTS: usize = 275;

pub(in crate::text) fn chats_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/chats")
}

pub(in crate::text) fn json(path: PathBuf) -> Json {
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

pub(in crate::text) fn chats() -> HashMap<String, Chat> {
    let chats = json(chats_folder().join("chats.json"));
    let chats = chats.as_array().unwrap().iter();
    chats
        .map(|chat| (chat["name"].as_str().unwrap().to_owned(), chat_of(chat)))
        .collect()
}

/// Every template with what transformers made of it.
pub(in crate::text) fn goldens() -> Vec<(ChatTemplate, Json)> {
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

/// What is not as Jinja2 has it, and why; each must still differ.
const DIFFERS: [(&str, &str); 13] = [
    (
        "{{ 2 ** 200 }}",
        "integers have 128 bits; what needs more is an error",
    ),
    ("{{ range(10)[2:5] }}", "a part of a range is a list"),
    ("{{ 'abc'.encode is defined }}", "there are no bytes"),
    ("{{ text.encode('utf-8') }}", "there are no bytes"),
    ("{{ text.translate({72: 'J'}) }}", "no `translate`"),
    (
        "{{ numbers|map }}",
        "generators are run at once, so their errors come early",
    ),
    (
        "{{ people|selectattr }}",
        "generators are run at once, so their errors come early",
    ),
    (
        "{{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }}",
        "1 and true are two keys of a dictionary",
    ),
    (
        "{% for x in numbers %}{% with y = x %}{% if y == 1 %}{% break %}{% endif %}{{ y }}{% endwith %}{% endfor %}|after",
        "minijinja cannot leave a `with` in a loop; refused when the template is read",
    ),
    (
        "{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, z=3) }}",
        "macros take the arguments that they name",
    ),
    (
        "{{ lipsum(1, false)|length > 0 }}",
        "a chat wants no random text",
    ),
    ("{{ dict.fromkeys is defined }}", "types have no methods"),
    (
        "{% autoescape true %}{{ '<' }}{% endautoescape %}",
        "refused when the template is read",
    ),
];

#[test]
fn templates_are_as_jinja2_has_them() {
    let golden = json(chats_folder().join("expressions.json"));
    let mut chat = chat_of(&golden);
    chat.kwargs = golden["context"].as_object().unwrap().clone();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 850, "{} cases", cases.len());
    let mut differ = Vec::new();
    for case in cases {
        let source = case["template"].as_str().unwrap();
        let rendered = ChatTemplate::from_source("case", source, Some("<s>"), Some("</s>"))
            .and_then(|template| template.render(&chat, false));
        let same = rendered.as_ref().ok().map(String::as_str) == case["text"].as_str();
        let known = DIFFERS.iter().any(|(template, _)| *template == source);
        if same == known {
            differ.push(format!("{case}: {rendered:?}"));
        }
    }
    assert!(differ.is_empty(), "{}: {}", differ.len(), differ.join("\n"));
}

#[test]
fn what_the_assistant_writes_is_where_transformers_has_it() {
    let chats = chats();
    let mut compared = 0;
    for (template, golden) in goldens() {
        if !template.source.contains("endgeneration") {
            continue;
        }
        for case in golden["cases"].as_array().unwrap() {
            let (Some(text), Some(spans)) = (case["text"].as_str(), case["spans"].as_array())
            else {
                continue;
            };
            let chat = &chats[case["chat"].as_str().unwrap()];
            if !template.reads_parts && has_parts(chat) {
                continue;
            }
            let byte = |span: &Json, at: usize| span[at].as_u64().unwrap() as usize;
            let spans: Vec<_> = spans
                .iter()
                .map(|span| byte(span, 0)..byte(span, 1))
                .collect();
            assert_eq!(template.generated(chat, text), Some(spans), "{case}");
            compared += 1;
        }
    }
    assert!(compared > 2_000, "{compared} cases");
}

fn generated(source: &str) -> (String, Option<Vec<(usize, usize)>>) {
    let template = ChatTemplate::from_source("case", source, None, None).unwrap();
    let chat = Chat::new([Message::new("user", "Hi")]);
    let text = template.render(&chat, false).unwrap();
    let generated = template.generated(&chat, &text);
    let pairs = |ranges: Vec<Range<usize>>| {
        ranges
            .iter()
            .map(|range| (range.start, range.end))
            .collect()
    };
    (text, generated.map(pairs))
}

#[test]
fn marks_stand_where_the_text_is_and_not_where_transformers_counts_it() {
    // transformers counts from the start of what the template wrote itself: 4..6 here.
    let inside = "{% macro m() %}ab{% generation %}cd{% endgeneration %}{% endmacro %}x{{ m() }}";
    assert_eq!(generated(inside), ("xabcd".to_owned(), Some(vec![(3, 5)])));
    let block = "{% set t %}ab{% generation %}cd{% endgeneration %}{% endset %}x{{ t }}";
    assert_eq!(generated(block), ("xabcd".to_owned(), Some(vec![(3, 5)])));
    // What looks at the text sees the marks: then there are none to be had.
    let seen = "{% set t %}{% generation %}cd{% endgeneration %}{% endset %}{{ t|length }}";
    assert_eq!(generated(seen).1, None);
    let written = "{{ '{% generation %}' }}{# {% generation %} #}";
    assert_eq!(generated(written), ("{% generation %}".to_owned(), None));
}

#[test]
fn ends_of_lines_are_those_of_jinja2() {
    let Some(folder) = super::super::tests::shared("cases/text") else {
        return;
    };
    let mut compared = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let folder = entry.unwrap().path();
        let right = folder.join("right.json");
        if !right.is_file() {
            continue;
        }
        let right = json(right);
        for (name, template) in right["templates"].as_object().into_iter().flatten() {
            let Some(other) = template["same_as"].as_str() else {
                continue;
            };
            let chat = Chat::new([
                Message::new("user", "Hi\r\n"),
                Message::new("assistant", "Yo\r"),
            ]);
            let render = |name: &str| {
                let source = std::fs::read_to_string(folder.join(name)).unwrap();
                let template = ChatTemplate::from_source(name, &source, Some("<s>"), Some("</s>"));
                template.unwrap().render(&chat, true).unwrap()
            };
            assert_eq!(render(name), render(other), "{name}");
            compared += 1;
        }
    }
    assert!(compared > 0);
}

/// Chains as long as they may be run on the stack of a thread, and sums and joins have no limit.
#[test]
fn long_chains_render() {
    let cases = [
        (
            format!("{{{{ 'a'{} }}}}", "|upper|lower".repeat(249)),
            "a".to_owned(),
        ),
        (
            format!("{{{{ 0{} }}}}", " or 0".repeat(60) + " or 7"),
            "7".to_owned(),
        ),
        (
            format!(
                "{{% if 0 %}}{}{{% else %}}x{{% endif %}}",
                "{% elif 0 %}".repeat(100)
            ),
            "x".to_owned(),
        ),
        (
            format!("{{{{ 1{} }}}}", " + 1".repeat(2_000)),
            "2001".to_owned(),
        ),
        (
            format!("{{{{ 'a'{} }}}}", " ~ 'a'".repeat(2_000)),
            "a".repeat(2_001),
        ),
    ];
    for (source, expected) in cases {
        let chat = Chat::new([Message::new("user", "Hi")]);
        let template = ChatTemplate::from_source("case.jinja", &source, None, None).unwrap();
        assert_eq!(template.render(&chat, false).unwrap(), expected);
    }
}

#[test]
fn hostile_templates_end() {
    let nested = "(".repeat(5000) + "1" + &")".repeat(5000);
    let templates = [
        "{% for i in range(10**9) %}{% endfor %}".to_owned(),
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}".to_owned(),
        "{% macro m(x) %}{{ m(x + 1) }}{% endmacro %}{{ m(0) }}".to_owned(),
        "{{ 'x' * 10**10 }}".to_owned(),
        "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}"
            .to_owned(),
        "{% set n = namespace(x=[1]) %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}"
            .to_owned(),
        "{% set n = namespace(x=[1]) %}{% for i in range(99999) %}{% set n.x = [n.x] %}{% endfor %}"
            .to_owned(),
        "{% set n = namespace(x=1) %}{% for i in range(99) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
            .to_owned(),
        "{% set n = namespace() %}{% set n.n = n %}".to_owned(),
        "{{ '%999999999d' % 1 }}".to_owned(),
        "{% for x in [1] %}{{ loop.cycle(*[]) }}{% endfor %}".to_owned(),
        "{% for x in [1] %}{% with y = x %}{% break %}{% endwith %}{% endfor %}".to_owned(),
        format!("{{{{ {nested} }}}}"),
        format!("{{{{ {}1 }}}}", "not ".repeat(5000)),
        format!("{{{{ 'a'{} }}}}", "|upper".repeat(100_000)),
        format!("{{{{ a{} }}}}", ".a".repeat(100_000)),
        format!("{{{{ a{} }}}}", "[0]".repeat(100_000)),
        format!("{{{{ 1{} }}}}", " * 1".repeat(100_000)),
        format!("{{{{ 1{} }}}}", " - 1".repeat(100_000)),
        format!("{{{{ 1{} }}}}", " or 1".repeat(100_000)),
        format!("{{{{ 1{} }}}}", " if 1".repeat(100_000)),
        format!("{{{{ 1{} }}}}", " < 1".repeat(100_000)),
        format!("{{{{ 1{} }}}}", " is defined".repeat(100_000)),
        format!("{{% filter upper{} %}}", "|upper".repeat(100_000)),
        format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(100_000)),
        "{{ strftime_now('%Y' * 10**7) }}".to_owned(),
        "{% if 1 %}".repeat(5000),
        "{% generation %}".to_owned(),
        "{{ 'a".to_owned(),
    ];
    for source in templates {
        let chat = Chat::new([Message::new("user", "Hi")]);
        let template = ChatTemplate::from_source("case.jinja", &source, None, None);
        let error = template
            .and_then(|template| template.render(&chat, false))
            .unwrap_err();
        assert!(error.to_string().starts_with("case.jinja: "), "{error}");
    }
}
