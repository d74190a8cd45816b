//! Tokens that stand in other files than `tokenizer.json`, and ids with several spellings.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;

/// A folder with a tokenizer and files beside it.
fn folder(spec: &Value, files: &[(&str, Value)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &Value| {
        std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    };
    write("tokenizer.json", spec);
    for (name, value) in files {
        write(name, value);
    }
    dir
}

/// Chat tokens that only another file has, on a tokenizer whose normaliser adds a prefix.
#[test]
fn llama_2_with_chat_tokens_beside_its_tokenizer() {
    let Some(llama) = shared("assets/tokenizers/llama-2") else {
        return;
    };
    let read = |name: &str| -> Value {
        serde_json::from_str(&std::fs::read_to_string(llama.join(name)).unwrap()).unwrap()
    };
    let (spec, own) = (read("tokenizer.json"), read("tokenizer_config.json"));
    let with = |more: Value| {
        let mut own = own.clone();
        for (key, value) in more.as_object().unwrap() {
            own[key] = value.clone();
        }
        ("tokenizer_config.json", own)
    };
    let template = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + \
                    message['content'] + '<|im_end|>' + '\n' }}{% endfor %}\
                    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    let special = |text: &str| json!({"content": text, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false, "special": true});
    let decoder = json!({"32000": special("<|im_end|>"), "32001": special("<|im_start|>")});
    let flat = (
        "added_tokens.json",
        json!({"<|im_end|>": 32000, "<|im_start|>": 32001}),
    );
    let list = json!(["<|im_end|>", "<|im_start|>"]);
    for files in [
        vec![with(
            json!({"added_tokens_decoder": decoder, "chat_template": template}),
        )],
        vec![with(json!({"chat_template": template})), flat.clone()],
        vec![
            with(json!({"chat_template": template, "eos_token": "<|im_end|>"})),
            flat,
        ],
        vec![
            with(json!({"chat_template": template})),
            (
                "special_tokens_map.json",
                json!({"additional_special_tokens": list}),
            ),
        ],
    ] {
        let dir = folder(&spec, &files);
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        let text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n";
        // What transformers makes of it.
        let ids = [
            32001, 1404, 13, 18567, 32000, 29871, 13, 32001, 20255, 13, 10994, 32000, 29871, 13,
        ];
        let encoded = tokenizer.encode(text).unwrap();
        assert_eq!(encoded.ids, ids, "{files:?}");
        let vocabulary = tokenizer.vocabulary();
        assert_eq!(vocabulary.id_with_role(Role::TurnEnd), Some(32000));
        assert_eq!(vocabulary.id_with_role(Role::TurnStart), Some(32001));
        assert_eq!(vocabulary.id_with_role(Role::Bos), Some(1));
        let template = tokenizer.template().unwrap();
        assert_eq!(template.turn_end(), Some("<|im_end|>"));
        let chat = Chat::new([
            Message::new("user", "Hi"),
            Message::new("assistant", "Hello"),
        ]);
        let transcript = transcript(&chat, Some(template)).unwrap().transcript;
        assert_eq!(transcript.text, text);
        let row = tokenizer
            .encode_transcript(&transcript, None, SpecialTokens::Text)
            .unwrap();
        let learned = row.ids.iter().zip(&row.supervised);
        let learned: Vec<u32> = { learned.filter(|(_, yes)| **yes) }
            .map(|(id, _)| *id)
            .collect();
        assert_eq!(learned, [10994, 32000]);
        // The same tokenizer from its completed file.
        let again: Value = serde_json::from_str(tokenizer.spec()).unwrap();
        let again = Tokenizer::from_spec(dir.path(), &again, None, &roles(&tokenizer)).unwrap();
        assert_eq!(again.vocabulary(), vocabulary);
        assert_eq!(again.encode(text).unwrap(), encoded);
    }
    // `<unk>` is no added token in the file; transformers makes it one, since it is named.
    let plain = folder(&spec, &[("tokenizer_config.json", own.clone())]);
    let plain = Tokenizer::load(plain.path()).unwrap();
    assert_eq!(plain.encode("<unk>a").unwrap().ids, [0, 263]);
    for (more, problem) in [
        (
            json!({"eos_token": "<|im_end|>"}),
            "`eos_token` is `<|im_end|>`, which is no token",
        ),
        (
            json!({"added_tokens_decoder": {"1": {"content": "<x>"}}}),
            "it is `<s>` in",
        ),
    ] {
        let dir = folder(&spec, &[with(more)]);
        let error = Tokenizer::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
        std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
        assert_eq!(
            ChatTemplate::load(dir.path()).unwrap_err().to_string(),
            error
        );
    }
}

fn roles(tokenizer: &Tokenizer) -> HashMap<Role, u32> {
    let vocabulary = tokenizer.vocabulary();
    let roles = Role::ALL.into_iter();
    roles
        .filter_map(|role| Some((role, vocabulary.id_with_role(role)?)))
        .collect()
}

#[test]
fn roles_and_the_template_have_the_same_tokens() {
    let spec = json!({"added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": null, "model": {"type": "BPE", "merges": [],
            "vocab": {"<s>": 0, "</s>": 1, "a": 2, "<unk>": 3}}});
    let template =
        json!({"chat_template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"});
    let with = |more: Value| {
        let mut config = template.clone();
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        ("tokenizer_config.json", config)
    };
    let map = |value: Value| ("special_tokens_map.json", value);
    for (files, bos, eos) in [
        (
            vec![
                with(json!({})),
                map(json!({"bos_token": "<s>", "eos_token": "</s>"})),
            ],
            "<s>",
            "</s>",
        ),
        (
            vec![
                with(json!({"bos_token": "</s>"})),
                map(json!({"bos_token": "<s>"})),
            ],
            "<s>",
            "",
        ),
        (
            vec![with(json!({"tokenizer_class": "LlamaTokenizerFast"}))],
            "<s>",
            "</s>",
        ),
        (
            vec![with(json!({"tokenizer_class": "GPT2TokenizerFast"}))],
            "",
            "",
        ),
        (
            vec![with(
                json!({"bos_token": {"content": "<s>"}, "eos_token": null}),
            )],
            "<s>",
            "",
        ),
    ] {
        let dir = folder(&spec, &files);
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        let chat = Chat::new([Message::new("user", "a")]);
        let expected = format!("{bos}a{eos}");
        let own = ChatTemplate::load(dir.path()).unwrap().unwrap();
        for template in [&own, tokenizer.template().unwrap()] {
            assert_eq!(
                template.render(&chat, false).unwrap(),
                expected,
                "{files:?}"
            );
        }
        let spelled = |role: Role| {
            let id = tokenizer.vocabulary().id_with_role(role);
            id.map_or("", |id| {
                tokenizer.vocabulary().tokens[id as usize].display.as_str()
            })
        };
        assert_eq!(
            (spelled(Role::Bos), spelled(Role::Eos)),
            (bos, eos),
            "{files:?}"
        );
        // What the template writes is found as one token.
        let found = tokenizer.encode(&expected).unwrap().ids.len();
        assert_eq!(
            found,
            1 + usize::from(!bos.is_empty()) + usize::from(!eos.is_empty())
        );
    }
}

/// A tokenizer with two spellings of one id, of which merges can make the second.
fn doubled(decoder: Value) -> Value {
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true, "trim_offsets": true});
    json!({"added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": bytes, "post_processor": null,
        "decoder": decoder, "model": {"type": "BPE", "merges": [["x", "x"], ["y", "y"], ["xx", "yy"], ["\u{120}", "a"]],
            "vocab": {"<s>": 0, "x": 1, "y": 2, "xx": 3, "yy": 4, "a": 5, "xxyy": 5, "\u{120}": 6,
                "\u{120}a": 7, "\u{120}x": 7, "X": 8}}})
}

#[test]
fn the_first_of_two_spellings_is_the_token_at_every_load() {
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true, "trim_offsets": true});
    for spec in [doubled(bytes), doubled(Value::Null)] {
        let dir = folder(&spec, &[]);
        let load = || Tokenizer::load(dir.path()).unwrap();
        let first = load();
        assert_eq!(first.vocabulary().tokens[5].display, "a");
        assert_eq!(first.vocabulary().bytes(5), b"a");
        assert_eq!(first.vocabulary().bytes(7), b" a");
        assert_eq!(
            (first.id_with_bytes(b"a"), first.id_with_bytes(b"xxyy")),
            (Some(5), None)
        );
        // Both texts have the token, whatever its bytes are; the library merges by id.
        let text = "xxyy a XXyya";
        let encoded = first.encode(text).unwrap();
        assert_eq!(encoded.ids, [5, 7, 7, 5]);
        assert_eq!(encoded.byte_end, [4, 6, 11, 12]);
        for _ in 0..20 {
            let other = load();
            assert_eq!(other.vocabulary(), first.vocabulary());
            assert_eq!(other.encode(text).unwrap(), encoded);
            assert_eq!(other.decode(&[5, 7, 1]), first.decode(&[5, 7, 1]));
            assert_eq!(other.first_token(b" a"), Some(7));
        }
        assert!(first.decode(&[5, 1]).starts_with('a'));
    }
    // Another second spelling is another tokenizer.
    let mut other = doubled(Value::Null);
    other["model"]["vocab"]["q"] = 5.into();
    let digest = |spec: &Value| load(spec).unwrap().vocabulary().digest.clone();
    assert_ne!(digest(&other), digest(&doubled(Value::Null)));
}

/// Folders whose result must be the same at every run: `right.json` has `repeat`.
#[test]
fn models_of_the_cases_are_the_same_at_every_load() {
    let mut loaded = 0;
    for (folder, right) in cases() {
        let Some(model) = right["model"]
            .as_str()
            .filter(|_| !right["repeat"].is_null())
        else {
            continue;
        };
        let load = || Tokenizer::load(&folder.join(model)).unwrap();
        let data = std::fs::read_to_string(folder.join("data.jsonl")).unwrap();
        let rows = |tokenizer: &Tokenizer| -> Vec<TokenRow> {
            let chats = data.lines().map(chat_of);
            chats
                .map(|chat| transcript(&chat, tokenizer.template()).unwrap().transcript)
                .map(|transcript| {
                    tokenizer
                        .encode_transcript(&transcript, None, SpecialTokens::Text)
                        .unwrap()
                })
                .collect()
        };
        let first = load();
        for _ in 0..12 {
            let other = load();
            assert_eq!(
                other.vocabulary(),
                first.vocabulary(),
                "{}",
                folder.display()
            );
            assert_eq!(rows(&other), rows(&first), "{}", folder.display());
            loaded += 1;
        }
    }
    assert!(loaded > 0 || shared("cases").is_none());
}

/// The chat of a line.
fn chat_of(line: &str) -> Chat {
    let record: Value = serde_json::from_str(line).unwrap();
    if let Some(text) = record["text"].as_str() {
        return Chat::new([Message::new("text", text)]);
    }
    let messages = record["messages"].as_array().unwrap().iter();
    let messages = messages.map(|message| {
        let field = |key: &str| message[key].as_str().unwrap();
        Message::new(field("role"), field("content"))
    });
    Chat::new(messages.collect::<Vec<_>>())
}

/// Folders of tokenizers that must be the same in all but the file: `right.json` has `models`
/// with `same_as`. Also with the added tokens that are pieces found in the normalised text.
#[test]
fn pieces_that_are_added_tokens_too_are_what_the_model_makes_of_them() {
    let mut compared = 0;
    for (folder, right) in cases() {
        let of = right["of"].as_array().into_iter().flatten();
        if !of.clone().any(|name| name == "byte_end") {
            continue;
        }
        for (model, like) in right["models"].as_object().into_iter().flatten() {
            let Some(other) = like["same_as"].as_str() else {
                continue;
            };
            let plain = Tokenizer::load(&folder.join(other)).unwrap();
            let pivot = Tokenizer::load(&folder.join("pivot")).unwrap();
            let one = Tokenizer::load(&folder.join(model)).unwrap();
            compared += compare(&one, &plain, &pivot, &folder);
            let dir = tempfile::tempdir().unwrap();
            for entry in std::fs::read_dir(folder.join(model)).unwrap() {
                let from = entry.unwrap().path();
                let text = std::fs::read_to_string(&from).unwrap();
                std::fs::write(dir.path().join(from.file_name().unwrap()), text).unwrap();
            }
            let path = dir.path().join("tokenizer.json");
            let mut spec: Value =
                serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
            for token in spec["added_tokens"].as_array_mut().unwrap() {
                token["normalized"] = (token["special"] == false).into();
            }
            std::fs::write(&path, spec.to_string()).unwrap();
            compare(
                &Tokenizer::load(dir.path()).unwrap(),
                &plain,
                &pivot,
                &folder,
            );
        }
    }
    assert!(compared > 0 || shared("cases").is_none());
}

/// Compares all that fusion knows of two tokenizers; returns the number of texts.
fn compare(one: &Tokenizer, other: &Tokenizer, pivot: &Tokenizer, folder: &Path) -> usize {
    let facts = |tokenizer: &Tokenizer| -> Vec<(Vec<u8>, Kind, bool)> {
        let tokens = tokenizer.vocabulary().tokens.iter();
        { tokens.map(|token| (token.bytes.clone(), token.kind, token.special)) }.collect()
    };
    assert_eq!(facts(one), facts(other), "{}", folder.display());
    for token in &pivot.vocabulary().tokens {
        let first = |tokenizer: &Tokenizer| tokenizer.first_token(&token.bytes);
        assert_eq!(first(one), first(other), "{}", token.display);
    }
    let mut count = 0;
    for name in ["data.jsonl", "chat.jsonl"] {
        let Ok(data) = std::fs::read_to_string(folder.join(name)) else {
            continue;
        };
        for chat in data.lines().map(chat_of) {
            let transcript = transcript(&chat, other.template()).unwrap().transcript;
            for pivot in [None, Some(pivot)] {
                let row = |tokenizer: &Tokenizer| {
                    tokenizer.encode_transcript(&transcript, pivot, SpecialTokens::Text)
                };
                assert_eq!(
                    row(one).unwrap(),
                    row(other).unwrap(),
                    "{}",
                    transcript.text
                );
            }
            count += 1;
        }
    }
    count
}

/// The folders with a `right.json`.
fn cases() -> Vec<(PathBuf, Value)> {
    let mut folders: Vec<PathBuf> = shared("cases").into_iter().collect();
    let mut cases = Vec::new();
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).unwrap();
        folders.extend({ entries.map(|entry| entry.unwrap().path()) }.filter(|path| path.is_dir()));
        if let Ok(right) = std::fs::read_to_string(folder.join("right.json")) {
            cases.push((folder, serde_json::from_str(&right).unwrap()));
        }
    }
    cases
}

/// What an added token stands for that is a piece as well, and one that is not.
#[test]
fn added_tokens_that_are_pieces_have_the_bytes_of_the_pieces() {
    let added = |id: u32, content: &str, normalized: bool| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": normalized, "special": false})
    };
    let sentence = json!({"type": "BPE", "byte_fallback": true, "merges": [["\u{2581}", "\u{2581}"]],
        "vocab": {"\u{2581}": 0, "\u{2581}\u{2581}": 1, "\t": 2, "\n\n": 3, "<b>": 4, "a": 5}});
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    for normalized in [false, true] {
        let tokens = [
            (1, "\u{2581}\u{2581}"),
            (2, "\t"),
            (3, "\n\n"),
            (4, "<b>"),
            (6, "\u{2581}x"),
        ];
        let tokens = tokens.map(|(id, text)| added(id, text, normalized));
        let spec = json!({"added_tokens": tokens, "normalizer": replace, "pre_tokenizer": null,
            "post_processor": null, "decoder": null, "model": sentence});
        let tokenizer = load(&spec).unwrap();
        let bytes = |id: u32| tokenizer.vocabulary().bytes(id);
        assert_eq!(
            [bytes(1), bytes(2), bytes(3), bytes(4)],
            [&b"  "[..], b"\t", b"\n\n", b"<b>"]
        );
        assert_eq!(bytes(6), "\u{2581}x".as_bytes());
        let kinds = [1, 6].map(|id| tokenizer.vocabulary().tokens[id].kind);
        assert_eq!(kinds, [Kind::Ordinary, Kind::Added]);
        let encoded = tokenizer.encode("a  a\t<b>\n\na").unwrap();
        assert_eq!(encoded.ids, [5, 1, 5, 2, 4, 3, 5]);
        assert_eq!(encoded.byte_end, [1, 3, 4, 5, 8, 10, 11]);
        assert_eq!(tokenizer.first_token(b"  a"), Some(1));
    }
    // Bytes as GPT-2 spells them: the piece's, and blanks as they are.
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false, "trim_offsets": true});
    let model = json!({"type": "BPE", "merges": [["\u{120}", "\u{120}"]],
        "vocab": {"\u{120}": 0, "\u{120}\u{120}": 1, "   ": 2, "\u{10a}": 3}});
    let tokens = [
        added(1, "\u{120}\u{120}", false),
        added(2, "   ", false),
        added(4, "\u{120}\u{10a}", false),
    ];
    let spec = json!({"added_tokens": tokens, "normalizer": null, "pre_tokenizer": bytes,
        "post_processor": null, "decoder": null, "model": model});
    let tokenizer = load(&spec).unwrap();
    let bytes = |id: u32| tokenizer.vocabulary().bytes(id);
    assert_eq!([bytes(1), bytes(2)], [&b"  "[..], b"   "]);
    assert_eq!(bytes(4), "\u{120}\u{10a}".as_bytes());
    let encoded = tokenizer.encode("  \n   ").unwrap();
    assert_eq!(
        (encoded.ids, encoded.byte_end),
        (vec![1, 3, 2], vec![2, 3, 6])
    );
}

/// A tokenizer that adds a prefix at the start of a text only, or after every token.
fn prefixed(scheme: &str, rstrip: bool) -> Tokenizer {
    let spec = json!({"added_tokens": [{"id": 0, "content": "<s>", "single_word": false,
            "lstrip": false, "rstrip": rstrip, "normalized": false, "special": true}],
        "normalizer": null, "pre_tokenizer": {"type": "Metaspace", "replacement": "\u{2581}",
            "prepend_scheme": scheme, "split": false},
        "post_processor": null, "decoder": null, "model": {"type": "BPE",
            "merges": [["#", "#"], ["##", "#"], ["\u{2581}", "###"]],
            "vocab": {"<s>": 0, "\u{2581}": 1, "#": 2, "##": 3, "###": 4, "\u{2581}###": 5}}});
    load(&spec).unwrap()
}

#[test]
fn a_prefix_at_the_start_is_not_added_after_bos() {
    for (scheme, rstrip, text, alone, ends, after, ends_after) in [
        (
            "first",
            false,
            "###",
            &[5][..],
            &[3][..],
            &[4][..],
            &[3][..],
        ),
        ("first", false, " ###", &[5], &[4], &[5], &[4]),
        (
            "first",
            false,
            "###<s>###",
            &[5, 0, 4],
            &[3, 6, 9],
            &[4, 0, 4],
            &[3, 6, 9],
        ),
        ("first", false, "", &[], &[], &[], &[]),
        ("always", false, "###", &[5], &[3], &[5], &[3]),
        (
            "always",
            false,
            "###<s>###",
            &[5, 0, 5],
            &[3, 6, 9],
            &[5, 0, 5],
            &[3, 6, 9],
        ),
        ("never", false, "###", &[4], &[3], &[4], &[3]),
        // BOS takes the blanks after it; they belong to the next token.
        ("first", true, "  ###", &[1, 5], &[1, 5], &[4], &[5]),
        ("always", true, "  ###", &[1, 5], &[1, 5], &[5], &[5]),
    ] {
        let tokenizer = prefixed(scheme, rstrip);
        let encoded = tokenizer.encode(text).unwrap();
        let name = format!("{scheme} {rstrip} {text:?}");
        assert_eq!(
            (&encoded.ids[..], &encoded.byte_end[..]),
            (alone, ends),
            "{name}"
        );
        let encoded = tokenizer.encode_after_bos(text).unwrap();
        assert_eq!(
            (&encoded.ids[..], &encoded.byte_end[..]),
            (after, ends_after),
            "{name}"
        );
    }
    // Where the normaliser adds the prefix, every part of a text has it.
    if let Some(llama) = real("llama-2") {
        let encoded = llama.encode_after_bos("###").unwrap();
        assert_eq!(encoded, llama.encode("###").unwrap());
        assert_eq!(encoded.ids, [835]);
    }
    // A tokenizer without BOS and EOS.
    let none = load(
        &json!({"added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "merges": [], "vocab": {"a": 0}}}),
    );
    let none = none.unwrap();
    assert_eq!(none.encode_after_bos("aa").unwrap().ids, [0, 0]);
}

/// With what follows, the spelling of BOS can be that of a longer token.
#[test]
fn bos_that_runs_into_the_text_is_no_part_of_it() {
    let mut spec: Value = serde_json::from_str(prefixed("first", false).spec()).unwrap();
    let mut longer = spec["added_tokens"][0].clone();
    (longer["id"], longer["content"]) = (6.into(), "<s>#".into());
    spec["added_tokens"].as_array_mut().unwrap().push(longer);
    let tokenizer = load(&spec).unwrap();
    let encoded = tokenizer.encode_after_bos("###").unwrap();
    assert_eq!((encoded.ids, encoded.byte_end), (vec![5], vec![3]));
}
