//! Tokenizers out of GGUF files, beside those that the files were made from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::quantized::gguf_file::{Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use serde_json::{Value as Json, json};

use super::{Tokenizer, real, shared};
use crate::vocab::Kind;

/// A GGUF file that holds little but a tokenizer.
struct Made {
    dir: tempfile::TempDir,
    metadata: BTreeMap<String, Value>,
    tokens: usize,
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn list<T>(items: impl IntoIterator<Item = T>, of: fn(T) -> Value) -> Value {
    Value::Array(items.into_iter().map(of).collect())
}

impl Made {
    /// What llama.cpp's converter makes of a `tokenizer.json`. `pre` is its name of the words of a
    /// byte-level one.
    fn of(spec: &Json, pre: Option<&str>) -> Self {
        let model = &spec["model"];
        let mut tokens: BTreeMap<u64, (String, i32)> = model["vocab"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(text, id)| (id.as_u64().unwrap(), (text.clone(), 1)))
            .collect();
        for (text, kind) in tokens.values_mut() {
            let is_byte = text.len() == 6 && text.starts_with("<0x") && text.ends_with('>');
            if pre.is_none() && is_byte {
                *kind = 6;
            }
        }
        for added in spec["added_tokens"].as_array().unwrap() {
            let kind = if added["special"] == true { 3 } else { 4 };
            let text = added["content"].as_str().unwrap().to_owned();
            tokens.insert(added["id"].as_u64().unwrap(), (text, kind));
        }
        if let Some(unknown) = model["unk_token"].as_str() {
            for (text, kind) in tokens.values_mut().filter(|(text, _)| text == unknown) {
                let _ = text;
                *kind = 2;
            }
        }
        let count = *tokens.keys().last().unwrap() + 1;
        let all: Vec<(String, i32)> = (0..count)
            .map(|id| {
                tokens
                    .remove(&id)
                    .unwrap_or_else(|| (format!("[PAD{id}]"), 5))
            })
            .collect();
        let merges: Vec<(String, String)> = { model["merges"].as_array().unwrap().iter() }
            .map(|merge| {
                let (left, right) = crate::vocab::merges::pair(merge).unwrap();
                (left.to_owned(), right.to_owned())
            })
            .collect();
        let mut made = Self {
            dir: tempfile::tempdir().unwrap(),
            metadata: BTreeMap::new(),
            tokens: all.len(),
        };
        let texts: Vec<String> = all.iter().map(|(text, _)| text.clone()).collect();
        made.set("tokenizer.ggml.tokens", list(texts.clone(), Value::String));
        made.set(
            "tokenizer.ggml.token_type",
            list(all.iter().map(|(_, kind)| *kind), Value::I32),
        );
        match pre {
            Some(pre) => {
                made.set("tokenizer.ggml.model", text("gpt2"));
                made.set("tokenizer.ggml.pre", text(pre));
                let merges = merges.iter().map(|(left, right)| format!("{left} {right}"));
                made.set("tokenizer.ggml.merges", list(merges, Value::String));
            }
            None => {
                // The first merge that makes a piece says how early SentencePiece makes it.
                let mut scores = BTreeMap::new();
                for (at, (left, right)) in merges.iter().enumerate() {
                    scores
                        .entry(format!("{left}{right}"))
                        .or_insert(-(at as f32));
                }
                let scores = texts
                    .iter()
                    .map(|text| scores.get(text).copied().unwrap_or(-1e9));
                made.set("tokenizer.ggml.model", text("llama"));
                made.set("tokenizer.ggml.scores", list(scores, Value::F32));
            }
        }
        made
    }

    /// Four tokens `a`, `b`, ` ` and `ab` of a byte-level tokenizer.
    fn small() -> Self {
        let vocab = json!({"a": 0, "b": 1, "Ġ": 2, "ab": 3});
        Self::of(
            &json!({"model": {"vocab": vocab, "merges": ["a b"]}, "added_tokens": []}),
            Some("gpt-2"),
        )
    }

    fn set(&mut self, key: &str, value: Value) {
        self.metadata.insert(key.to_owned(), value);
    }

    fn write(&self) -> PathBuf {
        let mut metadata = self.metadata.clone();
        metadata.insert("general.architecture".to_owned(), text("llama"));
        for (key, size) in [
            ("embedding_length", 8),
            ("feed_forward_length", 8),
            ("block_count", 1),
            ("attention.head_count", 1),
            ("context_length", 77),
        ] {
            metadata.insert(format!("llama.{key}"), Value::U32(size));
        }
        let eps = "llama.attention.layer_norm_rms_epsilon";
        metadata.insert(eps.to_owned(), Value::F32(1e-5));
        let embedding = Tensor::zeros((self.tokens, 1), DType::F32, &Device::Cpu).unwrap();
        let embedding = QTensor::quantize(&embedding, GgmlDType::F32).unwrap();
        let metadata: Vec<(&str, &Value)> = metadata
            .iter()
            .map(|(key, value)| (key.as_str(), value))
            .collect();
        let path = self.dir.path().join("m.gguf");
        let mut file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
        write(&mut file, &metadata, &[("token_embd.weight", &embedding)]).unwrap();
        path
    }

    fn load(&self) -> crate::error::Result<Tokenizer> {
        Tokenizer::load(&self.write())
    }

    fn refuses(&self, words: &[&str]) {
        let error = self.load().err().unwrap();
        let remedy = error.to_string();
        for word in words.iter().chain(&["m.gguf"]) {
            assert!(remedy.contains(word), "no `{word}` in {remedy}");
        }
    }
}

fn spec(folder: &str) -> Option<Json> {
    let path = shared("assets/tokenizers")?
        .join(folder)
        .join("tokenizer.json");
    Some(serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
}

/// Texts of all kinds: llama.cpp's, and what goes wrong with blanks, marks and scripts.
fn texts() -> Vec<String> {
    let root = shared("assets/tokenizers/_vectors").unwrap();
    let mut texts: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "inp") {
            let read = std::fs::read_to_string(path).unwrap();
            texts.extend(read.split("\n__ggml_vocab_test__\n").map(str::to_owned));
        }
    }
    let more = [
        "",
        " ",
        "  a  b\t\tc\r\n\r\n\n d",
        "1234567890 12 345,678.90 \u{660}\u{661}",
        "e\u{301}\u{327} Å \u{212b}",
        "I'LL we've DON'T 'Tis ''s",
        "ﷺ\u{200d}\u{fe0f} 👩‍👩‍👧‍👦 \u{0}\u{1}\u{7f}\u{a0}\u{3000}x",
        "fn main() {\n\t\tx += 1;\n}\n\n\n",
        "漢字かなカナ한글 ไทย हिन्दी العربية",
        "▁▁ <0x0A> <unk> a▁b",
        "aA Bb CCc DDD_eE camelCaseWord",
    ];
    texts.extend(more.map(str::to_owned));
    texts
}

#[test]
fn a_file_gives_the_ids_and_tokens_of_the_tokenizer_that_it_was_made_from() {
    for (folder, pre) in [
        ("gpt-2", Some("gpt-2")),
        ("mpt", Some("mpt")),
        ("llama-3", Some("llama-bpe")),
        ("qwen2", Some("qwen2")),
        ("llama-2", None),
        ("mistral-v1", None),
    ] {
        let Some(spec) = spec(folder) else { return };
        let original = real(folder).unwrap();
        let made = Made::of(&spec, pre).load().unwrap();
        for text in texts() {
            let expected = original.encode(&text).unwrap();
            let found = made.encode(&text).unwrap();
            assert_eq!(found.ids, expected.ids, "{folder} {text:?}");
            assert_eq!(found.byte_end, expected.byte_end, "{folder} {text:?}");
        }
        let (found, expected) = (&made.vocabulary().tokens, &original.vocabulary().tokens);
        for (id, (found, expected)) in found.iter().zip(expected).enumerate() {
            if expected.kind != Kind::Hole {
                assert_eq!(found.bytes, expected.bytes, "{folder} {id}");
            }
        }
    }
}

/// Of the pieces that two neighbours make, the one with the best score is made first.
#[test]
fn scores_are_the_order_of_merges() {
    let ids = |ab: f32, bc: f32, sample: &str| {
        let vocab = json!({"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, "c": 5, "ab": 6,
            "bc": 7, "▁": 8});
        let added = ["<s>", "</s>"]
            .iter()
            .zip(1..)
            .map(|(text, id)| json!({"id": id, "content": text, "special": true}));
        let model = json!({"vocab": vocab, "merges": [], "unk_token": "<unk>"});
        let spec = json!({"model": model, "added_tokens": added.collect::<Json>()});
        let mut made = Made::of(&spec, None);
        let scores = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, ab, bc, 0.0];
        made.set("tokenizer.ggml.scores", list(scores, Value::F32));
        made.set("tokenizer.ggml.add_space_prefix", Value::Bool(false));
        made.load().unwrap().encode(sample).unwrap().ids
    };
    assert_eq!(ids(-1.0, -2.0, "abc"), [6, 5]);
    assert_eq!(ids(-2.0, -1.0, "abc"), [3, 7]);
    assert_eq!(ids(-2.0, -1.0, "a bcab"), [3, 8, 7, 6]);
}

/// Runs of blanks that a user defined are merged before all else, also out of marks in the text
/// (Gemma's own `tokenizer.json`); with a blank before each text they are found as they are.
#[test]
fn runs_of_blanks_are_merged() {
    let tokens = |prefix: bool, sample: &str| {
        let vocab = json!({"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "▁": 4, "▁a": 5});
        let added = json!([{"id": 6, "content": "  ", "special": false},
            {"id": 7, "content": "   ", "special": false}]);
        let model = json!({"vocab": vocab, "merges": [], "unk_token": "<unk>"});
        let mut made = Made::of(&json!({"model": model, "added_tokens": added}), None);
        let scores = [0.0, 0.0, 0.0, -1.0, -2.0, -1.0, -1000.0, -1000.0];
        made.set("tokenizer.ggml.scores", list(scores, Value::F32));
        made.set("tokenizer.ggml.add_space_prefix", Value::Bool(prefix));
        made.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
        made.load().unwrap().encode(sample).unwrap().ids
    };
    assert_eq!(tokens(false, "a  a"), [3, 6, 3]);
    assert_eq!(tokens(false, "a ▁a"), [3, 6, 3]);
    assert_eq!(tokens(false, "a▁▁ a"), [3, 7, 3]);
    assert_eq!(tokens(false, "a a"), [3, 5]);
    assert_eq!(tokens(true, "a  a"), [5, 6, 5]);
}

#[test]
fn special_tokens_and_the_template_come_from_the_metadata() {
    let vocab = json!({"a": 0, "b": 1, "Ġ": 2, "ab": 3, "<s>": 4, "</s>": 5, "!!": 6, "<end>": 7});
    let added = json!([
        {"id": 4, "content": "<s>", "special": true},
        {"id": 5, "content": "</s>", "special": true},
        {"id": 6, "content": "!!", "special": false},
        {"id": 7, "content": "<end>", "special": true},
    ]);
    let spec = json!({"model": {"vocab": vocab, "merges": ["a b"]}, "added_tokens": added});
    let mut made = Made::of(&spec, Some("gpt-2"));
    made.set("tokenizer.ggml.bos_token_id", Value::U32(4));
    made.set("tokenizer.ggml.eos_token_id", Value::U32(5));
    made.set("tokenizer.ggml.eot_token_id", Value::U32(7));
    made.set(
        "tokenizer.chat_template",
        text("{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"),
    );
    let path = made.write();
    let tokenizer = Tokenizer::load(&path).unwrap();
    assert_eq!(tokenizer.encode("ab!!b").unwrap().ids, [3, 6, 1]);
    let special: Vec<usize> = (0..8)
        .filter(|id| tokenizer.vocabulary().tokens[*id].special)
        .collect();
    assert_eq!(special, [4, 5, 7]);
    assert!(tokenizer.template().is_some());
    assert_eq!(crate::model::generation_stops(&path).unwrap(), [5, 7]);
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let mut made = Made::small();
    assert_eq!(made.load().unwrap().encode("ab b").unwrap().ids, [3, 2, 1]);
    made.set("tokenizer.ggml.pre", text("a-new-one"));
    made.refuses(&["tokenizer.ggml.pre", "a-new-one", "qwen2"]);
    made.metadata.remove("tokenizer.ggml.pre");
    made.refuses(&["tokenizer.ggml.pre", "nothing"]);
    made.set("tokenizer.ggml.model", text("t5"));
    made.refuses(&["tokenizer.ggml.model", "t5"]);
    made.metadata.remove("tokenizer.ggml.model");
    made.refuses(&["tokenizer.ggml.model", "nothing"]);

    let mut made = Made::small();
    made.set("tokenizer.ggml.merges", list(["a a"], text));
    made.refuses(&["merges", "entry 0"]);
    made.metadata.remove("tokenizer.ggml.merges");
    made.refuses(&["tokenizer.ggml.merges"]);

    let mut made = Made::small();
    made.set("tokenizer.ggml.token_type", list([1, 1], Value::I32));
    made.refuses(&["tokenizer.ggml.token_type", "a list of 4"]);
    made.set("tokenizer.ggml.tokens", Value::U32(3));
    made.refuses(&["tokenizer.ggml.tokens", "a list of texts, found 3"]);
    made.metadata.remove("tokenizer.ggml.tokens");
    made.refuses(&["has no tokenizer", "tokenizer.ggml.tokens"]);

    let mut made = Made::small();
    made.set("tokenizer.ggml.eos_token_id", Value::U32(9));
    made.refuses(&["eos_token_id", "9"]);

    let spec = json!({"model": {"vocab": {"a": 0}, "merges": []}, "added_tokens": []});
    let mut made = Made::of(&spec, None);
    made.set("tokenizer.ggml.scores", list([f32::NAN], Value::F32));
    made.refuses(&["tokenizer.ggml.scores", "token 0"]);
    made.metadata.remove("tokenizer.ggml.scores");
    made.refuses(&["tokenizer.ggml.scores"]);
}
