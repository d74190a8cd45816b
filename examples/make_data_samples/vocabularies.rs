//! The five tokenizers, trained by the `tokenizers` crate: three byte-level BPE, one
//! SentencePiece-style BPE with byte fallback, one unigram.
//!
//! The crate's trainers walk hash maps, whose order changes from run to run. BPE survives that:
//! counts are whole numbers, and ties are broken by token ids, which are given out in a sorted
//! order. Unigram does not: sums of floats change in the last bits, and characters that training
//! dropped are put back in hash order. So the unigram trainer gets sorted words and one thread, and
//! [`settle`] rounds its scores and orders what is left open.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::models::unigram::{Unigram, UnigramTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer, Trainer,
};

/// A Hugging Face tokenizer folder, as texts.
pub struct TokenizerFolder {
    /// `tokenizer.json`.
    pub tokenizer: String,
    /// `tokenizer_config.json`.
    pub config: String,
    /// The same, loaded.
    pub loaded: Tokenizer,
    /// Number of ids.
    pub size: usize,
    /// Id of the token that begins a text.
    pub bos: u32,
    /// Id of the token that ends an answer.
    pub eos: u32,
    /// Id of the padding.
    pub pad: u32,
}

/// Names of the special tokens of a vocabulary.
struct Specials {
    bos: &'static str,
    eos: &'static str,
    pad: &'static str,
    unk: Option<&'static str>,
}

/// ChatML; `bos` is written first where the family does so.
fn chatml(bos: bool) -> String {
    let head = if bos { "{{ bos_token }}" } else { "" };
    format!(
        "{head}{{% for message in messages %}}{{{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}}}{{% endfor %}}{{% if add_generation_prompt %}}{{{{ '<|im_start|>assistant\\n' }}}}{{% endif %}}"
    )
}

const TURNS: &str = "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>assistant\\n' }}{% endif %}";

/// What a byte-level tokenizer never joins.
#[derive(Clone, Copy)]
pub enum Cut {
    /// Digits (Qwen2).
    Digits,
    /// More than three digits (Llama 3).
    Threes,
    /// Words and numbers; it joins the parts of a name (`exams.exam_id`), a word and the names
    /// that follow it, and numbers and their leading space (GPT-2).
    Words,
}

/// Letters with their leading space, numbers, punctuation, line ends.
fn split_pattern(cut: Cut) -> String {
    let (more, numbers) = match cut {
        Cut::Digits => ("", r"\p{N}"),
        Cut::Threes => ("", r"\p{N}{1,3}"),
        Cut::Words => (r"(?:[._]\p{L}+|(?<=\p{Ll}) \p{Lu}\p{Ll}+)*", r" ?\p{N}+"),
    };
    format!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+{more}|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
}

/// The pieces of text that the pre-tokenizer of `spec` never joins.
fn words(pre_tokenizer: &impl PreTokenizer, text: &str) -> tokenizers::Result<Vec<String>> {
    let mut split = PreTokenizedString::from(text);
    pre_tokenizer.pre_tokenize(&mut split)?;
    let splits = split.get_splits(OffsetReferential::Original, OffsetType::Byte);
    Ok(splits
        .into_iter()
        .map(|(word, _, _)| word.to_owned())
        .collect())
}

fn pre_tokenizer(spec: &Value) -> Result<tokenizers::PreTokenizerWrapper> {
    Ok(serde_json::from_value(spec.clone())?)
}

/// Byte-level BPE, as GPT-2, Llama 3 and Qwen2 have it.
pub fn byte_level(
    texts: &[String],
    size: usize,
    cut: Cut,
    bos: &'static str,
) -> Result<TokenizerFolder> {
    let pre = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": split_pattern(cut)}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
    ]});
    let splitter = pre_tokenizer(&pre)?;
    let mut names = vec![bos, "<|im_start|>", "<|im_end|>"];
    let with_bos = bos != "<|endoftext|>";
    if with_bos {
        names.insert(1, "<|endoftext|>");
    }
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(size)
        .min_frequency(2)
        .special_tokens(names.iter().map(|name| special(name)).collect())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    trainer
        .feed(texts.iter(), |text| words(&splitter, text))
        .map_err(|e| anyhow!(e))?;
    let mut model = BPE::default();
    trainer.train(&mut model).map_err(|e| anyhow!(e))?;
    let model = serde_json::to_value(&model)?;

    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
    let (post, template) = if with_bos {
        (
            json!({"type": "Sequence", "processors": [byte_level, adds_bos(bos, 0)]}),
            chatml(true),
        )
    } else {
        (byte_level.clone(), chatml(false))
    };
    let specials = Specials {
        bos,
        eos: "<|im_end|>",
        pad: "<|endoftext|>",
        unk: None,
    };
    folder(
        &names,
        &specials,
        "PreTrainedTokenizerFast",
        &template,
        json!({
            "normalizer": null, "pre_tokenizer": pre, "post_processor": post, "decoder": byte_level, "model": model,
        }),
    )
}

/// SentencePiece-style BPE with byte fallback, as Llama 2, Mistral and InternLM2 have it.
pub fn sentencepiece_bpe(texts: &[String], size: usize) -> Result<TokenizerFolder> {
    let names = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"];
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let first: Vec<String> = names
        .iter()
        .map(|name| (*name).to_owned())
        .chain(bytes)
        .collect();
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(size)
        .min_frequency(2)
        .special_tokens(first.iter().map(|name| special(name)).collect())
        .initial_alphabet((' '..='~').filter(|char| *char != ' ').collect())
        .build();
    trainer
        .feed(texts.iter(), |text| Ok(sentencepiece_words(text)))
        .map_err(|e| anyhow!(e))?;
    let mut model = BPE::default();
    trainer.train(&mut model).map_err(|e| anyhow!(e))?;
    let mut model = serde_json::to_value(&model)?;
    model["unk_token"] = json!("<unk>");
    model["fuse_unk"] = json!(true);
    model["byte_fallback"] = json!(true);

    let specials = Specials {
        bos: "<s>",
        eos: "<|im_end|>",
        pad: "</s>",
        unk: Some("<unk>"),
    };
    folder(
        &names,
        &specials,
        "PreTrainedTokenizerFast",
        &chatml(true),
        json!({
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ]},
            "pre_tokenizer": null,
            "post_processor": adds_bos("<s>", 1),
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ]},
            "model": model,
        }),
    )
}

/// The words that merges never cross: `▁` begins one, digits and line ends stand alone, and a
/// change between letters and punctuation ends one. The tokenizer itself does not split.
fn sentencepiece_words(text: &str) -> Vec<String> {
    #[derive(PartialEq, Clone, Copy)]
    enum Class {
        Space,
        Letter,
        Other,
        Alone,
    }
    let mut words: Vec<String> = Vec::new();
    let mut last = Class::Alone;
    for char in std::iter::once(' ').chain(text.chars()) {
        let class = match char {
            ' ' => Class::Space,
            '\n' | '0'..='9' => Class::Alone,
            _ if char.is_alphabetic() || char == '_' => Class::Letter,
            _ => Class::Other,
        };
        let joins = class == last && class != Class::Alone
            || last == Class::Space && matches!(class, Class::Letter | Class::Other);
        let shown = if char == ' ' { '▁' } else { char };
        match words.last_mut() {
            Some(word) if joins => word.push(shown),
            _ => words.push(shown.to_string()),
        }
        last = class;
    }
    // A byte token stands for the line end.
    words.retain(|word| word != "\n");
    words
}

/// Unigram with byte fallback and its own special tokens.
pub fn unigram(texts: &[String], size: usize) -> Result<TokenizerFolder> {
    let pre = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        {"type": "Split", "pattern": {"String": "\n"}, "behavior": "Isolated", "invert": false},
        {"type": "Punctuation", "behavior": "Isolated"},
    ]});
    let splitter = pre_tokenizer(&pre)?;
    let names = [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "<start_of_turn>",
        "<end_of_turn>",
    ];
    let reserved = names.len() + 256;
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for text in texts {
        for word in words(&splitter, text).map_err(|e| anyhow!(e))? {
            *counts.entry(word).or_default() += 1;
        }
    }
    let trainer = UnigramTrainerBuilder::default()
        .show_progress(false)
        .vocab_size((size - reserved) as u32)
        .initial_alphabet((' '..='~').filter(|char| *char != ' ').collect())
        .max_piece_length(12)
        .build()
        .context("unigram trainer")?;
    let mut model = Unigram::default();
    // Candidates are substrings that occur with different characters after them, and a word's end is
    // none: each word is given once more with `▁` behind it, or no whole word could be a piece.
    let sentences: Vec<(String, u32)> = counts
        .into_iter()
        .flat_map(|(word, count)| [(format!("{word}▁"), 1), (word, count)])
        .collect();
    trainer
        .do_train(sentences, &mut model)
        .map_err(|e| anyhow!(e))?;
    let special = names.iter().map(|name| ((*name).to_owned(), 0.0));
    // Never chosen for text that happens to read `<0x41>`.
    let bytes = (0..=255u8).map(|byte| (format!("<0x{byte:02X}>"), -200.0));
    let vocab: Vec<(String, f64)> = special
        .chain(bytes)
        .chain(settle(model.iter().cloned()))
        .collect();

    let specials = Specials {
        bos: "<bos>",
        eos: "<end_of_turn>",
        pad: "<pad>",
        unk: Some("<unk>"),
    };
    folder(
        &names,
        &specials,
        "PreTrainedTokenizerFast",
        TURNS,
        json!({
            "normalizer": null,
            "pre_tokenizer": pre,
            "post_processor": adds_bos("<bos>", 2),
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ]},
            "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": true},
        }),
    )
}

/// The trained pieces in an order and with scores that every run gives: rounded to 1/1000, and
/// the characters that training had dropped (they come back just above the lowest score, in
/// hash order) below all others, in the order of their code points.
fn settle(pieces: impl Iterator<Item = (String, f64)>) -> Vec<(String, f64)> {
    let pieces: Vec<(String, f64)> = pieces.collect();
    let lowest = pieces
        .iter()
        .map(|(_, score)| *score)
        .fold(f64::INFINITY, f64::min);
    let rounded = |score: f64| (score * 1000.0).round() / 1000.0;
    let (mut rare, mut usual): (Vec<_>, Vec<_>) = pieces
        .into_iter()
        .partition(|(piece, score)| piece.chars().count() == 1 && *score < lowest + 0.05);
    for (_, score) in &mut usual {
        *score = rounded(*score);
    }
    usual.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    rare.sort_by(|a, b| a.0.cmp(&b.0));
    for (_, score) in &mut rare {
        *score = rounded(lowest - 1.0);
    }
    usual.into_iter().chain(rare).collect()
}

fn special(name: &str) -> AddedToken {
    AddedToken::from(name.to_owned(), true)
}

fn adds_bos(bos: &str, id: u32) -> Value {
    let (start, text) = (
        json!({"SpecialToken": {"id": bos, "type_id": 0}}),
        json!({"Sequence": {"id": "A", "type_id": 0}}),
    );
    let mut ids = serde_json::Map::new();
    ids.insert(
        bos.to_owned(),
        json!({"id": bos, "ids": [id], "tokens": [bos]}),
    );
    json!({
        "type": "TemplateProcessing",
        "single": [start, text],
        "pair": [start, text, start, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": ids,
    })
}

fn folder(
    names: &[&str],
    specials: &Specials,
    class: &str,
    template: &str,
    parts: Value,
) -> Result<TokenizerFolder> {
    let added: Vec<Value> = names
        .iter()
        .enumerate()
        .map(|(id, name)| {
            json!({
                "id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true,
            })
        })
        .collect();
    let mut spec =
        json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added});
    if let (Some(spec), Value::Object(parts)) = (spec.as_object_mut(), parts) {
        spec.extend(parts);
    }
    let tokenizer = serde_json::to_string(&spec)?;
    let loaded = Tokenizer::from_str(&tokenizer).map_err(|e| anyhow!(e))?;
    let id = |name: &str| {
        loaded
            .token_to_id(name)
            .with_context(|| format!("no token `{name}`"))
    };
    let (bos, eos, pad) = (id(specials.bos)?, id(specials.eos)?, id(specials.pad)?);
    for (expected, name) in names.iter().enumerate() {
        ensure!(
            id(name)? as usize == expected,
            "`{name}` is not token {expected}"
        );
    }
    let mut config = json!({
        "tokenizer_class": class,
        "bos_token": specials.bos,
        "eos_token": specials.eos,
        "pad_token": specials.pad,
    });
    if let Some(unk) = specials.unk {
        config["unk_token"] = json!(unk);
    }
    config["model_max_length"] = json!(crate::models::CONTEXT);
    config["clean_up_tokenization_spaces"] = json!(false);
    config["chat_template"] = json!(template);
    let size = loaded.get_vocab_size(true);
    let config = serde_json::to_string_pretty(&config)? + "\n";
    Ok(TokenizerFolder {
        tokenizer,
        config,
        size,
        bos,
        eos,
        pad,
        loaded,
    })
}

impl TokenizerFolder {
    /// The ids of a text, without special tokens.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.loaded.encode(text, false).map_err(|e| anyhow!(e))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// An error unless the text survives encoding and decoding.
    pub fn check_round_trip(&self, text: &str) -> Result<()> {
        let ids = self.encode(text)?;
        let back = self.loaded.decode(&ids, false).map_err(|e| anyhow!(e))?;
        ensure!(
            back == text,
            "a text does not survive the tokenizer:\n  {text:?}\n  {back:?}"
        );
        Ok(())
    }
}
