//! Tokenizers of every shape, trained here on a small text: what a `tokenizer.json` can be made of
//! counts, not how well it tokenises.

use std::sync::LazyLock;

use serde_json::{Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::models::unigram::UnigramTrainer;
use tokenizers::models::wordlevel::WordLevelTrainer;
use tokenizers::models::wordpiece::WordPieceTrainer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer as Inner};

use crate::vocab::Tokenizer;

/// A SentencePiece normaliser's map, made by its trainer (0.2.3) from rules of T5's kind: marks
/// are composed, `ﬃ` is three letters, `㍿` four signs, `ﷺ` eighteen; a zero-width space, a byte
/// order mark and a bell are dropped; blanks of all kinds are one.
const CHARSMAP: &str = "\
    AAQAAAAYAAAHDQAAAAAAgAEAAIDMJAIAiAkAAMw8AgAYAACAgQUAABsAAICgJQAADSEAAAo9AAAHAACAhDACAAkxAACS\
    gAMA4RgCAIWAAgChmAMA4RwCAIagAgCrOQAAvWkAAFEAAICAIAIAi2EAAAMAAICiCQAAhIwCAA8AAICAcQAAgPwCAL8N\
    AABEAACArBACAIMFAAAUAACAugUAAB4AAIANAACAv60AAKEJAAASAACA7/ACAI3MAgC+fAIAnn0AAEAAAIAwAAAAvcwD\
    ALzgAgC7iAIANAAAADcAAACmsQAAt5ACADgAAAA7AAAAOgAAAD0AAAA8AAAAPwAAAD4AAACBrQEAQAAAAEMAAABCAAAA\
    RQAAAEQAAABHAAAARgAAAEkAAABIAAAASwAAAEoAAABNAAAATAAAAE8AAABOAAAAUQAAAFAAAABTAAAAUgAAAFUAAABU\
    AAAAVwAAAFYAAABZAAAAWAAAAFsAAABaAAAAXQAAAFwAAABfAAAAXgAAAGEAAABgAAAAYwAAAGWkAgBlAAAAZAAAAGcA\
    AABhvAIAaQAAAGgAAABrAAAAagAAAG0AAABsAAAAbwAAAG4AAABxAAAAcAAAAHMAAAByAAAAdQAAAHQAAAB3AAAAttAC\
    AHkAAAB4AAAAewAAAHoAAAB9AAAAfAAAAH8AAAB+AAAAgQAAAIAAAACDAAAAggAAAIUAAACEAAAAhwAAAIYAAACJAAAA\
    iAAAAIsAAACKAAAAjQAAAIwAAACPAAAAjgAAAJEAAACQAAAAkwAAAJIAAACVAAAAlAAAAJcAAACWAAAAmQAAAJgAAACb\
    AAAAmgAAAJ0AAACcAAAAnwAAAJ4AAAChAAAAoAAAAKMAAACiAAAApQAAAKQAAACnAAAApgAAAKkAAACoAAAAqwAAAKoA\
    AACtAAAArAAAAK8AAACuAAAAsQAAALAAAACzAAAAsgAAALUAAAC0AAAAtwAAALYAAAC5AAAAuAAAALsAAAC6AAAAvQAA\
    ALwAAAC/AAAAvgAAAMEAAADAAAAAwwAAAMIAAADCuAEAxAAAAMcAAADGAAAAyQAAAMgAAADLAAAAygAAAM0AAADMAAAA\
    zwAAAM4AAADRAAAA0AAAANMAAADSAAAA1QAAANQAAADXAAAA1gAAANkAAADYAAAA2wAAANoAAADdAAAA3AAAAN8AAADe\
    AAAA4QAAAOAAAADjAAAA4gAAAOL0AQDjFAEA5wAAAOG0AQDpAAAA75gBAOsAAADqAAAA7QAAAOwAAADvAAAA7gAAAPEA\
    AADwAAAA8wAAAPIAAAD1AAAA9AAAAPcAAAD2AAAA+QAAAPgAAAD7AAAA+gAAAP0AAAD8AAAA/wAAAP4AAAAAIAAuLi4A\
    MeKBhDIAQQBUTQBhAGZmaQDDpADDqQDYtdmE2Ykg2KfZhNmE2Ycg2LnZhNmK2Ycg2YjYs9mE2YUA44KsAOagquW8j+S8\
    muekvgDtlZwA";

/// GPT-4o's pattern, which GPT-OSS uses.
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// GPT-4's, which Llama 3 and Qwen use with changes.
const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// CLIP's: what it matches are the words, all else is dropped.
const CLIP: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

const TEXT: &str = "The quick brown fox jumps over the lazy dog, and the dog doesn't mind it.
Where there is a will there is a way: 3 apples cost 1.50 and 12 cost 5.75.
hello world Hello World HELLO yesterday today tomorrow (nothing) [new] {old}
def f(x):
    if x:
        return x + 1
    return  0
Größe über café naïve résumé señor ångström czyż łódź 中文字符 日本語 テキスト 한국어
привет мир здравствуй مرحبا 😀 👍 – — … “quoted” ½ ① x² don't can't we'll
the of and to in is that it for was on are as with his they at be this from have or by";

/// A tokenizer that was made here.
pub(super) struct Made {
    pub(super) name: &'static str,
    pub(super) tokenizer: Tokenizer,
    /// The whole `tokenizer.json`.
    pub(super) spec: Value,
}

/// All of them.
pub(super) fn made() -> &'static [Made] {
    static MADE: LazyLock<Vec<Made>> = LazyLock::new(|| {
        shapes()
            .into_iter()
            .map(|shape| {
                let spec = shape.spec();
                Made {
                    name: shape.name,
                    tokenizer: load(&spec).unwrap_or_else(|e| panic!("{}: {e}", shape.name)),
                    spec,
                }
            })
            .collect()
    });
    &MADE
}

/// The tokenizer that a `tokenizer.json` describes.
pub(super) fn load(spec: &Value) -> crate::error::Result<Tokenizer> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), spec.to_string()).unwrap();
    Tokenizer::load(dir.path())
}

/// What a tokenizer is made of.
struct Shape {
    name: &'static str,
    model: Value,
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    added: Vec<Value>,
}

fn shape(name: &'static str, model: Value) -> Shape {
    Shape {
        name,
        model,
        normalizer: Value::Null,
        pre_tokenizer: Value::Null,
        decoder: Value::Null,
        added: Vec::new(),
    }
}

impl Shape {
    fn norm(mut self, parts: impl IntoIterator<Item = Value>) -> Self {
        self.normalizer = one("normalizers", parts);
        self
    }

    fn pre(mut self, parts: impl IntoIterator<Item = Value>) -> Self {
        self.pre_tokenizer = one("pretokenizers", parts);
        self
    }

    fn dec(mut self, parts: impl IntoIterator<Item = Value>) -> Self {
        self.decoder = one("decoders", parts);
        self
    }

    fn add(mut self, content: &str, flags: &str) -> Self {
        self.added.push(json!({
            "content": content, "special": flags.contains('s'),
            "single_word": flags.contains('w'), "lstrip": flags.contains('l'),
            "rstrip": flags.contains('r'), "normalized": flags.contains('n'),
        }));
        self
    }

    /// Trains it; the `tokenizer.json` that comes out.
    fn spec(&self) -> Value {
        let mut start = self.model.clone();
        for (key, empty) in [("vocab", json!({})), ("merges", json!([]))] {
            start[key] = empty;
        }
        let unknown = self.model["unk_token"].as_str().unwrap_or("<unk>");
        start["unk_id"] = Value::Null;
        match self.model["type"].as_str().unwrap() {
            "Unigram" => start["vocab"] = json!([[unknown, 0.0]]),
            "BPE" => {}
            _ => start["vocab"] = json!({unknown: 0}),
        }
        let whole = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": self.normalizer, "pre_tokenizer": self.pre_tokenizer,
            "post_processor": null, "decoder": self.decoder, "model": start,
        });
        let mut inner: Inner = whole.to_string().parse().unwrap();
        inner.train(&mut self.trainer(), TEXT.lines()).unwrap();
        let mut spec: Value = serde_json::from_str(&inner.to_string(false).unwrap()).unwrap();
        self.complete(&mut spec);
        spec
    }

    fn trainer(&self) -> TrainerWrapper {
        let model = &self.model;
        let text = |key: &str| model[key].as_str().map(str::to_owned);
        let special: Vec<AddedToken> = text("unk_token")
            .map(|unknown| AddedToken::from(unknown, true))
            .into_iter()
            .collect();
        match model["type"].as_str().unwrap() {
            "BPE" => {
                let mut trainer = BpeTrainer::builder()
                    .vocab_size(600)
                    .special_tokens(special)
                    .show_progress(false);
                if let Some(prefix) = text("continuing_subword_prefix") {
                    trainer = trainer.continuing_subword_prefix(prefix);
                }
                if let Some(suffix) = text("end_of_word_suffix") {
                    trainer = trainer.end_of_word_suffix(suffix);
                }
                if model["alphabet"] == true {
                    trainer = trainer.initial_alphabet(ByteLevel::alphabet().into_iter().collect());
                }
                trainer.build().into()
            }
            "WordPiece" => WordPieceTrainer::builder()
                .vocab_size(500)
                .special_tokens(special)
                .show_progress(false)
                .build()
                .into(),
            "WordLevel" => WordLevelTrainer::builder()
                .vocab_size(60)
                .special_tokens(special)
                .show_progress(false)
                .build()
                .unwrap()
                .into(),
            _ => UnigramTrainer::builder()
                .vocab_size(330)
                .special_tokens(special)
                .unk_token(text("unk_token"))
                .show_progress(false)
                .build()
                .unwrap()
                .into(),
        }
    }

    /// What training does not make: byte tokens, settings, added tokens.
    fn complete(&self, spec: &mut Value) {
        let mut added = spec["added_tokens"].as_array().unwrap().clone();
        let model = &mut spec["model"];
        if self.model["byte_fallback"] == true {
            for byte in 0u8..=255 {
                let piece = format!("<0x{byte:02X}>");
                match &mut model["vocab"] {
                    Value::Array(pieces) => pieces.push(json!([piece, -30.0])),
                    Value::Object(pieces) => {
                        pieces.insert(piece, pieces.len().into());
                    }
                    _ => unreachable!(),
                }
            }
        }
        for (key, value) in self.model.as_object().unwrap() {
            if !matches!(key.as_str(), "type" | "alphabet") && !model[key].is_array() {
                model[key] = value.clone();
            }
        }
        if model["type"] == "Unigram" {
            model.as_object_mut().unwrap().remove("unk_token");
        }
        let id = |content: &Value| match &model["vocab"] {
            Value::Array(pieces) => pieces.iter().position(|piece| piece[0] == *content),
            pieces => pieces[content.as_str().unwrap()]
                .as_u64()
                .map(|id| id as usize),
        };
        let mut next = match &model["vocab"] {
            Value::Array(pieces) => pieces.len(),
            pieces => pieces.as_object().unwrap().len(),
        };
        for token in &self.added {
            let mut token = token.clone();
            token["id"] = id(&token["content"])
                .unwrap_or_else(|| {
                    next += 1;
                    next - 1
                })
                .into();
            added.push(token);
        }
        spec["added_tokens"] = added.into();
    }
}

fn one(key: &str, parts: impl IntoIterator<Item = Value>) -> Value {
    let parts: Vec<Value> = parts.into_iter().collect();
    match <[Value; 1]>::try_from(parts) {
        Ok([part]) => part,
        Err(parts) => json!({"type": "Sequence", key: parts}),
    }
}

fn of(kind: &str) -> Value {
    json!({ "type": kind })
}

fn bytes(prefix: bool, regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true,
        "use_regex": regex})
}

fn split(pattern: &str, behavior: &str) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": false})
}

fn metaspace(scheme: &str, split: bool) -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split})
}

fn replace(pattern: &str, content: &str) -> Value {
    json!({"type": "Replace", "pattern": {"String": pattern}, "content": content})
}

fn replace_all(pattern: &str, content: &str) -> Value {
    json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": content})
}

fn bert(lowercase: bool, strip_accents: Option<bool>) -> Value {
    json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
        "strip_accents": strip_accents, "lowercase": lowercase})
}

fn strip(left: bool, right: bool) -> Value {
    json!({"type": "Strip", "strip_left": left, "strip_right": right})
}

fn prepend() -> Value {
    json!({"type": "Prepend", "prepend": "▁"})
}

fn charsmap() -> Value {
    json!({"type": "Precompiled", "precompiled_charsmap": CHARSMAP})
}

fn digits(individual: bool) -> Value {
    json!({"type": "Digits", "individual_digits": individual})
}

fn punctuation(behavior: &str) -> Value {
    json!({"type": "Punctuation", "behavior": behavior})
}

fn wordpiece() -> Value {
    json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100})
}

fn wordlevel() -> Value {
    json!({"type": "WordLevel", "unk_token": "[UNK]"})
}

fn unigram(byte_fallback: bool) -> Value {
    json!({"type": "Unigram", "unk_token": "<unk>", "unk_id": 0, "byte_fallback": byte_fallback})
}

fn bpe() -> Value {
    json!({"type": "BPE"})
}

/// BPE over bytes, all of them known.
fn byte_bpe() -> Value {
    json!({"type": "BPE", "alphabet": true})
}

/// BPE as SentencePiece has it.
fn piece_bpe() -> Value {
    json!({"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true})
}

fn bpe_unknown(fuse: bool) -> Value {
    json!({"type": "BPE", "unk_token": "<unk>", "fuse_unk": fuse})
}

fn shapes() -> Vec<Shape> {
    let spaces = || replace(" ", "▁");
    let wordpiece_decoder = || json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    let to_spaces = || [replace("▁", " "), of("ByteFallback"), of("Fuse")];
    let clip = json!({"type": "Split", "pattern": {"Regex": CLIP}, "behavior": "Removed",
        "invert": true});
    vec![
        // WordPiece.
        shape("bert, uncased", wordpiece())
            .norm([bert(true, None)])
            .pre([of("BertPreTokenizer")])
            .dec([wordpiece_decoder()])
            .add("[SEP]", "s")
            .add("[MASK]", "sl"),
        shape("bert, cased", wordpiece())
            .norm([bert(false, None)])
            .pre([of("BertPreTokenizer")])
            .dec([wordpiece_decoder()])
            .add("[SEP]", "s"),
        shape("bert, accents kept", wordpiece())
            .norm([bert(true, Some(false))])
            .pre([of("BertPreTokenizer")])
            .dec([wordpiece_decoder()]),
        shape("wordpiece, NFKC", wordpiece())
            .norm([of("NFKC"), of("Lowercase"), strip(true, true)])
            .pre([of("WhitespaceSplit"), punctuation("Isolated")])
            .add("Hello World", "n"),
        // CLIP and the first GPT: words end with a mark.
        shape("clip", {
            json!({"type": "BPE", "unk_token": "<|endoftext|>", "alphabet": true,
                "end_of_word_suffix": "</w>"})
        })
        .norm([of("NFC"), replace_all(r"\s+", " "), of("Lowercase")])
        .pre([clip, bytes(false, true)])
        .dec([bytes(false, true)]),
        shape("openai-gpt", {
            json!({"type": "BPE", "unk_token": "<unk>", "end_of_word_suffix": "</w>"})
        })
        .norm([bert(true, None)])
        .pre([of("BertPreTokenizer")])
        .dec([json!({"type": "BPEDecoder", "suffix": "</w>"})]),
        // Words.
        shape("words", wordlevel()).pre([of("Whitespace")]),
        shape("words, lower case", wordlevel())
            .norm([of("NFD"), of("Lowercase"), of("StripAccents")])
            .pre([of("WhitespaceSplit")])
            .add("yesterday", "nw"),
        shape("words between blanks", wordlevel())
            .pre([json!({"type": "CharDelimiterSplit", "delimiter": " "})]),
        shape("words, digits, signs", wordlevel())
            .norm([of("Nmt"), of("NFKC")])
            .pre([of("Whitespace"), digits(true), punctuation("Contiguous")]),
        // BPE of words.
        shape("bpe of words", bpe_unknown(false)).pre([of("Whitespace")]),
        shape("bpe of words, unknown fused", bpe_unknown(true)).pre([of("Whitespace")]),
        shape("bpe of words, unknown dropped", bpe()).pre([of("Whitespace")]),
        shape("bpe with ##", {
            json!({"type": "BPE", "unk_token": "<unk>", "continuing_subword_prefix": "##"})
        })
        .pre([of("WhitespaceSplit")]),
        // Unigram.
        shape("t5", unigram(false))
            .norm([charsmap(), replace_all(" {2,}", " ")])
            .pre([of("WhitespaceSplit"), metaspace("always", true)])
            .dec([metaspace("always", true)])
            .add("<extra_id_0>", "slr"),
        shape("xlm-r", unigram(false))
            .norm([charsmap()])
            .pre([metaspace("always", true)])
            .dec([metaspace("always", true)])
            .add("<mask>", "sl"),
        shape("albert", unigram(false))
            .norm([
                replace("``", "\""),
                replace("''", "\""),
                of("NFKD"),
                of("StripAccents"),
                of("Lowercase"),
                charsmap(),
            ])
            .pre([of("WhitespaceSplit"), metaspace("always", true)])
            .dec([metaspace("always", true)]),
        shape("pegasus", unigram(false))
            .norm([charsmap(), strip(false, true), replace_all(" {2,}", "▁")])
            .pre([metaspace("always", true)]),
        shape("unigram with bytes", unigram(true))
            .norm([of("NFKC"), of("Lowercase"), strip(true, true), replace_all(" {2,}", " ")])
            .pre([metaspace("first", false)])
            .dec([metaspace("first", false), of("ByteFallback")])
            .add("</s>", "s"),
        shape("scripts", unigram(false))
            .norm([of("NFKC")])
            .pre([of("UnicodeScripts"), metaspace("never", true)]),
        // SentencePiece's BPE.
        shape("llama-2", piece_bpe())
            .norm([prepend(), spaces()])
            .dec(to_spaces())
            .add("</s>", "s")
            .add("<|user|>", "r"),
        shape("gemma", piece_bpe())
            .norm([spaces()])
            .pre([json!({"type": "Split", "pattern": {"String": " "},
                "behavior": "MergedWithPrevious", "invert": false})])
            .dec(to_spaces())
            .add("▁▁", "")
            .add("▁▁▁▁", "")
            .add("\n", "")
            .add("<start_of_turn>", "s"),
        shape("mistral", piece_bpe())
            .pre([metaspace("first", false)])
            .dec(to_spaces())
            .add("[INST]", "s"),
        shape("stripped, with a prefix", piece_bpe())
            .norm([strip(true, true), of("NFC"), prepend(), spaces()])
            .dec(to_spaces())
            .add("</s>", "s"),
        shape("blanks squeezed", bpe_unknown(true))
            .norm([of("NFC"), replace_all(" {2,}", "▁")])
            .pre([metaspace("always", true)]),
        // Bytes.
        shape("gpt-2", byte_bpe())
            .pre([bytes(false, true)])
            .dec([bytes(false, true)])
            .add("<|endoftext|>", "s"),
        shape("roberta", byte_bpe())
            .pre([bytes(true, true)])
            .dec([bytes(true, true)])
            .add("<mask>", "sl"),
        shape("falcon", byte_bpe())
            .pre([
                punctuation("Contiguous"),
                bytes(false, true),
                digits(false),
                split("[0-9][0-9][0-9]", "Isolated"),
            ])
            .dec([bytes(false, true)]),
        shape("starcoder", byte_bpe())
            .pre([digits(true), bytes(false, true)])
            .dec([bytes(false, true)])
            .add("<fim_prefix>", "s")
            .add("    ", "n"),
        shape("deepseek", byte_bpe())
            .pre([
                split(r"\p{N}{1,3}", "Isolated"),
                split("[一-龥\u{3040}-ゟ゠-ヿ]+", "Isolated"),
                split(r"[!-/:-~]+[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", "Isolated"),
                bytes(false, false),
            ])
            .dec([bytes(false, false)])
            .add("<｜begin▁of▁sentence｜>", "s"),
        shape("gpt-oss", byte_bpe())
            .pre([split(O200K, "Isolated"), bytes(false, false)])
            .dec([bytes(false, false)])
            .add("<|channel|>", "s"),
        shape("llama-3", {
            json!({"type": "BPE", "alphabet": true, "ignore_merges": true})
        })
        .pre([split(CL100K, "Isolated"), bytes(false, false)])
        .dec([bytes(false, false)]),
        shape("qwen", byte_bpe())
            .norm([of("NFC")])
            .pre([split(CL100K, "Isolated"), bytes(false, false)])
            .dec([bytes(false, false)])
            .add("<|im_end|>", "s"),
        shape("bytes of NFKC", byte_bpe())
            .norm([of("NFKC"), of("Lowercase")])
            .pre([bytes(true, true)])
            .dec([bytes(true, true)])
            .add("<|end|>", "sr"),
        shape("bytes of NFD", byte_bpe())
            .norm([of("NFD")])
            .pre([bytes(false, true)])
            .dec([bytes(false, true)]),
        shape("bytes, some unknown", {
            json!({"type": "BPE", "unk_token": "<unk>", "fuse_unk": false})
        })
        .pre([bytes(false, true)])
        .dec([bytes(false, true)]),
        shape("bytes, some dropped", bpe())
            .pre([bytes(false, true)])
            .dec([bytes(false, true)]),
        shape("bytes by the normaliser", byte_bpe())
            .norm([of("NFC"), of("ByteLevel")])
            .dec([bytes(false, false)]),
        shape("blooms", byte_bpe())
            .pre([
                split(r" ?[^(\s|[.,!?…。，、।۔،])]+", "Isolated"),
                bytes(false, false),
            ])
            .dec([bytes(false, false)]),
        shape("words of four", bpe_unknown(false))
            .pre([json!({"type": "FixedLength", "length": 4})]),
    ]
}
