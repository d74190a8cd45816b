use std::path::Path;

use serde_json::{Value, json};

use super::*;

/// A tokenizer with six pieces, two of them added tokens.
fn spec() -> Value {
    json!({
        "added_tokens": [added(1, "<s>"), added(2, "</s>")],
        "normalizer": null,
        "model": {"type": "BPE", "merges": [],
            "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, "<eos>": 5}},
    })
}

fn added(id: u32, content: &str) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true})
}

/// What is made of [`spec`] with other files beside it.
fn completed(files: &[(&str, Value)]) -> Result<(TokenFacts, Value)> {
    completed_of(spec(), files)
}

fn completed_of(mut spec: Value, files: &[(&str, Value)]) -> Result<(TokenFacts, Value)> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), files);
    let (facts, changed) = TokenFacts::complete(dir.path(), &mut spec)?;
    assert_eq!(
        changed,
        spec != self::spec() && spec["model"] == self::spec()["model"]
    );
    Ok((facts, spec))
}

fn write(dir: &Path, files: &[(&str, Value)]) {
    for (name, value) in files {
        std::fs::write(dir.join(name), value.to_string()).unwrap();
    }
}

fn config(value: Value) -> [(&'static str, Value); 1] {
    [("tokenizer_config.json", value)]
}

fn ids(spec: &Value) -> Vec<(u64, &str)> {
    let tokens = spec["added_tokens"].as_array().unwrap().iter();
    tokens
        .map(|token| {
            (
                token["id"].as_u64().unwrap(),
                token["content"].as_str().unwrap(),
            )
        })
        .collect()
}

/// The tokens that are added to the two of the file.
fn new(files: &[(&str, Value)]) -> Vec<(u64, String)> {
    let (_, spec) = completed(files).unwrap_or_else(|error| panic!("{error}"));
    let ids = ids(&spec);
    ids[2..]
        .iter()
        .map(|(id, text)| (*id, (*text).to_owned()))
        .collect()
}

fn named(files: &[(&str, Value)], key: &str) -> Option<String> {
    let (facts, _) = completed(files).unwrap_or_else(|error| panic!("{error}"));
    facts.named(key).map(str::to_owned)
}

#[test]
fn tokens_are_added_from_every_file_in_the_order_of_their_ids() {
    let pair = [(6, "<|im_end|>".to_owned()), (7, "<|im_start|>".to_owned())];
    let decoder = json!({"7": {"content": "<|im_start|>"}, "1": added(1, "<s>"),
        "6": {"content": "<|im_end|>", "special": true}});
    let flat = json!({"<|im_start|>": 7, "<|im_end|>": 6});
    let list = json!(["<|im_end|>", {"content": "<|im_start|>"}]);
    for files in [
        vec![(
            "tokenizer_config.json",
            json!({"added_tokens_decoder": decoder}),
        )],
        vec![("added_tokens.json", flat.clone())],
        vec![
            ("added_tokens.json", flat.clone()),
            ("tokenizer_config.json", json!({})),
        ],
        vec![(
            "tokenizer_config.json",
            json!({"additional_special_tokens": list}),
        )],
        vec![(
            "tokenizer_config.json",
            json!({"extra_special_tokens": list}),
        )],
        vec![(
            "special_tokens_map.json",
            json!({"additional_special_tokens": list}),
        )],
        vec![
            (
                "tokenizer_config.json",
                json!({"extra_special_tokens": {"end": "<|im_end|>", "start": "<|im_start|>"}}),
            ),
            ("config.json", json!({"vocab_size": 8})),
        ],
        // Of lists in two files, the configuration's comes first.
        vec![
            (
                "special_tokens_map.json",
                json!({"additional_special_tokens": ["<|im_start|>"]}),
            ),
            (
                "tokenizer_config.json",
                json!({"additional_special_tokens": ["<|im_end|>"]}),
            ),
        ],
    ] {
        assert_eq!(new(&files), pair, "{files:?}");
    }
    // With a decoder, the older files are not read.
    let files = [
        (
            "tokenizer_config.json",
            json!({"added_tokens_decoder": {"2": added(2, "</s>")}}),
        ),
        ("added_tokens.json", flat),
        (
            "special_tokens_map.json",
            json!({"eos_token": "<|im_end|>"}),
        ),
    ];
    assert_eq!(new(&files), []);
    assert_eq!(new(&[]), []);
}

#[test]
fn how_a_token_is_matched() {
    let settings = |files: &[(&str, Value)], content: &str| {
        let (_, spec) = completed(files).unwrap();
        let tokens = spec["added_tokens"].as_array().unwrap();
        let token = tokens
            .iter()
            .find(|token| token["content"] == content)
            .unwrap();
        ["special", "normalized", "rstrip"].map(|key| token[key].as_bool().unwrap())
    };
    // The decoder's settings win over the file's.
    let decoder = |token: Value| config(json!({"added_tokens_decoder": {"2": token}}));
    let token = json!({"content": "</s>", "rstrip": true, "normalized": true, "special": true});
    assert_eq!(settings(&decoder(token), "</s>"), [true, true, true]);
    // A name makes a token special.
    let token = json!({"content": "</s>", "normalized": false, "special": false});
    assert_eq!(
        settings(&decoder(token.clone()), "</s>"),
        [false, false, false]
    );
    let files = config(json!({"added_tokens_decoder": {"2": token}, "eos_token": "</s>"}));
    assert_eq!(settings(&files, "</s>"), [true, false, false]);
    // In `added_tokens.json` as well, and there the tokenizer's settings win.
    let flat = ("added_tokens.json", json!({"<x>": 6, "<y>": 7, "</s>": 2}));
    let files = [
        flat.clone(),
        ("special_tokens_map.json", json!({"eos_token": "<y>"})),
    ];
    assert_eq!(settings(&files, "<x>"), [false, true, false]);
    assert_eq!(settings(&files, "<y>"), [true, false, false]);
    assert_eq!(settings(&files, "</s>"), [true, false, false]);
    // A normaliser that adds a prefix would hide it from all of the text but its start.
    for (normalizer, normalized) in [
        (json!({"type": "Lowercase"}), true),
        (
            json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "_"}]}),
            false,
        ),
    ] {
        let mut spec = spec();
        spec["normalizer"] = normalizer;
        let (_, spec) = completed_of(spec, std::slice::from_ref(&flat)).unwrap();
        assert_eq!(spec["added_tokens"][2]["normalized"], normalized);
    }
}

#[test]
fn names_are_those_of_the_map_unless_there_is_a_decoder() {
    let map = |value: Value| ("special_tokens_map.json", value);
    let own = |value: Value| ("tokenizer_config.json", value);
    let eos = |files: &[(&str, Value)]| named(files, "eos_token");
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(eos(&[map(json!({"eos_token": "</s>"}))]), some("</s>"));
    assert_eq!(
        eos(&[map(json!({"eos_token": {"content": "</s>"}}))]),
        some("</s>")
    );
    let both = [
        map(json!({"eos_token": "</s>"})),
        own(json!({"eos_token": "<s>"})),
    ];
    assert_eq!(eos(&both), some("</s>"));
    let with_decoder = [
        map(json!({"eos_token": "</s>"})),
        own(json!({"eos_token": "<s>", "added_tokens_decoder": {"1": added(1, "<s>")}})),
    ];
    assert_eq!(eos(&with_decoder), some("<s>"));
    let null = [
        map(json!({"eos_token": null})),
        own(json!({"eos_token": "<s>", "tokenizer_class": "LlamaTokenizer"})),
    ];
    assert_eq!(eos(&null), None);
    // A null decoder is none.
    let null = own(json!({"added_tokens_decoder": null, "eos_token": "<s>"}));
    assert_eq!(
        eos(&[map(json!({"eos_token": "</s>"})), null]),
        some("</s>")
    );
    // A piece that is named is an added token, as it is for transformers.
    assert_eq!(
        new(&config(json!({"eos_token": "<eos>"}))),
        [(5, "<eos>".to_owned())]
    );
}

#[test]
fn classes_have_defaults_where_these_are_tokens() {
    let of = |class: &str, key: &str| named(&config(json!({"tokenizer_class": class})), key);
    assert_eq!(
        of("LlamaTokenizerFast", "bos_token").as_deref(),
        Some("<s>")
    );
    assert_eq!(of("LlamaTokenizer", "unk_token").as_deref(), Some("<unk>"));
    assert_eq!(
        of("GemmaTokenizerFast", "eos_token").as_deref(),
        Some("<eos>")
    );
    assert_eq!(of("GemmaTokenizerFast", "bos_token"), None);
    assert_eq!(of("GPT2TokenizerFast", "eos_token"), None);
    assert_eq!(of("PreTrainedTokenizerFast", "eos_token"), None);
    let model = [("config.json", json!({"model_type": "llama"}))];
    assert_eq!(named(&model, "eos_token").as_deref(), Some("</s>"));
    // Without any configuration, the commonest spellings.
    assert_eq!(named(&[], "eos_token").as_deref(), Some("</s>"));
    assert_eq!(named(&config(json!({})), "eos_token"), None);
}

#[test]
fn what_no_text_needs_is_added_where_the_model_has_a_row_for_it() {
    let pad = json!({"pad_token": "<pad>"});
    let rows = |rows: u32| ("config.json", json!({"text_config": {"vocab_size": rows}}));
    let own = |value: &Value| ("tokenizer_config.json", value.clone());
    assert_eq!(new(&[own(&pad)]), []);
    assert_eq!(new(&[own(&pad), rows(6)]), []);
    assert_eq!(new(&[own(&pad), rows(7)]), [(6, "<pad>".to_owned())]);
    assert_eq!(named(&[own(&pad)], "pad_token").as_deref(), Some("<pad>"));
    // It takes its id where others follow.
    let more = json!({"pad_token": "<pad>", "additional_special_tokens": ["<x>"]});
    let both = [(6, "<pad>".to_owned()), (7, "<x>".to_owned())];
    assert_eq!(new(&[own(&more)]), both);
    let flat = ("added_tokens.json", json!({"<pad>": 6}));
    assert_eq!(new(&[flat.clone(), rows(6)]), []);
    assert_eq!(new(&[flat, rows(8)]), both[..1]);
}

#[test]
fn files_that_contradict_each_other_are_errors() {
    let decoder = |id: &str, text: &str| {
        config(json!({"added_tokens_decoder": {id: {"content": text}}})).to_vec()
    };
    let flat = |text: &str, id: Value| vec![("added_tokens.json", json!({text: id}))];
    let names = |key: &str, value: Value| config(json!({key: value})).to_vec();
    for (files, expected) in [
        (
            decoder("1", "<x>"),
            "`<x>` has the id 1 there, but it is `<s>` in ",
        ),
        (decoder("3", "<x>"), "it is `a` in "),
        (decoder("1", "</s>"), "it is `<s>` in "),
        (decoder("9", "</s>"), "has 2 for it"),
        (decoder("9", "a"), "has 3 for it"),
        (decoder("9", "<x>"), "6 is the next id that is free"),
        (decoder("4294967295", "<x>"), "6 is the next id"),
        (
            flat("<x>", json!(1)),
            "added_tokens.json: `<x>`: `<x>` has the id 1 there",
        ),
        (flat("<s>", json!(7)), "has 1 for it"),
        (
            vec![("added_tokens.json", json!({"<x>": 6, "<y>": 6}))],
            "it is `<x>` in",
        ),
        (
            names("eos_token", json!("<x>")),
            "`eos_token` is `<x>`, which is no token of ",
        ),
        (
            names("bos_token", json!({"content": "<x>"})),
            "`bos_token` is `<x>`",
        ),
        (
            vec![("special_tokens_map.json", json!({"eos_token": "<x>"}))],
            "special_tokens_map.json: `eos_token` is `<x>`",
        ),
    ] {
        let error = completed(&files).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("tokenizer.json"), "{error}");
    }
    // The same that says it is a token.
    let mut files = names("eos_token", json!("<x>"));
    files.extend(flat("<x>", json!(6)));
    assert_eq!(new(&files), [(6, "<x>".to_owned())]);
}

#[test]
fn hostile_files_are_named() {
    let decoder = |decoder: Value| config(json!({ "added_tokens_decoder": decoder })).to_vec();
    let flat = |value: Value| vec![("added_tokens.json", value)];
    let own = |value: Value| config(value).to_vec();
    for (files, expected) in [
        (
            decoder(json!({"-1": {"content": "<x>"}})),
            "the id of a token was expected, and -1",
        ),
        (decoder(json!({"x": {"content": "<x>"}})), "and x found"),
        (
            decoder(json!({"": {"content": "<x>"}})),
            "the id of a token",
        ),
        (
            decoder(json!({"99999999999999999999": {"content": "<x>"}})),
            "the id of a token",
        ),
        (decoder(json!({"6": "<x>"})), "an object with its `content`"),
        (decoder(json!({"6": null})), "null found"),
        (
            decoder(json!({"6": {"content": ["<x>"]}})),
            "an object with 1 fields found",
        ),
        (
            decoder(json!({"6": {"content": "<x>", "special": "yes"}})),
            "true or false",
        ),
        (decoder(json!([1, 2])), "a list of 2 found"),
        (
            flat(json!({"<x>": "6"})),
            "`<x>`: the id of a token was expected, and \"6\"",
        ),
        (flat(json!({"<x>": -6})), "and -6 found"),
        (flat(json!({"<x>": 6.0})), "the id of a token"),
        (flat(json!({"<x>": {"id": 6}})), "an object with 1 fields"),
        (flat(json!({"<x>": 1u64 << 40})), "the id of a token"),
        (
            flat(json!(["<x>"])),
            "a JSON object was expected, and a list of 1 found",
        ),
        (own(json!([])), "a JSON object was expected"),
        (
            own(json!({"eos_token": 5})),
            "`eos_token`: a token's spelling",
        ),
        (
            own(json!({"pad_token": ["<pad>"]})),
            "`pad_token`: a token's spelling",
        ),
        (
            own(json!({"additional_special_tokens": "<x>"})),
            "a list of tokens",
        ),
        (
            own(json!({"additional_special_tokens": [["<x>"]]})),
            "a token's spelling",
        ),
        (
            own(json!({"extra_special_tokens": {"a": 1}})),
            "a token's spelling",
        ),
    ] {
        let error = completed(&files).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains(files[0].0), "{error}");
    }
    // These say nothing.
    for files in [
        own(
            json!({"eos_token": "", "add_bos_token": true, "x_token": [1], "additional_special_tokens": null}),
        ),
        decoder(json!({"9": {"content": ""}})),
        flat(json!({"": 3})),
    ] {
        assert_eq!(new(&files), []);
    }
    // A file that is no tokenizer is left to those who read it.
    for spec in [
        json!(null),
        json!([]),
        json!({"added_tokens": 7}),
        json!({"model": {"vocab": 3}}),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut same = spec.clone();
        assert!(!TokenFacts::complete(dir.path(), &mut same).unwrap().1);
        assert_eq!(same, spec);
    }
}

#[test]
fn a_million_tokens_are_no_trouble() {
    let text = |id: u32| format!("<{id}>");
    let flat: serde_json::Map<String, Value> = (6..1_000_006)
        .rev()
        .map(|id| (text(id), Value::from(id)))
        .collect();
    let list: Vec<Value> = (0..1_000_000)
        .map(|id| Value::from(text(id % 999_999)))
        .collect();
    let (facts, spec) = completed(&[("added_tokens.json", Value::Object(flat))]).unwrap();
    assert_eq!(facts.id("<1000005>"), Some(1_000_005));
    assert_eq!(ids(&spec).len(), 1_000_002);
    let (facts, _) = completed(&config(json!({ "extra_special_tokens": list }))).unwrap();
    assert_eq!(facts.id("<999998>"), Some(6 + 999_998));
}

#[test]
fn pieces_in_a_list_have_their_places_as_ids() {
    let spec = json!({"added_tokens": null, "model": {"type": "Unigram",
        "vocab": [["<unk>", 0.0], ["<s>", 0.0], ["a", -1.0]]}});
    let files = config(json!({"bos_token": "<s>", "additional_special_tokens": ["<x>"]}));
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &files);
    let mut spec = spec;
    assert!(TokenFacts::complete(dir.path(), &mut spec).unwrap().1);
    assert_eq!(ids(&spec), [(1, "<s>"), (3, "<x>")]);
}

#[test]
fn a_folder_without_a_tokenizer_has_names() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &config(json!({"eos_token": "<x>", "tokenizer_class": "LlamaTokenizer"})),
    );
    let facts = TokenFacts::read(dir.path()).unwrap();
    assert_eq!(facts.named("eos_token"), Some("<x>"));
    assert_eq!(facts.named("bos_token"), Some("<s>"));
}
