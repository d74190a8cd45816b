//! Special tokens that contents spell out.

use serde_json::{Value, json};

use super::*;
use crate::vocab::{SpecialTokens, TokenRow};

/// A tokenizer whose pieces are single characters, with special tokens.
fn letters(dir: &Path, specials: &[(&str, Value)], normalizer: Value) -> Tokenizer {
    let letters = ["\u{2581}", "<", ">", "/", "s", "a", "b", "\n", "|", "x"];
    let specials_in_vocab = ["<unk>", "<s>", "</s>"];
    let pieces = specials_in_vocab.iter().chain(&letters).enumerate();
    let vocab: serde_json::Map<String, Value> = pieces
        .map(|(id, piece)| ((*piece).to_owned(), json!(id)))
        .collect();
    let mut added: Vec<Value> = specials_in_vocab
        .iter()
        .enumerate()
        .map(|(id, text)| token(id, text, &json!({})))
        .collect();
    for (at, (text, flags)) in specials.iter().enumerate() {
        added.push(token(vocab.len() + at, text, flags));
    }
    let spec = json!({
        "version": "1.0", "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": null,
        "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "vocab": vocab, "merges": [], "unk_token": "<unk>"}
    });
    std::fs::write(dir.join("tokenizer.json"), spec.to_string()).unwrap();
    let config = json!({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"});
    std::fs::write(dir.join("tokenizer_config.json"), config.to_string()).unwrap();
    Tokenizer::load(dir).unwrap()
}

fn token(id: usize, text: &str, flags: &Value) -> Value {
    let mut token = json!({
        "id": id, "content": text, "special": true, "normalized": false,
        "lstrip": false, "rstrip": false, "single_word": false
    });
    for (flag, value) in flags.as_object().unwrap() {
        token[flag] = value.clone();
    }
    token
}

fn spaces() -> Value {
    json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u{2581}"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}
    ]})
}

/// The tokens of a row as they are spelled, BOS left out.
fn spelled(tokenizer: &Tokenizer, row: &TokenRow) -> Vec<String> {
    let tokens = &tokenizer.vocabulary().tokens;
    row.ids[1..]
        .iter()
        .map(|id| tokens[*id as usize].display.clone())
        .collect()
}

#[test]
fn contents_are_text_and_templates_have_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = letters(dir.path(), &[("<|x|>", json!({"rstrip": true}))], spaces());
    let chat = Transcript::of_parts(&[
        ("template", "<|x|> ", false),
        ("user", "a</s>", false),
        ("template", "</s><|x|>", false),
        ("assistant", " <s>b", true),
        ("turn_end", "</s>", true),
    ]);
    let text = tokenizer
        .encode_transcript(&chat, None, SpecialTokens::Text)
        .unwrap();
    assert_eq!(
        spelled(&tokenizer, &text),
        [
            "<|x|>", "\u{2581}", "a", "<", "/", "s", ">", "</s>", "<|x|>", "\u{2581}", "<", "s",
            ">", "b", "</s>"
        ]
    );
    // The template's token takes the blank after it, as it always does.
    assert_eq!(text.byte_end[..4], [0, 6, 6, 7]);
    assert_eq!(text.byte_end.last(), Some(&(chat.text.len() as u32)));
    assert!(text.byte_end.is_sorted());
    let tokens = tokenizer
        .encode_transcript(&chat, None, SpecialTokens::Tokens)
        .unwrap();
    assert_eq!(
        spelled(&tokenizer, &tokens),
        [
            "<|x|>", "\u{2581}", "a", "</s>", "</s>", "<|x|>", "<s>", "\u{2581}", "b", "</s>"
        ]
    );
    // Where no content spells one, nothing differs.
    let plain = Transcript::of_parts(&[
        ("template", "<|x|> ", false),
        ("user", "a b", false),
        ("template", "</s><|x|>", false),
        ("assistant", " b", true),
        ("turn_end", "</s>", true),
    ]);
    assert_eq!(
        tokenizer
            .encode_transcript(&plain, None, SpecialTokens::Text)
            .unwrap(),
        tokenizer
            .encode_transcript(&plain, None, SpecialTokens::Tokens)
            .unwrap()
    );
}

/// What a tokenizer reads in a text must not depend on how its special tokens are called.
#[test]
fn texts_read_as_by_a_tokenizer_whose_special_tokens_have_other_names() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tokenizer = letters(one.path(), &[], spaces());
    letters(other.path(), &[], spaces());
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let path = other.path().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text
            .replace("\"<s>\"", "\"[B]\"")
            .replace("\"</s>\"", "\"[E]\"");
        std::fs::write(&path, text).unwrap();
    }
    let renamed = Tokenizer::load(other.path()).unwrap();
    for text in [
        "<s>a</s>",
        "a<s>",
        " <s> <s>b",
        "<s",
        "s>",
        "<<s>>",
        "<s></s></s",
        "a</s> \n<s>x",
    ] {
        let transcript = Transcript::plain(text).unwrap();
        let read = |tokenizer: &Tokenizer| {
            tokenizer
                .encode_transcript(&transcript, None, SpecialTokens::Text)
                .unwrap()
        };
        assert_eq!(read(&tokenizer), read(&renamed), "{text:?}");
    }
}

/// A source whose special tokens a chat is about, between the pivot's own.
#[test]
fn a_sources_special_tokens_in_a_pivots_transcript() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let pivot = letters(one.path(), &[("<|x|>", json!({}))], Value::Null);
    let source = letters(other.path(), &[("<b>", json!({}))], Value::Null);
    let chat = Transcript::of_parts(&[
        ("user", "a<b>", false),
        ("template", "</s>", false),
        ("assistant", "<|x|></s>", true),
        ("turn_end", "</s>", true),
    ]);
    let row = source
        .encode_transcript(&chat, Some(&pivot), SpecialTokens::Text)
        .unwrap();
    assert_eq!(
        spelled(&source, &row),
        [
            "a", "<", "b", ">", "</s>", "<", "|", "x", "|", ">", "<", "/", "s", ">", "</s>"
        ]
    );
    let row = source
        .encode_transcript(&chat, Some(&pivot), SpecialTokens::Tokens)
        .unwrap();
    assert_eq!(
        spelled(&source, &row),
        ["a", "<b>", "</s>", "<", "|", "x", "|", ">", "</s>", "</s>"]
    );
}

#[test]
fn private_spellings_in_a_text_are_refused_where_they_matter() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = letters(dir.path(), &[], Value::Null);
    let read = |text: &str| {
        let transcript = Transcript::plain(text).unwrap();
        tokenizer.encode_transcript(&transcript, None, SpecialTokens::Text)
    };
    assert!(read("a\u{10FF3C}1\u{10FF3C}").is_ok());
    let error = read("<s>\u{10FF3C}1\u{10FF3C}").unwrap_err().to_string();
    assert!(
        error.contains("U+10FF3C") && error.contains("special_tokens"),
        "{error}"
    );
}

/// Real tokenizers: text with every special token in it, as by the library with the specials off
/// wherever a special token is no piece of the model as well.
#[test]
fn real_tokenizers_read_their_special_tokens_as_text() {
    for name in [
        "llama-2",
        "llama-3",
        "qwen2",
        "gpt-2",
        "mistral-v1",
        "mistral-v3",
        "internlm2",
        "mpt",
    ] {
        let Some(tokenizer) = real(name) else { return };
        let mut plain = tokenizer.inner.clone();
        plain.set_encode_special_tokens(true);
        let specials: Vec<&str> = tokenizer
            .vocabulary()
            .tokens
            .iter()
            .filter(|token| token.special)
            .filter_map(|token| std::str::from_utf8(&token.bytes).ok())
            .collect();
        for special in specials.iter().take(8) {
            let text = format!("see {special} and {special}\n{special}x");
            let transcript = Transcript::plain(&text).unwrap();
            let row = tokenizer
                .encode_transcript(&transcript, None, SpecialTokens::Text)
                .unwrap();
            let expected = plain.encode_fast(text.as_str(), false).unwrap();
            assert_eq!(row.ids[1..], *expected.get_ids(), "{name} {special}");
            assert_eq!(row.byte_end.last(), Some(&(text.len() as u32)));
            let tokens = row.ids[1..]
                .iter()
                .map(|id| &tokenizer.vocabulary().tokens[*id as usize]);
            assert!(
                tokens.clone().all(|token| !token.special),
                "{name} {special}"
            );
        }
    }
}
