//! Tokenizers that are made to do harm: each is an error that names the file.

use std::collections::HashMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

use super::Tokenizer;

/// A tokenizer of the letters `a` and `b` and the blank, with a normaliser and a pre-tokenizer.
fn spec(normalizer: Json, pre_tokenizer: Json) -> Json {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": null,
        "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": "a", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": {"a": 0, "b": 1, " ": 2, "x": 3}, "merges": []},
    })
}

/// What loading it, reading a text and asking for a first token ends with.
fn outcome(spec: &Json) -> Result<Vec<u32>, String> {
    let path = Path::new("m/tokenizer.json");
    let run = || {
        let tokenizer = Tokenizer::from_spec(path, spec, None, &HashMap::new())?;
        let text = format!("{} b{}", "a".repeat(300), "a".repeat(30));
        tokenizer.first_token(text.as_bytes());
        Ok(tokenizer.encode(&text)?.ids)
    };
    run().map_err(|error: crate::error::Error| error.to_string())
}

fn replace(kind: &str, pattern: &str, content: &str) -> Json {
    json!({"type": "Replace", "pattern": {kind: pattern}, "content": content})
}

fn charsmap(trie: u32, rest: &[u8]) -> Json {
    let table = [&trie.to_le_bytes(), rest].concat();
    json!({"type": "Precompiled", "precompiled_charsmap": STANDARD.encode(table)})
}

#[test]
fn normalisers_that_do_harm_are_refused() {
    let ordinary = replace("String", "b", "x");
    assert_eq!(outcome(&spec(ordinary, Json::Null)).unwrap()[301], 3);
    let long = "a".repeat(50_000);
    let many = |part: Json| json!({"type": "Sequence", "normalizers": vec![part; 40]});
    for (normalizer, word) in [
        (replace("String", "", "x"), "empty pattern"),
        (replace("Regex", "(a+)+$", "x"), "gave up"),
        (replace("String", "a", &long), "50000 times as long"),
        (many(replace("String", "a", "aa")), "times as long"),
        (
            json!({"type": "Prepend", "prepend": long}),
            "50000 times as long",
        ),
        (
            charsmap(0xffff_fff0, b"abcdabcd"),
            "claims a trie of 4294967280 bytes and has 8",
        ),
        (charsmap(0, b""), "claims a trie of 0 bytes"),
        (charsmap(6, b"abcdabcd"), "claims a trie of 6 bytes"),
        (
            charsmap(8, b"\xff\xff\xff\xff\xff\xff\xff\xffabc"),
            "gave up",
        ),
        (
            json!({"type": "Precompiled", "precompiled_charsmap": ""}),
            "an empty table",
        ),
        (
            json!({"type": "Precompiled", "precompiled_charsmap": "?"}),
            "Invalid",
        ),
    ] {
        let shown = normalizer.to_string();
        let shown = shown.get(..90).unwrap_or(&shown);
        let error = outcome(&spec(normalizer.clone(), Json::Null)).expect_err(shown);
        assert!(error.starts_with("m/tokenizer.json: "), "{shown}: {error}");
        assert!(error.contains(word), "{shown}: {error}");
    }
}

/// Patterns that match nothing: whatever comes of them, the program goes on.
#[test]
fn patterns_that_match_nothing_do_no_harm() {
    for pattern in ["", "(?=b)", "a*", "^", "$"] {
        let replaced = outcome(&spec(replace("Regex", pattern, "x"), Json::Null));
        if let Err(error) = replaced {
            assert!(
                error.starts_with("m/tokenizer.json: "),
                "{pattern}: {error}"
            );
        }
    }
}

#[test]
fn words_that_do_harm_are_refused() {
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    assert_eq!(outcome(&spec(Json::Null, split("a+"))).unwrap().len(), 332);
    for pattern in ["(a+)+$", "(a|aa)+x"] {
        let error = outcome(&spec(Json::Null, split(pattern))).expect_err(pattern);
        assert!(
            error.starts_with("m/tokenizer.json: "),
            "{pattern}: {error}"
        );
        assert!(error.contains("gave up"), "{pattern}: {error}");
    }
}
